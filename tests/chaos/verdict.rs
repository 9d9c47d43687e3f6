//! The end of a run: fixes everything, waits until all is settled, and compares every cached key of every target with
//! the database.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::caches::Cache;
use super::faults::Faults;
use super::history::History;
use super::readers::NOTHING;
use super::tables::{Reader, TABLES, Table};
use crate::support::Daemon;
use crate::support::postgres::Client;

/// How long settling may take after the last fault.
const SETTLE_MOST: Duration = Duration::from_secs(90);
/// How many stale keys are reported with their history.
const TOLD_MAX: usize = 5;

/// The age of the daemon's knowledge of the catalogue, in `/status`.
const CATALOGUE_AGE: &str = "catalogue_age_seconds";
/// The fallback if the status lacks that age: the daemon watches the catalogue every second.
const WATCHED_AFTER: Duration = Duration::from_secs(3);

/// Waits until the daemon works, has seen the present catalogue, and has settled every commit.
pub fn settle(faults: &mut Faults, sql: &mut Client) {
    let changed = faults.world.catalogue_changed_at();
    arrive(faults, "watched the catalogue after the last fault", |faults| {
        faults.daemon.http("/readyz").0 == 200 && has_watched_since(&faults.daemon, changed)
    });
    // A flush that resulted from the look is settled when a later message is.
    sql.run("SELECT pg_logical_emit_message(true, 'chaos', 'the end')");
    let wait = format!("SELECT coherd.wait(timeout => '2s', slot => '{}')", faults.world.database);
    arrive(faults, "settled all that is committed", |faults| {
        faults.daemon.http("/readyz").0 == 200 && sql.try_rows(&wait).is_ok_and(|rows| rows[0][0] == "t")
    });
}

/// Whether the daemon has looked at the catalogue since `changed`, and has queued what follows from that look.
fn has_watched_since(daemon: &Daemon, changed: Instant) -> bool {
    let since = changed.elapsed();
    match daemon.status()[CATALOGUE_AGE].as_f64() {
        Some(age) => age < since.as_secs_f64(),
        None => since >= WATCHED_AFTER,
    }
}

fn arrive(faults: &mut Faults, what: &str, mut done: impl FnMut(&Faults) -> bool) {
    let end = Instant::now() + SETTLE_MOST;
    while !done(faults) {
        faults.tend();
        assert!(
            Instant::now() < end,
            "{SETTLE_MOST:?} after the last fault the daemon has not {what}: {}\n{}\n{}\n{}",
            faults.daemon.http("/readyz").1,
            faults.daemon.status(),
            faults.daemon.log().lines().rev().take(40).collect::<Vec<_>>().join("\n"),
            faults.world.history.of_key(""),
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    faults.tend();
}

/// The first cached keys whose value differs from the database's, each with its history.
pub fn stale(faults: &Faults, sql: &mut Client) -> Vec<String> {
    let mut truth = HashMap::new();
    for table in TABLES {
        truth.extend(sql.rows(&table.values(None)).into_iter().map(|mut row| (row.remove(0), row.remove(0))));
    }
    let mut stale: Vec<(String, String)> =
        faults.caches.iter().flat_map(|cache| stale_in(cache, &truth, &faults.world.history)).collect();
    stale.sort();
    let told = |(key, what): (String, String)| format!("{what}\n{}", faults.world.history.of_key(&key));
    // The first few keys are enough; the number of the others shows how bad it is.
    let others = stale.len().saturating_sub(TOLD_MAX);
    let mut told: Vec<String> = stale.into_iter().take(TOLD_MAX).map(told).collect();
    told.extend((others > 0).then(|| format!("and {others} more")));
    told
}

fn stale_in(cache: &Cache, truth: &HashMap<String, String>, history: &History) -> Vec<(String, String)> {
    let mut client = cache.redis.client();
    let names: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut client).expect("KEYS");
    let names: Vec<String> = names.into_iter().filter(|name| Table::of_key(name).is_some()).collect();
    let values: Vec<Option<String>> = names.chunks(1000).flat_map(|names| mget(&mut client, names)).collect();
    let there = names.iter().zip(&values).filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)));
    let cached: HashMap<&str, &str> = there.collect();
    let (mut compared, mut stale) = (0, Vec::new());
    for (&name, &value) in &cached {
        let Some(key) = read_as(name, &cached) else { continue };
        let right = truth.get(key).map_or(NOTHING, String::as_str);
        compared += 1;
        if value != right {
            let what = format!("{name} is cached in {} as {value}, and the database has {right}", cache.name);
            stale.push((key.to_owned(), what));
        }
    }
    history.count(&format!("cached keys compared with the database: {}", cache.name), compared);
    history.count(&format!("cached keys that were stale: {}", cache.name), stale.len());
    stale
}

/// A key may be invalidated at any time, even without need. Then it has no value.
fn mget(cache: &mut redis::Connection, names: &[String]) -> Vec<Option<String>> {
    redis::cmd("MGET").arg(names).query(cache).expect("MGET")
}

/// The key that readers ask for when they find the entry `name`. `None` if no reader finds it.
fn read_as<'a>(name: &'a str, cached: &HashMap<&str, &str>) -> Option<&'a str> {
    if Table::of_key(name)?.reader == Reader::Plain {
        return Some(name);
    }
    let (key, version) = name.rsplit_once(":v")?;
    let pointer = cached.get(format!("{key}:version").as_str())?;
    (*pointer == version).then_some(key)
}
