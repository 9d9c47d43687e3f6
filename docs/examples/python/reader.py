"""Reads through a cache that coherd keeps coherent with Postgres. See docs/reading.md.

If the cache is down or slow, a request waits for a time-out and then reads the database.
On Redis 6, `coherd lua --eval get` prints the script to register instead of the function.
"""

import os
import re
import secrets
import sys
import time

import psycopg
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

LEASE_MS = 10_000  # more than the slowest read of the database, which statement_timeout bounds
VALUE_MS = 3_600_000
PATIENCE_S = 0.2  # how long to wait for another reader that is loading the same key


def leased(cache, key, load):
    """The value of a key of a `delete` rule. `load` reads the database in a snapshot of its own."""
    lease = f"{key}:lease" if re.match(r"[^{]*\{[^}]+\}", key) else f"{{{key}}}:lease"
    deadline = time.monotonic() + PATIENCE_S
    try:
        while True:
            nonce = secrets.token_hex(16)
            found, content, *first = cache.fcall("coherd_get", 2, key, lease, LEASE_MS, nonce)
            if found:
                return content
            if first[0] or time.monotonic() > deadline:
                break
            time.sleep(0.01)
    except redis.RedisError:
        return load()
    value = load()
    try:
        # 0 means refused: the row has changed in the meantime. This reader may still use what it read.
        cache.fcall("coherd_fill", 2, key, lease, content, VALUE_MS, value)
    except redis.RedisError:
        pass  # not stored
    return value


def versioned(cache, key, load):
    """The value of a key of a `bump` rule. `load` is as for leased()."""
    try:
        version = cache.fcall("coherd_version", 1, f"{key}:version")
        entry = f"{key}:v{version}"
        value = cache.get(entry)
    except redis.RedisError:
        return load()
    if value is not None:
        return value
    value = load()
    try:
        cache.set(entry, value, px=VALUE_MS)
    except redis.RedisError:
        pass  # not stored
    return value


def own(cache, record, key, token, load):
    """Like leased(), but never older than the commit after which `token` was taken. `load` reads the primary."""
    try:
        settled = int(cache.hget(record, "settled") or 0)  # read before the value, and from the same server
    except redis.RedisError:
        return load()
    return leased(cache, key, load) if settled >= token else load()


def main():
    cache = redis.Redis.from_url(
        os.environ["REDIS_URL"],
        decode_responses=True,
        socket_connect_timeout=0.2,
        socket_timeout=0.2,
        retry=Retry(NoBackoff(), 1),
    )
    record = os.environ.get("COHERD_RECORD", "coherd:coherd")  # coherd:<slot>
    # Each statement is a transaction of its own, so it sees what was committed before it began.
    database = psycopg.connect(
        os.environ["DATABASE_URL"], autocommit=True, connect_timeout=2, options="-c statement_timeout=5s"
    )

    def row(table, id):
        # The row as JSON. A missing row is "null", and is cached as well: coherd invalidates on INSERT too.
        query = f"SELECT coalesce((SELECT to_json(t) FROM {table} t WHERE id = %s), 'null')::text"
        return database.execute(query, [id]).fetchone()[0]

    def rename(id, name):
        database.execute("UPDATE users SET name = %s WHERE id = %s", [name, id])
        # Take the token after COMMIT, in a transaction of its own. Keep it in the session.
        return database.execute("SELECT coherd.token()").fetchone()[0]

    commands = {
        "user": lambda id: leased(cache, f"user:{id}", lambda: row("users", id)),
        "product": lambda id: versioned(cache, f"product:{id}", lambda: row("products", id)),
        "rename": rename,
        "own": lambda id, token: own(cache, record, f"user:{id}", int(token), lambda: row("users", id)),
    }
    for line in sys.stdin:
        command, *arguments = line.split()
        print(commands[command](*arguments), flush=True)


if __name__ == "__main__":
    main()
