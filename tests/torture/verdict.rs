//! The end of the test: everything is fixed and settled, and the caches hold what the database has.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use super::faults::Faults;
use super::rows::{parse, text};
use super::{Level, ROWS, is_held};
use crate::support::Redis;
use crate::support::wait::until_within;

/// How long settling may take after the last fault.
const SETTLE_MOST: Duration = Duration::from_secs(90);

/// Waits until the replica is held and every commit is settled.
pub fn settle(faults: &mut Faults) {
    faults.see_all();
    faults.replica.catch_up(&faults.primary);
    let daemon = &faults.daemon;
    until_within(SETTLE_MOST, "the daemon is ready and waits for the replica", || {
        (daemon.http("/readyz").0 == 200 && is_held(&daemon.status())).then_some(())
    });
    // The flush for the returned replica is settled when a later commit is.
    let mut sql = faults.primary_session();
    sql.run("UPDATE hot SET v = v WHERE id = 0");
    let wait = format!("SELECT coherd.wait(timeout => '2s', slot => '{}')", faults.world.slot);
    let what = "all that is committed is settled";
    let settled =
        catch_unwind(AssertUnwindSafe(|| until_within(SETTLE_MOST, what, || (sql.one(&wait) == "t").then_some(()))));
    if let Err(panic) = settled {
        let slot = format!(
            "SELECT confirmed_flush_lsn, active_pid, coherd.attested(active_pid), pg_current_wal_flush_lsn(), \
             pg_current_wal_insert_lsn(), pg_current_snapshot() FROM pg_replication_slots WHERE slot_name = '{}'",
            faults.world.slot
        );
        println!("{}\n{:?}\n{}", daemon.status(), sql.rows(&slot), faults.world.history.of_key(""));
        resume_unwind(panic);
    }
}

/// Asserts that every cached value of level 2 is the database's.
pub fn compare(faults: &Faults, redis: &Redis) {
    let (world, mut cache) = (&faults.world, redis.client());
    let rows = faults.primary_session().rows("SELECT id, v FROM hot");
    let mut get = |key: String| redis::cmd("GET").arg(key).query::<Option<Vec<u8>>>(&mut cache).expect("GET");
    for row in 0..ROWS {
        let its = rows.iter().find(|its| its[0] == row.to_string());
        let right = its.map(|its| its[1].parse().expect("a version"));
        let version = get(format!("ptr:{row}:version")).map(|text| String::from_utf8(text).expect("digits"));
        let entry = version.and_then(|version| get(format!("ptr:{row}:v{version}")));
        let kinds = [
            (Level::Leases, get(format!("lease:{row}"))),
            (Level::Pointers, entry),
            (Level::Zero, get(format!("plain:{row}"))),
        ];
        for (level, found) in kinds {
            let Some(found) = found else { continue };
            world.count(level, "compared in the end");
            if parse(&found) == right {
                continue;
            }
            world.count(level, "stale in the end");
            let what = format!(
                "{}: {} is cached in the end, and the database has {}",
                level.name(),
                text(parse(&found)),
                text(right)
            );
            if level.is_promised() {
                world.violated(row, &what);
            }
        }
    }
}
