//! Changes behind the daemon's back: the cache behind an open connection becomes another one, or its entries and record
//! go back in time over another connection. Also suspends a target.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::caches::{Cache, Hurt};
use super::faults::{Fault, Faults, Repair};
use super::tables::Table;

/// How much log the slot may hold back: little, so that it is used up soon.
pub const BUDGET: &str = "8MiB";
/// How long using it up may take.
const SPEND_MOST: Duration = Duration::from_secs(2);

/// How often each of these faults happens, relative to all others.
pub const WEIGHTS: &[(u32, Fault)] = &[
    (12, Fault::SwapCache),
    (12, Fault::FlushAndRestore),
    (12, Fault::SwapDatabases),
    (12, Fault::RestoreRecord),
    (10, Fault::RememberCache),
    (6, Fault::Suspend),
];

/// A part of what a cache held at one time.
pub struct Old {
    record: String,
    /// The record as DUMP returns it.
    dumped: Vec<u8>,
    entries: Vec<(String, String)>,
}

impl Cache {
    /// Remembers entries and record, here and in the server's second database. It reads the record first, so that the
    /// record is no newer than any entry.
    pub fn remember_old(&mut self) {
        let mut client = self.redis.client();
        let names: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut client).expect("KEYS");
        let Some(record) = names.iter().find(|name| name.starts_with("coherd:")) else { return };
        let dumped: Option<Vec<u8>> = redis::cmd("DUMP").arg(record).query(&mut client).expect("DUMP");
        let Some(dumped) = dumped else { return };
        let mut copy = redis::pipe();
        copy.cmd("SELECT").arg(1).cmd("FLUSHDB").cmd("SELECT").arg(0).ignore();
        for name in [record].into_iter().chain(&names) {
            copy.cmd("COPY").arg(name).arg(name).arg("DB").arg(1).ignore();
        }
        copy.exec(&mut client).expect("COPY");
        let (mut entries, names): (Vec<(String, String)>, Vec<&String>) =
            (Vec::new(), names.iter().filter(|name| Table::of_key(name).is_some()).collect());
        for names in names.chunks(1000) {
            let values: Vec<Option<String>> = redis::cmd("MGET").arg(names).query(&mut client).expect("MGET");
            let found = names.iter().zip(values).filter_map(|(name, value)| Some(((*name).clone(), value?)));
            entries.extend(found);
        }
        self.old = Some(Old { record: record.clone(), dumped, entries });
    }

    /// Starts one of these faults. The server is up.
    pub fn hurt_behind(&mut self, fault: Fault, rng: &mut Rng) -> Hurt {
        match (fault, &self.old) {
            (Fault::SwapCache, _) if !self.snapshots.is_empty() => {
                let snapshot = &self.snapshots[rng.usize(..self.snapshots.len())];
                let port = self.redis.port();
                self.proxy.swap_to(port, || self.redis.restore(snapshot));
            }
            (Fault::SwapDatabases, Some(_)) => {
                redis::cmd("SWAPDB").arg(0).arg(1).exec(&mut self.redis.client()).expect("SWAPDB");
            }
            (Fault::FlushAndRestore, Some(old)) => {
                let mut pipe = redis::pipe();
                pipe.atomic().cmd("FLUSHALL").ignore();
                old.put_back(&mut pipe).exec(&mut self.redis.client()).expect("MULTI");
            }
            (Fault::RestoreRecord, Some(old)) => {
                let mut pipe = redis::pipe();
                pipe.atomic().cmd("RESTORE").arg(&old.record).arg(0).arg(&old.dumped).arg("REPLACE").ignore();
                old.put_back(&mut pipe).exec(&mut self.redis.client()).expect("MULTI");
            }
            _ => return Hurt::Not,
        }
        Hurt::ForGood
    }
}

impl Old {
    fn put_back<'p>(&self, pipe: &'p mut redis::Pipeline) -> &'p mut redis::Pipeline {
        for (name, value) in &self.entries {
            pipe.cmd("SET").arg(name).arg(value).ignore();
        }
        pipe
    }
}

impl Faults {
    /// Cuts a target off from the daemon and writes log until the slot goes on without the target.
    pub fn suspend(&mut self, one: usize) -> bool {
        let Some(mut sql) = self.sql() else { return false };
        let proxy = &self.caches[one].proxy;
        proxy.refuse(true);
        proxy.cut();
        let end = Instant::now() + SPEND_MOST;
        let write = "INSERT INTO logs (line) SELECT repeat('x', 1000) FROM generate_series(1, 1000)";
        let mut is_suspended = false;
        while Instant::now() < end && !is_suspended && sql.try_run(write).is_ok() {
            is_suspended = self.daemon_answers() && self.daemon.status()["targets"][one]["suspended"] == true;
        }
        self.world.history.count("targets: suspended", usize::from(is_suspended));
        self.later(2000, Repair::TargetNetwork(one));
        true
    }
}
