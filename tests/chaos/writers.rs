//! Writers: they change single rows, many rows or many tables, make manual invalidations, and sometimes roll back.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::World;
use super::holds::Held;
use super::tables::TABLES;
use crate::support::postgres::{Client, postgres_client};

/// Numbers below this are changed and read as often as all others together.
pub const HOT_NUMBERS: u32 = 50;
/// The longest pause between two transactions.
const PAUSE_MOST_US: u64 = 3000;

/// One writer's session. A statement may fail because a name is taken or the server is down; both are intended.
pub struct Writer {
    name: String,
    world: Arc<World>,
    rng: Rng,
    sql: Client,
}

/// A statement, and the keys to hold until its outcome is known.
struct Change {
    statement: String,
    held: Vec<Held>,
}

impl Writer {
    /// Writes until the world stops.
    pub fn run(name: &str, world: Arc<World>, rng: Rng) {
        let Some(sql) = world.connect() else { return };
        let mut writer = Writer { name: name.to_owned(), world, rng, sql };
        while !writer.world.stops() {
            writer.act();
            std::thread::sleep(Duration::from_micros(writer.rng.u64(..PAUSE_MOST_US)));
        }
    }

    fn act(&mut self) {
        match self.rng.u32(..1000) {
            ..500 => self.alone(),
            500..900 => self.transaction(),
            900..904 => self.bulk(),
            904..908 => self.refill(),
            908 if self.world.may_flush() => self.truncate(),
            908..950 => self.manual(),
            _ => self.unrelated(),
        }
    }

    /// A random number, often a hot one.
    fn number(&mut self, table: usize) -> u32 {
        let most = if self.rng.bool() { HOT_NUMBERS } else { TABLES[table].numbers };
        self.rng.u32(..most)
    }

    /// A change of one or a few rows. `None` if others hold the keys.
    fn change(&mut self) -> Option<Change> {
        let table = self.rng.usize(..TABLES.len());
        let its = &TABLES[table];
        let (one, other) = (self.number(table), self.number(table));
        let held = self.world.holds.free_of(table, [one, other]);
        let (&first, &last) = (held.numbers.first()?, held.numbers.last()?);
        let statement = match self.rng.u32(..10) {
            ..4 => its.update(&held.numbers),
            4..6 => its.insert(&held.numbers),
            6..8 => its.delete(&[first]),
            _ => its.rename(first, last),
        };
        Some(Change { statement, held: vec![held] })
    }

    fn alone(&mut self) {
        let Some(change) = self.change() else { return };
        let outcome = self.sql.try_run(&change.statement).map(|()| "committed");
        self.told(&[change], outcome);
    }

    /// Several changes in one transaction, sent one by one, some with savepoints, some rolled back.
    fn transaction(&mut self) {
        let changes: Vec<Change> = (0..self.rng.usize(2..6)).filter_map(|_| self.change()).collect();
        let outcome = self.transact(&changes);
        if outcome.is_err() && !self.sql.is_closed() {
            let _ = self.sql.try_run("ROLLBACK");
        }
        self.told(&changes, outcome);
    }

    fn transact(&mut self, changes: &[Change]) -> Result<&'static str, tokio_postgres::Error> {
        self.sql.try_run("BEGIN")?;
        for change in changes {
            match self.rng.u32(..6) {
                0 => {
                    // A rename that fails inside the savepoint undoes only itself.
                    let savepoint = format!("SAVEPOINT s; {}; RELEASE s", change.statement);
                    if self.sql.try_run(&savepoint).is_err() {
                        self.sql.try_run("ROLLBACK TO s")?;
                    }
                }
                1 => self.sql.try_run(&format!("SAVEPOINT s; {}; ROLLBACK TO s", change.statement))?,
                _ => self.sql.try_run(&change.statement)?,
            }
        }
        if self.rng.u32(..5) == 0 {
            self.sql.try_run("ROLLBACK")?;
            return Ok("rolled back");
        }
        self.sql.try_run("COMMIT").map(|()| "committed")
    }

    /// One statement over thousands of rows.
    fn bulk(&mut self) {
        let table = self.rng.usize(..TABLES.len());
        let most = TABLES[table].numbers;
        let count = self.rng.u32(1000..=5000).min(most);
        let first = self.rng.u32(..=most - count);
        let held = self.world.holds.free_of(table, first..first + count);
        let statement = TABLES[table].update(&held.numbers);
        let outcome = self.sql.try_run(&statement).map(|()| "committed");
        self.told(&[Change { statement, held: vec![held] }], outcome);
    }

    /// Inserts rows again after truncations.
    fn refill(&mut self) {
        let table = self.rng.usize(..TABLES.len());
        let held = self.world.holds.free_of(table, 0..TABLES[table].numbers / 2);
        let statement = TABLES[table].insert(&held.numbers);
        let outcome = self.sql.try_run(&statement).map(|()| "committed");
        self.told(&[Change { statement, held: vec![held] }], outcome);
    }

    fn truncate(&mut self) {
        let tables = [self.rng.usize(..TABLES.len()), self.rng.usize(..TABLES.len())];
        // If both are the same table, the second hold is refused, and the first table is truncated alone.
        let held: Vec<Held> = tables.iter().filter_map(|&table| self.world.holds.table(table)).collect();
        let names: Vec<&str> = held.iter().map(|held| TABLES[held.table].name).collect();
        if names.is_empty() {
            return;
        }
        let statement = format!("TRUNCATE {}", names.join(", "));
        let outcome = self.sql.try_run(&statement).map(|()| "committed");
        self.world.history.of_all(&format!("{}: {statement}: {outcome:?}", self.name));
        self.world.history.count("writes: truncations", usize::from(outcome.is_ok()));
        self.recover(outcome.is_err());
    }

    /// Manual invalidations. They change no row, so they need no hold.
    fn manual(&mut self) {
        let table = self.rng.usize(..TABLES.len());
        let number = self.number(table);
        let its = &TABLES[table];
        let statement = match self.rng.u32(..100) {
            0 if self.world.may_flush() => format!("SELECT coherd.flush('{}')", its.name),
            ..40 => its.touch(number, &self.world.database),
            _ => format!("SELECT coherd.invalidate('{}', 'nothing:like:it')", its.key(number)),
        };
        let done = self.sql.try_run(&statement);
        self.world.history.count("writes: by hand", usize::from(done.is_ok()));
        self.recover(done.is_err());
    }

    fn unrelated(&mut self) {
        let statement = match self.rng.u32(..3) {
            0 => "INSERT INTO logs (line) SELECT 'x' FROM generate_series(1, 500)",
            1 => "INSERT INTO noise SELECT generate_series(1, 50)",
            _ => "TRUNCATE noise",
        };
        let done = self.sql.try_run(statement);
        self.world.history.count("writes: unrelated", usize::from(done.is_ok()));
        self.recover(done.is_err());
    }

    /// Records the outcome of a transaction, and only then releases its keys.
    fn told(&mut self, changes: &[Change], outcome: Result<&'static str, tokio_postgres::Error>) {
        let history = &self.world.history;
        let end = match &outcome {
            Ok(end) => (*end).to_owned(),
            Err(error) => format!("failed: {error:?}"),
        };
        history.count(&format!("writes: {}", outcome.as_ref().map_or("failed", |end| *end)), 1);
        let at = self.sql.try_rows("SELECT pg_current_wal_insert_lsn()").unwrap_or_default();
        for Change { statement, held } in changes {
            let short: String = statement.chars().take(120).collect();
            let what = format!("{}: {short}: {end} before {at:?}", self.name);
            for held in held {
                history.count("writes: keys changed", held.numbers.len());
                history.of_keys(held.numbers.iter().map(|&number| TABLES[held.table].key(number)), &what);
            }
        }
        self.recover(outcome.is_err());
    }

    /// A commit whose answer was lost may have happened, and no reader may see its keys before the server is back. The
    /// caller still holds them.
    fn recover(&mut self, failed: bool) {
        if failed
            && self.sql.is_closed()
            && let Some(sql) = self.world.connect()
        {
            self.sql = sql;
        }
    }
}

impl World {
    /// A session, as soon as the server accepts one. `None` if the world stops first.
    pub fn connect(&self) -> Option<Client> {
        loop {
            match postgres_client(&self.dsn) {
                Ok(client) => return Some(client),
                Err(_) if self.stops() => return None,
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}
