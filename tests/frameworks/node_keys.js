// Prints a line of keys.tsv for each key that a Node framework writes: node node_keys.js FRAMEWORK PORT, where the
// packages are in NODE_PATH.
'use strict';
const fs = require('fs');
const path = require('path');
const http = require('http');

const [framework, port] = [process.argv[2], Number(process.argv[3])];
const url = `redis://127.0.0.1:${port}`;
const server = require('redis').createClient({ port });
const ask = (...words) =>
  new Promise((resolve, reject) =>
    server.send_command(words[0], words.slice(1), (error, answer) => (error ? reject(error) : resolve(answer))));

const version = (name) =>
  JSON.parse(fs.readFileSync(path.join(process.env.NODE_PATH, name, 'package.json'), 'utf8')).version;

// Runs `write` against an empty server and prints the one key that is then there.
async function line(name, what, template, row, write, hash = '') {
  await ask('FLUSHALL');
  await write();
  const keys = await ask('KEYS', '*');
  if (keys.length !== 1) throw new Error(`${name}, ${what}: one key was expected, found ${JSON.stringify(keys)}`);
  console.log([name, version(name), what, template, hash, JSON.stringify(row), keys[0]].join('\t'));
}

const user = { id: '7' };

async function keyv() {
  const Keyv = require('keyv').default;
  const KeyvRedis = require('@keyv/redis').default;
  const { createKeyv } = require('@keyv/redis');
  const cases = [
    ['new Keyv(new KeyvRedis(url)).set', new Keyv(new KeyvRedis(url)), 'keyv::keyv:user:{id}'],
    ['new Keyv(new KeyvRedis(url), { namespace: shop }).set', new Keyv(new KeyvRedis(url), { namespace: 'shop' }), 'shop::shop:user:{id}'],
    ['new Keyv(new KeyvRedis(url), { useKeyPrefix: false }).set',
      new Keyv(new KeyvRedis(url), { useKeyPrefix: false }), 'keyv::user:{id}'],
    ['createKeyv(url).set', createKeyv(url), 'user:{id}'],
    ['createKeyv(url, { namespace: shop }).set', createKeyv(url, { namespace: 'shop' }), 'shop::user:{id}'],
  ];
  for (const [what, cache, template] of cases) await line('@keyv/redis', what, template, user, () => cache.set('user:7', 1));
}

async function cacheManager() {
  const Keyv = require('keyv').default;
  const KeyvRedis = require('@keyv/redis').default;
  const { createKeyv } = require('@keyv/redis');
  const { createCache } = require('cache-manager');
  const cases = [
    ['createCache({ stores: [new Keyv(new KeyvRedis(url))] }).set', new Keyv(new KeyvRedis(url)), 'keyv::keyv:user:{id}'],
    ['createCache({ stores: [createKeyv(url)] }).set', createKeyv(url), 'user:{id}'],
  ];
  for (const [what, store, template] of cases) {
    const cache = createCache({ stores: [store] });
    await line('cache-manager', what, template, user, () => cache.set('user:7', 1));
  }
  const texts = createCache({ stores: [createKeyv(url)] });
  await line('cache-manager', 'set with a boolean in a template literal', 'users:active:{active|bool:true,false}', { active: 't' },
    () => texts.set(`users:active:${true}`, 1));
  await line('cache-manager', 'set with null in a template literal', 'users:boss:{boss_id|default:null}', { boss_id: null },
    () => texts.set(`users:boss:${null}`, 1));
  await line('cache-manager', 'set with toISOString in a template literal', 'at:{at|date:%Y-%m-%dT%H:%M:%S.%3fZ}',
    { at: '2026-02-03 04:05:06.789+00' }, () => texts.set(`at:${new Date(Date.UTC(2026, 1, 3, 4, 5, 6, 789)).toISOString()}`, 1));
  const wrapped = createCache({ stores: [createKeyv(url)] });
  await line('cache-manager', 'wrap', 'user:{id}', user, () => wrapped.wrap('user:7', async () => 1));
}

async function cacheable() {
  const { Cacheable } = require('cacheable');
  const { createKeyv } = require('@keyv/redis');
  const KeyvRedis = require('@keyv/redis').default;
  const plain = new Cacheable({ secondary: createKeyv(url) });
  await line('cacheable', 'secondary: createKeyv(url)', 'user:{id}', user, () => plain.set('user:7', 1));
  const adapter = new Cacheable({ secondary: new KeyvRedis(url) });
  await line('cacheable', 'secondary: new KeyvRedis(url)', 'keyv::keyv:user:{id}', user, () => adapter.set('user:7', 1));
  const named = new Cacheable({ secondary: createKeyv(url), namespace: 'shop' });
  await line('cacheable', 'secondary: createKeyv(url), namespace: shop', 'shop::user:{id}', user, () => named.set('user:7', 1));
}

async function apicache() {
  const express = require('express');
  const cache = require('apicache').options({ redisClient: server });
  const app = express();
  const get = (from) => new Promise((resolve, reject) => {
    const listener = app.listen(0, '127.0.0.1', () => {
      http.get({ port: listener.address().port, path: from }, (answer) => {
        answer.resume();
        // apicache writes to Redis behind the answer.
        answer.on('end', () => { listener.close(); setTimeout(resolve, 200); });
      }).on('error', reject);
    });
  });
  app.get('/users/:id', cache.middleware('1 hour'), (_, answer) => answer.json({}));
  await line('apicache', 'middleware', '/users/{id}', user, () => get('/users/7'));
  await line('apicache', 'middleware, a query', '/users/{id}\\?lang={lang}', { id: '7', lang: 'en' }, () => get('/users/7?lang=en'));
  const keyed = cache.newInstance({ redisClient: server, appendKey: (request) => request.method });
  app.get('/posts/:id', keyed.middleware('1 hour'), (_, answer) => answer.json({}));
  await line('apicache', 'middleware, appendKey', '/posts/{id}$$appendKey=GET', user, () => get('/posts/7'));
}

const run = { '@keyv/redis': keyv, 'cache-manager': cacheManager, cacheable, apicache };
run[framework]().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
