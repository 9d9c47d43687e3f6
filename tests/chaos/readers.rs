//! Readers that fill the caches, and watchers that record invalidations.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::World;
use super::caches::NAMES;
use super::holds::Held;
use super::tables::{Reader, TABLES, Table};
use super::writers::HOT_NUMBERS;
use crate::support::postgres::Client;

/// The most keys that are read and cached at once.
const FILL_KEYS_MAX: usize = 100;
/// The pause between two fills.
const PAUSE: Duration = Duration::from_millis(2);
/// The cached value of a key without rows: readers also cache "not found".
pub const NOTHING: &str = "none";

/// Reads through one cache until the world stops, as an application does: a miss is read from the primary and cached.
/// Nothing here times out, because a SET that a reader had abandoned could be executed after its key is released.
pub fn fill(world: Arc<World>, mut rng: Rng, one: usize) {
    let tables: Vec<usize> = (0..TABLES.len()).filter(|&table| TABLES[table].caches.contains(&one)).collect();
    let (Some(mut sql), Some(mut cache)) = (world.connect(), world.cache(one)) else { return };
    while !world.stops() {
        let table = tables[rng.usize(..tables.len())];
        let most = if rng.bool() { HOT_NUMBERS } else { TABLES[table].numbers };
        let wanted: Vec<u32> = (0..rng.usize(1..=FILL_KEYS_MAX)).map(|_| rng.u32(..most)).collect();
        let held = world.holds.free_of(table, wanted);
        let filled = fill_held(&world, &held, &mut sql, (one, &mut cache));
        drop(held);
        if let Err(Away) = filled {
            let (Some(fresh), Some(again)) = (world.connect(), world.cache(one)) else { return };
            (sql, cache) = (fresh, again);
        }
        std::thread::sleep(PAUSE);
    }
}

/// One of the servers is down.
struct Away;

fn fill_held(
    world: &World,
    held: &Held,
    sql: &mut Client,
    (one, cache): (usize, &mut redis::Connection),
) -> Result<(), Away> {
    let its = &TABLES[held.table];
    if held.numbers.is_empty() {
        return Ok(());
    }
    let keys: Vec<String> = held.numbers.iter().map(|&number| its.key(number)).collect();
    // The read protocol requires the pointer before the row.
    let entries = entries(its, &keys, cache).map_err(|_| Away)?;
    let found: Vec<Option<String>> = redis::cmd("MGET").arg(&entries).query(cache).map_err(|_| Away)?;
    // A hit is not read again, so that a stale value stays stale.
    let missing: Vec<usize> = (0..entries.len()).filter(|&at| found[at].is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let numbers: Vec<u32> = missing.iter().map(|&at| held.numbers[at]).collect();
    let rows = sql.try_rows(&its.values(Some(&numbers))).map_err(|_| Away)?;
    let values: HashMap<&str, &str> = rows.iter().map(|row| (row[0].as_str(), row[1].as_str())).collect();
    let mut set = redis::cmd("MSET");
    for &at in &missing {
        set.arg(&entries[at]).arg(*values.get(keys[at].as_str()).unwrap_or(&NOTHING));
    }
    let outcome = set.query::<()>(cache);
    for &at in &missing {
        let (key, entry) = (&keys[at], &entries[at]);
        let value = values.get(key.as_str()).unwrap_or(&NOTHING);
        world.history.of_keys([key], &format!("{}: cached {value} as {entry}: {outcome:?}", NAMES[one]));
    }
    outcome.map_err(|_| Away)?;
    world.history.count("keys: cached", missing.len());
    world.history.count("keys: found in a cache", keys.len() - missing.len());
    Ok(())
}

/// The names under which the values of `keys` are cached.
fn entries(its: &Table, keys: &[String], cache: &mut redis::Connection) -> redis::RedisResult<Vec<String>> {
    if its.reader == Reader::Plain {
        return Ok(keys.to_vec());
    }
    let (seconds, micros): (u64, u64) = redis::cmd("TIME").query(cache)?;
    let mut pipe = redis::pipe();
    for key in keys {
        let pointer = format!("{key}:version");
        pipe.cmd("SET").arg(&pointer).arg(seconds * 1_000_000 + micros).arg("NX").ignore();
        pipe.cmd("GET").arg(&pointer);
    }
    let pointers: Vec<u64> = pipe.query(cache)?;
    Ok(keys.iter().zip(pointers).map(|(key, pointer)| format!("{key}:v{pointer}")).collect())
}

/// Records each deleted key that the keyspace events report.
pub fn watch(world: Arc<World>, one: usize) {
    while !world.stops() {
        if let Some(mut cache) = world.cache(one) {
            // Returns when the connection ends.
            let _ = listen(&world, one, &mut cache);
        }
    }
}

fn listen(world: &World, one: usize, cache: &mut redis::Connection) -> redis::RedisResult<()> {
    cache.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut channel = cache.as_pubsub();
    channel.subscribe("__keyevent@0__:del")?;
    while !world.stops() {
        match channel.get_message() {
            Ok(message) => {
                let key: String = message.get_payload()?;
                // An entry under a version is recorded under its key; otherwise every version would be a key of its
                // own.
                let key = key.rsplit_once(":v").map_or(key.as_str(), |(key, _)| key);
                world.history.of_keys([key], &format!("{}: invalidated", NAMES[one]));
                world.history.count("keys: invalidated (heard of)", 1);
            }
            Err(error) if error.is_timeout() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl World {
    /// A connection to a cache, without time-outs. `None` if the world stops first.
    pub fn cache(&self, one: usize) -> Option<redis::Connection> {
        let client = redis::Client::open(self.cache_urls[one].as_str()).expect("url");
        loop {
            match client.get_connection() {
                Ok(connection) => return Some(connection),
                Err(_) if self.stops() => return None,
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}
