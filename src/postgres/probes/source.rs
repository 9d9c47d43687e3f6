//! Asks the source what its readers see.

use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::sync::watch::Receiver;
use tokio_postgres::{Client, Statement};

use super::flush::Flusher;
use super::{in_time, reached};
use crate::backoff::Backoff;
use crate::postgres::client::dsn::Dsn;
use crate::postgres::client::sql::{connect, explain};
use crate::postgres::{Probed, Question, SourceError};
use crate::types::snapshot::Snapshot;
use crate::types::table::quote_identifier;

/// The first pause between attempts.
const RETRY_FIRST: Duration = Duration::from_millis(10);
/// The longest pause; it is short, because nothing counts as invalidated while the source does not answer.
const RETRY_MOST: Duration = Duration::from_secs(1);

/// Completes "could not".
const WHAT: &str = "ask the source what its readers see";
const FLUSHING: &str = "flush the source's log for those who wait";

/// Postgres plans each statement once. It flushes commits of this session to its own disk and waits for no standby.
const SETTINGS: &str = "SET statement_timeout = '4s'; SET jit = off; SET plan_cache_mode = force_generic_plan; \
    SET synchronous_commit = local";

/// A position in recovery, otherwise the snapshot of this statement. On a standby a snapshot lists no running
/// transactions.
const LOOK: &str = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()::text \
    ELSE pg_catalog.pg_current_snapshot()::text END";

/// Whether the server is in recovery, and which process streams from the slot `$1` there.
const WHOSE: &str = "SELECT pg_catalog.pg_is_in_recovery(), active_pid FROM (VALUES (1)) one LEFT JOIN \
    pg_catalog.pg_replication_slots ON slot_name = $1";

/// Which source to ask.
#[derive(Debug, Clone)]
pub struct AskConfig {
    /// The same connection string as for the stream.
    pub dsn: Dsn,
    /// Name of the slot that the stream comes from.
    pub slot: String,
    /// Number of clients that wait for the daemon itself.
    pub waiters: Receiver<usize>,
}

/// Answers every new number among `questions`, until nobody asks or the receiver is gone. Each answer comes from a
/// statement that was sent after the question was put. Each failure is reported once, and followed by a pause and a new
/// connection; then the newest question is answered, if it was not. While there is no stream there is no connection.
pub async fn ask_source(config: AskConfig, questions: Receiver<Question>, probed: Sender<Probed>) {
    let closed = probed.clone();
    tokio::select! {
        biased;
        () = keep_asking(&config, questions, &probed) => {}
        () = closed.closed() => {}
    }
}

async fn keep_asking(config: &AskConfig, mut questions: Receiver<Question>, probed: &Sender<Probed>) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
    let mut answered = 0;
    let mut stream = questions.clone();
    loop {
        let Ok(question) = stream.wait_for(|question| question.walsender.is_some()).await.map(|its| *its) else {
            return;
        };
        let Some(walsender) = question.walsender else { return };
        let mut asking = Asking { config, walsender, answered: &mut answered, backoff: &mut backoff };
        let failed = tokio::select! {
            biased;
            failed = asking.keep_answering(&mut questions, probed) => failed,
            () = other_stream(&mut stream, walsender) => continue,
        };
        let Err(error) = failed else { return };
        if probed.send(Probed::SourceAway(error)).await.is_err() {
            return;
        }
        // A stream that has just been opened shows that the server is up.
        tokio::select! {
            () = tokio::time::sleep(backoff.next(fastrand::u32(..))) => {}
            () = other_stream(&mut stream, walsender) => {}
        }
    }
}

/// Waits until the stream is no longer that of `walsender`.
async fn other_stream(questions: &mut Receiver<Question>, walsender: u32) {
    if questions.wait_for(|question| question.walsender != Some(walsender)).await.is_err() {
        // The sender is gone, so nobody can open another stream.
        std::future::pending::<()>().await;
    }
}

/// One connection.
struct Asking<'a> {
    config: &'a AskConfig,
    walsender: u32,
    /// Number of the last question that was answered, over all connections.
    answered: &'a mut u64,
    backoff: &'a mut Backoff,
}

impl Asking<'_> {
    /// `Ok` means that nobody asks or listens any more.
    async fn keep_answering(
        &mut self,
        questions: &mut Receiver<Question>,
        probed: &Sender<Probed>,
    ) -> Result<(), SourceError> {
        let client = reached(&self.config.dsn, connect(&self.config.dsn)).await?;
        let mut server = in_time(WHAT, Server::new(self.config, client, self.walsender)).await?;
        loop {
            let number = questions.borrow_and_update().number;
            if number == *self.answered {
                tokio::select! {
                    biased;
                    changed = questions.changed() => if changed.is_err() {
                        return Ok(());
                    },
                    () = server.flusher.due() => in_time(FLUSHING, server.flush()).await?,
                }
                continue;
            }
            let snapshot = in_time(WHAT, server.look()).await?;
            self.backoff.reset();
            // A statement that was sent before a question was put does not answer it.
            if questions.borrow().number != number {
                continue;
            }
            *self.answered = number;
            if probed.send(Probed::Source { walsender: self.walsender, snapshot }).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// The server whose walsender sends the stream.
struct Server<'a> {
    config: &'a AskConfig,
    client: Client,
    look: Statement,
    flusher: Flusher,
    /// The server was not in recovery before the last statement.
    is_primary: bool,
}

impl<'a> Server<'a> {
    /// Fails unless the stream comes from this server.
    async fn new(config: &'a AskConfig, client: Client, walsender: u32) -> Result<Server<'a>, SourceError> {
        let asked = async {
            client.batch_execute(SETTINGS).await?;
            let look = client.prepare(LOOK).await?;
            let row = client.query_one(WHOSE, &[&config.slot]).await?;
            let flusher = Flusher::new(&client, config.waiters.clone()).await?;
            Ok((look, flusher, row.try_get(0)?, row.try_get::<_, Option<i32>>(1)?))
        };
        let (look, flusher, in_recovery, active) = asked.await.map_err(|error| failed(&error, config))?;
        let active = active.and_then(|pid| u32::try_from(pid).ok());
        if active != Some(walsender) {
            return Err(SourceError::lost(elsewhere(&config.slot, walsender, active)));
        }
        let in_recovery: bool = in_recovery;
        Ok(Server { config, client, look, flusher, is_primary: !in_recovery })
    }

    async fn flush(&mut self) -> Result<(), SourceError> {
        self.flusher.look(&self.client).await.map_err(|error| explain(&error, FLUSHING, &self.config.dsn))
    }

    async fn look(&mut self) -> Result<Snapshot, SourceError> {
        loop {
            let row = self.client.query_one(&self.look, &[]).await.map_err(|error| failed(&error, self.config))?;
            let text: Option<&str> = row.try_get(0).map_err(|error| failed(&error, self.config))?;
            let text = text.unwrap_or_default();
            if text.contains('/') {
                let replayed = text.parse().map_err(|error| strange(&error))?;
                return Ok(Snapshot::Standby(replayed));
            }
            let snapshot = text.parse().map_err(|error| strange(&error))?;
            if self.is_primary {
                return Ok(Snapshot::Primary(snapshot));
            }
            // The server was promoted, perhaps between this statement's snapshot and its end. A snapshot from recovery
            // lists no running transactions; the next one is a primary's.
            self.is_primary = true;
        }
    }
}

fn elsewhere(slot: &str, walsender: u32, active: Option<u32>) -> String {
    let slot = quote_identifier(slot);
    let active = match active {
        Some(pid) => format!("is active for PID {pid}"),
        None => "is not active".to_owned(),
    };
    format!(
        "could not {WHAT}: the stream comes from PID {walsender}, but on the server that dsn reaches now, the slot \
         {slot} {active}. If dsn names several servers, set target_session_attrs to select one"
    )
}

fn failed(error: &tokio_postgres::Error, config: &AskConfig) -> SourceError {
    explain(error, WHAT, &config.dsn)
}

fn strange(error: &dyn std::error::Error) -> SourceError {
    SourceError::protocol(format!("could not {WHAT}: {error}"))
}
