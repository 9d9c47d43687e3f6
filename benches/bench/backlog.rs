//! A backlog of changes in the WAL, which many slots can read one after the other.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use crate::options::Shape;
use crate::support::postgres::Client;
use crate::support::wait::until_within;
use crate::support::{Database, Postgres};

/// Settings for backlogs: they are made fast, and nothing writes beside them.
pub(crate) const SETTINGS: &str = "synchronous_commit = off
full_page_writes = off
max_wal_size = 64GB
checkpoint_timeout = 1h
autovacuum = off
shared_buffers = 1GB";

/// Rows are of about 300 bytes.
const PAD: &str = "repeat('x', 280)";

/// A table of rows `1..=rows`, whose keys are `PREFIX:ID`.
struct Table {
    name: &'static str,
    prefix: &'static str,
    /// Changes of it, each of another row.
    changes: u64,
}

/// Changes that stand in the WAL behind a slot.
pub(crate) struct Backlog {
    pub(crate) database: Database,
    pub(crate) sql: Client,
    pub(crate) changes: u64,
    tables: Vec<Table>,
    /// Where it ends, as Postgres writes it.
    pub(crate) end: String,
    slots: u32,
}

impl Backlog {
    /// Writes `changes` changes, each of another row.
    pub(crate) fn write(server: &Arc<Postgres>, shape: Shape, changes: u64) -> Backlog {
        let database = Database::create_on(Arc::clone(server));
        let sql = database.client();
        let tables = [("items", "item"), ("orders", "order"), ("users", "user")];
        let tables = tables.map(|(name, prefix)| Table { name, prefix, changes: 0 }).into();
        let mut backlog = Backlog { database, sql, changes, tables, end: String::new(), slots: 0 };
        backlog.create();
        backlog.sql.run("SELECT pg_create_logical_replication_slot('base', 'pgoutput')");
        match shape {
            Shape::A => backlog.single_rows(),
            Shape::B => backlog.one_transaction(),
            Shape::C => backlog.mixed(),
        }
        backlog.sql.run("SELECT pg_sleep(0.5)"); // the WAL writer's turn: nothing else flushes an asynchronous commit
        backlog.end = backlog.sql.one("SELECT pg_current_wal_flush_lsn()");
        assert_eq!(backlog.keys().count() as u64, changes);
        backlog
    }

    fn create(&mut self) {
        let changes = self.changes;
        self.sql.run(&format!(
            "CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, pad text NOT NULL);
             CREATE TABLE orders (LIKE items INCLUDING ALL);
             CREATE TABLE users (LIKE items INCLUDING ALL);
             INSERT INTO items SELECT n, 0, {PAD} FROM generate_series(1, {changes}) n;
             INSERT INTO users SELECT n, 0, {PAD} FROM generate_series(1, {changes}) n;
             CREATE PUBLICATION keys FOR TABLE items (id), orders (id), users (id);
             CREATE PUBLICATION \"full\" FOR TABLE items, orders, users;"
        ));
        self.sql.run("VACUUM ANALYZE");
        self.sql.run("CHECKPOINT");
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

    /// In each transaction of 10 to 100 rows (50 on average): half of them updated, a quarter inserted, the rest deleted.
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

    /// The keys of all changes; no two are the same.
    pub(crate) fn keys(&self) -> impl Iterator<Item = String> + '_ {
        self.tables.iter().flat_map(|table| (1..=table.changes).map(|id| format!("{}:{id}", table.prefix)))
    }

    /// coherd's rules for them.
    pub(crate) fn rules(&self) -> String {
        let rule = |table: &Table| format!("  - {{ table: {}, keys: [\"{}:{{id}}\"] }}\n", table.name, table.prefix);
        format!("rules:\n{}", self.tables.iter().map(rule).collect::<String>())
    }

    /// A slot that has the whole backlog before it.
    pub(crate) fn slot(&mut self) -> String {
        self.slots += 1;
        let slot = format!("s{}", self.slots);
        self.sql.run(&format!("SELECT pg_copy_logical_replication_slot('base', '{slot}')"));
        slot
    }

    /// Drops a slot, once its consumer has let go of it.
    pub(crate) fn drop_slot(&mut self, slot: &str) {
        let drop_it = format!("SELECT pg_drop_replication_slot('{slot}')");
        until_within(Duration::from_secs(30), "the slot is free", || self.sql.try_run(&drop_it).ok());
    }
}
