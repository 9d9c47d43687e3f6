//! A backlog of changes in the WAL. Many slots can read it, one after the other.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use crate::options::Shape;
use crate::support::postgres::Client;
use crate::support::wait::until_within;
use crate::support::{Database, Postgres};

/// Settings for backlogs: they are written fast, and nothing else writes.
pub(crate) const SETTINGS: &str = "synchronous_commit = off
full_page_writes = off
max_wal_size = 64GB
checkpoint_timeout = 1h
autovacuum = off
shared_buffers = 1GB";

/// Pads rows to about 300 bytes.
const PAD: &str = "repeat('x', 280)";

/// A table whose keys are cached.
pub(crate) struct Table {
    name: &'static str,
    /// The templates of its rule, each with the one placeholder `{id}`.
    pub(crate) templates: Vec<String>,
    /// The number of its changes. Each changes another row, from 1 on.
    changes: u64,
}

/// Changes in the WAL that are still ahead of a slot.
pub(crate) struct Backlog {
    pub(crate) database: Database,
    pub(crate) sql: Client,
    pub(crate) changes: u64,
    pub(crate) tables: Vec<Table>,
    /// Lines of further rules, for tables that are not written.
    pub(crate) other_rules: String,
    /// The end of the backlog, as Postgres prints it.
    pub(crate) end: String,
    slots: u32,
}

impl Backlog {
    /// Writes `changes` changes, each of another row.
    pub(crate) fn write(server: &Arc<Postgres>, shape: Shape, changes: u64) -> Backlog {
        let mut backlog = Backlog::create(server, changes);
        backlog.log(|backlog| match shape {
            Shape::A => backlog.single_rows(),
            Shape::B => backlog.one_transaction(),
            Shape::C => backlog.mixed(),
        });
        backlog
    }

    /// Creates the tables. There is nothing to read yet.
    pub(crate) fn create(server: &Arc<Postgres>, changes: u64) -> Backlog {
        let database = Database::create_on(Arc::clone(server));
        let mut sql = database.client();
        let table = |(name, template): (_, &str)| Table { name, templates: vec![template.to_owned()], changes: 0 };
        let tables = [("items", "item:{id}"), ("orders", "order:{id}"), ("users", "user:{id}")].map(table).into();
        sql.run(&format!(
            "CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, pad text NOT NULL);
             CREATE TABLE orders (LIKE items INCLUDING ALL);
             CREATE TABLE users (LIKE items INCLUDING ALL);
             INSERT INTO items SELECT n, 0, {PAD} FROM generate_series(1, {changes}) n;
             INSERT INTO users SELECT n, 0, {PAD} FROM generate_series(1, {changes}) n;
             CREATE PUBLICATION keys FOR TABLE items (id), orders (id), users (id);
             CREATE PUBLICATION \"full\" FOR TABLE items, orders, users;"
        ));
        sql.run("VACUUM ANALYZE");
        sql.run("CHECKPOINT");
        Backlog { database, sql, changes, tables, other_rules: String::new(), end: String::new(), slots: 0 }
    }

    /// Replaces the backlog with the changes that `write` makes. It must not write any row twice.
    pub(crate) fn log(&mut self, write: impl FnOnce(&mut Backlog)) {
        let _none = self.sql.try_run("SELECT pg_drop_replication_slot('base')");
        self.sql.run("SELECT pg_create_logical_replication_slot('base', 'pgoutput')");
        write(self);
        self.sql.run("SELECT pg_sleep(0.5)"); // only the WAL writer flushes an asynchronous commit here
        self.end = self.sql.one("SELECT pg_current_wal_flush_lsn()");
    }

    fn single_rows(&mut self) {
        let changes = self.changes;
        self.sql.run(&format!(
            "CREATE PROCEDURE change() LANGUAGE plpgsql AS $$ BEGIN
                 FOR i IN 1..{changes} LOOP UPDATE items SET n = n + 1 WHERE id = i; COMMIT; END LOOP; END $$;"
        ));
        self.sql.run("CALL change()");
        self.tables[0].changes = changes;
    }

    fn one_transaction(&mut self) {
        self.sql.run("UPDATE items SET n = n + 1");
        self.tables[0].changes = self.changes;
    }

    /// Transactions of 10 to 100 rows (50 on average): half are updates, a quarter inserts, the rest deletes.
    fn mixed(&mut self) {
        let (mut done, mut script, mut number) = (0, String::new(), 0);
        while done < self.changes {
            number += 1;
            let size = if number % 2 == 0 { 40 + number * 7919 % 61 } else { 10 + number * 7919 % 41 };
            let size = size.min(self.changes - done);
            let (updated, inserted) = (size / 2, size / 4);
            let deleted = size - updated - inserted;
            let mut range = |table: usize, count: u64| {
                let first = self.tables[table].changes + 1;
                self.tables[table].changes += count;
                [first.to_string(), (first + count - 1).to_string()]
            };
            let (updated, inserted, deleted) = (range(0, updated), range(1, inserted), range(2, deleted));
            let _ = write!(
                script,
                "BEGIN; UPDATE items SET n = n + 1 WHERE id BETWEEN {};
                 INSERT INTO orders SELECT n, 0, {PAD} FROM generate_series({}) n;
                 DELETE FROM users WHERE id BETWEEN {}; COMMIT;",
                updated.join(" AND "),
                inserted.join(", "),
                deleted.join(" AND ")
            );
            done += size;
            if number % 100 == 0 || done == self.changes {
                self.sql.run(&std::mem::take(&mut script));
            }
        }
    }

    /// Updates all `items`, 20 rows per transaction. `others` of these changes are INSERTs into one of `tables` tables
    /// `t0`, `t1`, … in turn.
    pub(crate) fn twenties(&mut self, tables: u64, others: u64) {
        let (mut script, mut next, mut last) = (String::new(), 0, 0);
        for number in 0..self.changes / 20 {
            let first = last + 1;
            last += 20 - others;
            let _ = write!(script, "BEGIN; UPDATE items SET n = n + 1 WHERE id BETWEEN {first} AND {last};");
            for _row in 0..others {
                let _ = write!(script, "INSERT INTO t{} (n) VALUES (1);", next % tables);
                next += 1;
            }
            script.push_str("COMMIT;");
            if number % 100 == 99 || number + 1 == self.changes / 20 {
                self.sql.run(&std::mem::take(&mut script));
            }
        }
        self.tables[0].changes = last;
    }

    /// The keys of all changes. All differ.
    pub(crate) fn keys(&self) -> impl Iterator<Item = String> + '_ {
        let templates = self.tables.iter().flat_map(|table| table.templates.iter().map(move |it| (table.changes, it)));
        templates.flat_map(|(changes, template)| {
            let (before, after) = template.split_once("{id}").expect("a placeholder");
            (1..=changes).map(move |id| format!("{before}{id}{after}"))
        })
    }

    /// The number of these keys.
    pub(crate) fn keys_count(&self) -> u64 {
        self.tables.iter().map(|table| table.changes * table.templates.len() as u64).sum()
    }

    /// coherd's rules for these tables.
    pub(crate) fn rules(&self) -> String {
        let rule = |table: &Table| {
            let keys: Vec<String> = table.templates.iter().map(|template| format!("\"{template}\"")).collect();
            format!("  - {{ table: {}, keys: [{}] }}\n", table.name, keys.join(", "))
        };
        let rules: String = self.tables.iter().filter(|table| !table.templates.is_empty()).map(rule).collect();
        format!("rules:\n{rules}{}", self.other_rules)
    }

    /// A slot with the whole backlog ahead of it.
    pub(crate) fn slot(&mut self) -> String {
        self.slots += 1;
        let slot = format!("s{}", self.slots);
        self.sql.run(&format!("SELECT pg_copy_logical_replication_slot('base', '{slot}')"));
        slot
    }

    /// Drops a slot once its consumer has released it.
    pub(crate) fn drop_slot(&mut self, slot: &str) {
        let drop_it = format!("SELECT pg_drop_replication_slot('{slot}')");
        until_within(Duration::from_secs(30), "the slot is free", || self.sql.try_run(&drop_it).ok());
    }
}
