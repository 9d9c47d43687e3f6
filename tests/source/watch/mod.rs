//! The watcher on real servers, always as the least-privileged role.

mod fresh;
mod leaves;
mod stamps;
mod standby;
mod synchronous;
mod vouch;
mod wal;

use std::time::Duration;

use coherd::observation::{LeafSeen, Observation};
use coherd::source::Watched;
use coherd::source::watch::{WatchConfig, watch};
use coherd::table::TableName;
use tokio::sync::mpsc;

use super::{dsn, runtime};
use crate::support::{Database, wait::PATIENCE};

/// A watcher that works only while it is asked: nothing runs between two calls.
pub struct Watching {
    runtime: tokio::runtime::Runtime,
    observations: mpsc::Receiver<Watched>,
    pub vouch: tokio::sync::watch::Sender<Option<u32>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watching {
    /// Watches `tables`, each `schema.name` or a name in `public`, with slot and publication called as the database.
    pub fn start(database: &Database, tables: &[&str]) -> Watching {
        database.create_role();
        Watching::over(&database.dsn_as("coherd"), &database.name, tables)
    }

    pub fn over(text: &str, name: &str, tables: &[&str]) -> Watching {
        Watching::paced(text, name, tables, Duration::from_millis(5))
    }

    pub fn paced(text: &str, name: &str, tables: &[&str], pace: Duration) -> Watching {
        let table = |table: &&str| {
            let (schema, name) = table.split_once('.').unwrap_or(("public", *table));
            TableName { schema: schema.into(), name: name.into() }
        };
        let config = WatchConfig {
            dsn: dsn(text),
            slot: name.into(),
            publication: name.into(),
            tables: tables.iter().map(table).collect(),
            pace,
        };
        let runtime = runtime();
        let (sender, observations) = mpsc::channel(1);
        let (vouch, vouched_for) = tokio::sync::watch::channel(None);
        let task = runtime.spawn(watch(config, vouched_for, sender));
        Watching { runtime, observations, vouch, task }
    }

    pub fn next(&mut self) -> Watched {
        let next = async { tokio::time::timeout(PATIENCE, self.observations.recv()).await };
        self.runtime.block_on(next).expect("the watcher says nothing").expect("the watcher has ended")
    }

    pub fn seen(&mut self) -> Observation {
        match self.next() {
            Watched::Seen(seen) => seen,
            Watched::Away(error) => panic!("{error}"),
            Watched::Vouched(vouched) => panic!("vouched for {vouched:?}"),
        }
    }

    /// A look that began after this call, with the catalogue of the one before it, which may have been under way: the
    /// channel holds one, and a look begins only when there is room.
    pub fn look(&mut self) -> Observation {
        let before = self.seen().database;
        let seen = self.seen();
        Observation { database: seen.database.or(before), ..seen }
    }

    /// The stamp of the only table.
    pub fn stamp(&mut self) -> Option<String> {
        self.look().tables.swap_remove(0).stamp
    }

    /// The leaves of the only table.
    pub fn leaves(&mut self) -> Vec<LeafSeen> {
        self.look().tables.swap_remove(0).leaves
    }
}
