//! The end of a run: everything is mended, everything is settled, and every cached key is held against the database.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::faults::Faults;
use super::readers::NOTHING;
use super::tables::{Reader, TABLES, Table};
use crate::support::postgres::Client;

/// How long everything may take to settle after the last fault.
const SETTLE_MOST: Duration = Duration::from_secs(90);
/// Stale keys whose history is told.
const TOLD_MAX: usize = 5;

/// Waits until the daemon works and all that is committed is settled.
pub fn settle(faults: &mut Faults, sql: &mut Client) {
    let wait = format!("SELECT coherd.wait(timeout => '2s', slot => '{}')", faults.world.database);
    let end = Instant::now() + SETTLE_MOST;
    loop {
        faults.tend();
        let ready = faults.daemon.http("/readyz").0 == 200;
        if ready && sql.try_rows(&wait).is_ok_and(|rows| rows[0][0] == "t") {
            return;
        }
        assert!(
            Instant::now() < end,
            "not settled {SETTLE_MOST:?} after the last fault: {}\n{}\n{}",
            faults.daemon.status(),
            faults.daemon.log().lines().rev().take(40).collect::<Vec<_>>().join("\n"),
            faults.world.history.of_key(""),
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Gives the first of the cached keys that a reader would find with another value than the database has, each with its history.
pub fn stale(faults: &Faults, sql: &mut Client) -> Vec<String> {
    let mut truth = HashMap::new();
    for table in TABLES {
        truth.extend(sql.rows(&table.values(None)).into_iter().map(|mut row| (row.remove(0), row.remove(0))));
    }
    let mut cache = faults.redis.client();
    let names: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut cache).expect("KEYS");
    let names: Vec<String> = names.into_iter().filter(|name| Table::of_key(name).is_some()).collect();
    let values: Vec<Option<String>> = names.chunks(1000).flat_map(|names| mget(&mut cache, names)).collect();
    let there = names.iter().zip(&values).filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)));
    let cached: HashMap<&str, &str> = there.collect();
    let (mut fresh, mut stale) = (0, Vec::new());
    for (&name, &value) in &cached {
        let Some(key) = read_as(name, &cached) else { continue };
        let right = truth.get(key).map_or(NOTHING, String::as_str);
        if value == right {
            fresh += 1;
        } else {
            stale.push((key.to_owned(), format!("{name} is cached as {value}, and the database has {right}")));
        }
    }
    faults.world.history.count("keys cached and right at the end", fresh);
    stale.sort();
    let told = |(key, what): (String, String)| format!("{what}\n{}", faults.world.history.of_key(&key));
    // The first of each kind would do; the number of the others says how bad it is.
    let others = stale.len().saturating_sub(TOLD_MAX);
    let mut told: Vec<String> = stale.into_iter().take(TOLD_MAX).map(told).collect();
    told.extend((others > 0).then(|| format!("and {others} more")));
    told
}

/// A key may be struck once more at any time, also without need.
fn mget(cache: &mut redis::Connection, names: &[String]) -> Vec<Option<String>> {
    redis::cmd("MGET").arg(names).query(cache).expect("MGET")
}

/// The key that readers look for when they find the entry `name`; `None` where no reader comes to it.
fn read_as<'a>(name: &'a str, cached: &HashMap<&str, &str>) -> Option<&'a str> {
    if Table::of_key(name)?.reader == Reader::Plain {
        return Some(name);
    }
    let (key, version) = name.rsplit_once(":v")?;
    let pointer = cached.get(format!("{key}:version").as_str())?;
    (*pointer == version).then_some(key)
}
