//! The watcher on real servers, always with the least-privileged role.

mod fresh;
mod leaves;
pub mod many;
mod stamps;
mod standby;
mod synchronous;
mod attest;
mod wal;

use std::time::Duration;

use coherd::postgres::Watched;
use coherd::postgres::watch::{WatchConfig, watch};
use coherd::types::observation::{LeafSeen, Observation, TableSeen};
use coherd::types::table::TableName;
use tokio::sync::mpsc;

use super::{dsn, runtime};
use crate::support::{Database, wait::PATIENCE};

/// A watcher that runs only while a method waits for it, and not between two calls.
pub struct Watching {
    runtime: tokio::runtime::Runtime,
    observations: mpsc::Receiver<Watched>,
    pub attest: tokio::sync::watch::Sender<Option<u32>>,
    task: tokio::task::JoinHandle<()>,
    /// All tables as the watcher last saw them.
    tables: Vec<TableSeen>,
}

impl Watching {
    /// Watches `tables`, each `schema.name` or a name in `public`. Slot and publication have the database's name.
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
        let unseen = |name: &TableName| TableSeen { name: name.clone(), ..TableSeen::default() };
        let tables = config.tables.iter().map(unseen).collect();
        let (sender, observations) = mpsc::channel(1);
        let (attest, attested_for) = tokio::sync::watch::channel(None);
        let task = runtime.spawn(watch(config, attested_for, sender));
        Watching { runtime, observations, attest, task, tables }
    }

    pub fn next(&mut self) -> Watched {
        let next = async { tokio::time::timeout(PATIENCE, self.observations.recv()).await };
        self.runtime.block_on(next).expect("the watcher says nothing").expect("the watcher has ended")
    }

    /// The next look, as the watcher reports it.
    pub fn seen_bare(&mut self) -> Observation {
        match self.next() {
            Watched::Seen(seen) => seen,
            Watched::Away(error) => panic!("{error}"),
            Watched::Attested(attested) => panic!("attested for {attested:?}"),
        }
    }

    /// The next look with all tables, including those that have not changed since the look before.
    pub fn seen(&mut self) -> Observation {
        let seen = self.seen_bare();
        self.with_all_tables(seen)
    }

    pub fn with_all_tables(&mut self, seen: Observation) -> Observation {
        for table in seen.tables {
            let place = self.tables.iter().position(|held| held.name == table.name).expect("a table of ours");
            self.tables[place] = table;
        }
        Observation { tables: self.tables.clone(), ..seen }
    }

    /// A look that began after this call, with the catalogue of the previous look. That one may have been under way:
    /// the channel holds one look, and the next begins only when there is room.
    pub fn look(&mut self) -> Observation {
        let before = self.seen().database;
        let seen = self.seen();
        Observation { database: seen.database.or(before), ..seen }
    }

    /// The only watched table.
    pub fn table(&mut self) -> TableSeen {
        self.look().tables.swap_remove(0)
    }

    /// The leaves of the only watched table.
    pub fn leaves(&mut self) -> Vec<LeafSeen> {
        self.look().tables.swap_remove(0).leaves
    }
}
