// Reads through a cache that coherd keeps coherent with Postgres. See docs/reading.md.
//
// If the cache is down or slow, a request waits for a time-out and then reads the database.
// On Redis 6, `coherd lua --eval get` prints the script for defineCommand(), instead of the function.

import { randomBytes } from "node:crypto";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { Redis } from "ioredis";
import pg from "pg";

const LEASE_MS = 10_000; // more than the slowest read of the database, which statement_timeout bounds
const VALUE_MS = 3_600_000;
const PATIENCE_MS = 200; // how long to wait for another reader that is loading the same key

/** The value of a key of a `delete` rule. `load` reads the database in a snapshot of its own. */
export async function leased(cache, key, load) {
  const lease = /^[^{]*\{[^}]+\}/.test(key) ? `${key}:lease` : `{${key}}:lease`;
  const deadline = performance.now() + PATIENCE_MS;
  let token;
  try {
    for (;;) {
      const nonce = randomBytes(16).toString("hex");
      const [found, content, first] = await cache.fcall("coherd_get", 2, key, lease, LEASE_MS, nonce);
      if (found) return content;
      token = content;
      if (first || performance.now() > deadline) break;
      await sleep(10);
    }
  } catch {
    return load();
  }
  const value = await load();
  // 0 means refused: the row has changed in the meantime. This reader may still use what it read. After an error, the
  // value is not stored either.
  await cache.fcall("coherd_fill", 2, key, lease, token, VALUE_MS, value).catch(() => 0);
  return value;
}

/** The value of a key of a `bump` rule. `load` is as for leased(). */
export async function versioned(cache, key, load) {
  let entry, cached;
  try {
    const version = await cache.fcall("coherd_version", 1, `${key}:version`);
    entry = `${key}:v${version}`;
    cached = await cache.get(entry);
  } catch {
    return load();
  }
  if (cached !== null) return cached;
  const value = await load();
  await cache.set(entry, value, "PX", VALUE_MS).catch(() => null); // after an error it is not stored
  return value;
}

/** Like leased(), but never older than the commit after which BigInt `token` was taken. `load` reads the primary. */
export async function own(cache, record, key, token, load) {
  let settled;
  try {
    settled = BigInt((await cache.hget(record, "settled")) ?? 0); // read before the value, and from the same server
  } catch {
    return load();
  }
  return settled >= token ? leased(cache, key, load) : load();
}

async function main() {
  const cache = new Redis(process.env.REDIS_URL, {
    connectTimeout: 200,
    commandTimeout: 200,
    enableOfflineQueue: false, // fail at once while there is no connection
    maxRetriesPerRequest: 0,
    retryStrategy: (attempt) => Math.min(50 * attempt, 1000),
  });
  cache.on("error", () => {}); // each call fails with it too
  const record = process.env.COHERD_RECORD ?? "coherd:coherd"; // coherd:<slot>
  const database = new pg.Pool({
    connectionString: process.env.DATABASE_URL,
    connectionTimeoutMillis: 2000,
    statement_timeout: 5000,
  });

  // Outside BEGIN each statement is a transaction of its own, so it sees what was committed before it began.
  async function row(table, id) {
    // The row as JSON. A missing row is "null", and is cached as well: coherd invalidates on INSERT too.
    const query = `SELECT coalesce((SELECT to_json(t) FROM ${table} t WHERE id = $1), 'null')::text AS json`;
    return (await database.query(query, [id])).rows[0].json;
  }

  async function rename(id, name) {
    await database.query("UPDATE users SET name = $1 WHERE id = $2", [name, id]);
    // Take the token after COMMIT, in a transaction of its own. Keep it in the session: pg returns a bigint as text.
    return (await database.query("SELECT coherd.token()")).rows[0].token;
  }

  const commands = {
    user: (id) => leased(cache, `user:${id}`, () => row("users", id)),
    product: (id) => versioned(cache, `product:${id}`, () => row("products", id)),
    rename,
    own: (id, token) => own(cache, record, `user:${id}`, BigInt(token), () => row("users", id)),
  };
  for await (const line of createInterface({ input: process.stdin })) {
    const [command, ...args] = line.split(" ");
    console.log(await commands[command](...args));
  }
  cache.disconnect();
  await database.end();
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) await main();
