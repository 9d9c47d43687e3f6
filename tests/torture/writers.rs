//! Writers: some wait for the synchronous standby, some only for the disk, some for nothing.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio_postgres::{Client, Error, SimpleQueryMessage, Statement};

use super::World;
use super::link::session;
use super::rows::{Announced, ROWS, Value};

/// The `synchronous_commit` of each writer's session. A writer that waits for a missing standby keeps its rows locked.
pub const COMMITS: &[&str] = &["on", "on", "on", "local", "local", "local", "off", "off"];

/// The statements skip a row that another session has locked.
const UPDATE: &str = "UPDATE hot SET v = nextval('v') WHERE id = (SELECT id FROM hot WHERE id = $1 FOR UPDATE SKIP LOCKED) \
    RETURNING v";
const DELETE: &str = "DELETE FROM hot WHERE id = (SELECT id FROM hot WHERE id = $1 FOR UPDATE SKIP LOCKED) RETURNING v";
const INSERT: &str = "INSERT INTO hot (id, v) VALUES ($1, nextval('v')) ON CONFLICT DO NOTHING RETURNING v";

/// One writer's session.
pub struct Writer {
    world: Arc<World>,
    pub rng: Rng,
    pub sql: Client,
    update: Statement,
    delete: Statement,
    insert: Statement,
}

impl Writer {
    pub async fn connect(world: &Arc<World>, rng: Rng, commit: &str) -> Result<Writer, Error> {
        let sql = session(&world.primary).await?;
        sql.batch_execute(&format!("SET synchronous_commit = {commit}; SET lock_timeout = '200ms'")).await?;
        let (update, delete) = (sql.prepare(UPDATE).await?, sql.prepare(DELETE).await?);
        let insert = sql.prepare(INSERT).await?;
        Ok(Writer { world: Arc::clone(world), rng, sql, update, delete, insert })
    }

    /// Writes until the world stops.
    pub async fn run(mut self) {
        while !self.world.stops() {
            let most = if self.rng.u32(..50) == 0 { 300_000 } else { 20_000 };
            tokio::time::sleep(Duration::from_micros(self.rng.u64(..most))).await;
            if !self.world.lulls() {
                let _ = self.transaction().await;
            }
        }
    }

    /// Writes some rows. Returns the token and the written values if it committed. The primary never goes away here, so
    /// the outcome of a transaction is always known.
    pub async fn transaction(&mut self) -> Option<(u64, Vec<(usize, Value)>)> {
        self.sql.batch_execute("BEGIN").await.expect("the primary is there");
        let mut written: Vec<(Announced, Value)> = Vec::new();
        let mut fails = false;
        for _ in 0..self.rng.usize(1..=3) {
            match self.change().await {
                Ok(Some(change)) => written.push(change),
                Ok(None) => {}
                // Another session waits for a standby and holds the row.
                Err(error) => {
                    assert!(error.code().is_some(), "the primary is gone: {error}");
                    fails = true;
                    break;
                }
            }
        }
        if fails || written.is_empty() || self.rng.u32(..20) == 0 {
            for (write, _) in &written {
                self.world.rows.rolled_back(*write);
            }
            self.sql.batch_execute("ROLLBACK").await.expect("the primary is there");
            self.world.history.count("writes: rolled back", 1);
            return None;
        }
        let token = self.commit().await;
        for (write, value) in &written {
            self.world.rows.committed(*write, token);
            self.world.tell(write.row, &format!("{value:?} is committed before {token}"));
        }
        self.world.history.count("writes: transactions", 1);
        self.world.history.count("writes: rows", written.len());
        Some((token, written.into_iter().map(|(write, value)| (write.row, value)).collect()))
    }

    async fn commit(&mut self) -> u64 {
        let messages = self.sql.simple_query("COMMIT; SELECT coherd.token()").await.expect("it commits");
        let token = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
            _ => None,
        });
        token.expect("a token")
    }

    /// Writes one row and announces it. `None` if another session has it locked, or it does not exist.
    async fn change(&mut self) -> Result<Option<(Announced, Value)>, Error> {
        let row = row(&mut self.rng);
        let id = i32::try_from(row).expect("few rows");
        let comes_and_goes = row.is_multiple_of(4) && self.rng.u32(..4) == 0;
        let gone = comes_and_goes && self.sql.query_opt(&self.delete, &[&id]).await?.is_some();
        let statement = if comes_and_goes { &self.insert } else { &self.update };
        let value = match (gone, self.sql.query_opt(statement, &[&id]).await) {
            // Deleted; half of the time it is inserted again in the same transaction.
            (true, Ok(_)) if self.rng.bool() => {
                self.sql.query_opt(&self.delete, &[&id]).await?;
                None
            }
            (_, Ok(Some(its))) => Some(its.get(0)),
            (_, Ok(None)) => return Ok(None),
            (_, Err(error)) => return Err(error),
        };
        Ok(Some((self.world.rows.announce(row, value), value)))
    }
}

/// Some rows are written and read often, others rarely, so that an old value stays for a while.
pub fn row(rng: &mut Rng) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "few rows"
    )]
    let row = (rng.f64().powi(2) * ROWS as f64) as usize;
    row.min(ROWS - 1)
}
