//! Asks a replica what its readers see, and of which history.

use std::time::Duration;

use postgres_protocol::message::frontend;
use tokio::sync::mpsc::Sender;
use tokio::sync::watch::Receiver;
use tokio::time::Instant;

use super::pacing::{Next, Pacing, is_wanted};
use super::{in_time, reached};
use crate::backoff::Backoff;
use crate::postgres::client::dial::dial;
use crate::postgres::client::dsn::Dsn;
use crate::postgres::client::server_error::Doing;
use crate::postgres::client::session::{Failure, Rows, Session};
use crate::postgres::server::{Replication, number, value};
use crate::postgres::{Probed, SourceError};
use crate::types::lsn::Lsn;
use crate::types::snapshot::ReplicaSeen;

/// How often coherd asks a replica that it does not wait for.
pub const REPLICA_PACE: Duration = Duration::from_secs(1);

/// The first pause between attempts to connect.
const RETRY_FIRST: Duration = Duration::from_millis(50);
/// The longest pause.
const RETRY_MOST: Duration = Duration::from_secs(5);
/// The longest pause while coherd waits for the replica.
const RETRY_WANTED: Duration = Duration::from_millis(500);

/// Completes "could not".
const WHAT: &str = "ask the replica what its readers see";

const SETTINGS: &str = "SET statement_timeout = '4s'";

/// Whether the server logs each `IDENTIFY_SYSTEM`, and a number that differs from one run of the server to the next.
/// After a crash of one of its processes the postmaster stays, and the statistics are reset (`StartupXLOG` in xlog.c
/// discards them after a crash).
const SERVER: &str = "SELECT pg_catalog.current_setting('log_replication_commands'), \
    pg_catalog.hashtextextended(pg_catalog.concat(pg_catalog.pg_postmaster_start_time(), ' ', \
        pg_catalog.pg_stat_get_bgwriter_stat_reset_time()), 0)";

/// NULL if the server takes writes.
const REPLAYED: &str = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() \
    THEN coalesce(pg_catalog.pg_last_wal_replay_lsn(), '0/0') END";

/// Which replica to follow.
#[derive(Debug, Clone)]
pub struct FollowConfig {
    /// Where to connect. A server in any role will do, unless `target_session_attrs` asks for one.
    pub dsn: Dsn,
    /// How often to ask while nobody waits for the replica; [`REPLICA_PACE`], except in tests.
    pub pace: Duration,
}

/// Reports what replica `index` has replayed, until the receiver is gone or nobody wants anything any more.
///
/// `wanted` is the position of a commit record that should be replayed, zero for none. Until it is replayed, coherd
/// asks every 1 to 20 ms, or every 200 ms if the server logs each question. After that it asks once per `pace`, and
/// whenever `wanted` is sent, even with the same value. Each failure is reported once, and followed by a pause and a
/// new connection.
pub async fn follow_replica(index: usize, config: FollowConfig, wanted: Receiver<Lsn>, probed: Sender<Probed>) {
    let closed = probed.clone();
    let mut following = Following { index, config, wanted, probed, replayed: Some(Lsn::ZERO) };
    tokio::select! {
        () = following.keep_following() => {}
        () = closed.closed() => {}
    }
}

/// Nobody listens or wants anything any more.
struct Gone;

struct Following {
    index: usize,
    config: FollowConfig,
    wanted: Receiver<Lsn>,
    probed: Sender<Probed>,
    /// The position in the last answer, over all connections.
    replayed: Option<Lsn>,
}

impl Following {
    async fn keep_following(&mut self) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        loop {
            let Err(error) = self.follow_once(&mut backoff).await else { return };
            let away = Probed::ReplicaAway { index: self.index, error };
            if self.probed.send(away).await.is_err() || self.retry(backoff.next(fastrand::u32(..))).await.is_err() {
                return;
            }
        }
    }

    /// Pauses before the next attempt.
    async fn retry(&mut self, pause: Duration) -> Result<(), Gone> {
        let began = Instant::now();
        tokio::time::sleep(pause.min(RETRY_WANTED)).await;
        while !is_wanted(self.replayed.or(Some(Lsn::ZERO)), *self.wanted.borrow_and_update()) {
            tokio::select! {
                () = tokio::time::sleep_until(began + pause) => break,
                changed = self.wanted.changed() => changed.map_err(|_| Gone)?,
            }
        }
        Ok(())
    }

    /// Runs one connection. `Ok` means that nobody listens or wants anything any more.
    async fn follow_once(&mut self, backoff: &mut Backoff) -> Result<(), SourceError> {
        let dsn = &self.config.dsn;
        let session = reached(dsn, dial(dsn, &Replication)).await?;
        let mut replica = Replica { session, user: dsn.user().to_owned(), run: 0 };
        let logs_commands = in_time(WHAT, replica.set_up()).await?;
        let mut pacing = Pacing::new(logs_commands);
        loop {
            let began = Instant::now();
            let wanted = *self.wanted.borrow_and_update();
            let seen = in_time(WHAT, replica.look()).await?;
            backoff.reset();
            self.replayed = seen.replayed;
            if self.probed.send(Probed::Replica { index: self.index, seen }).await.is_err() {
                return Ok(());
            }
            if self.pause(pacing.next(seen.replayed, wanted), began).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn pause(&mut self, next: Next, began: Instant) -> Result<(), Gone> {
        match next {
            Next::After(pause) => {
                tokio::time::sleep_until(began + pause).await;
                self.wanted.has_changed().map(|_| ()).map_err(|_| Gone)
            }
            Next::WhenWanted(pause) => {
                tokio::time::sleep_until(began + pause).await;
                match tokio::time::timeout_at(began + self.config.pace, self.wanted.changed()).await {
                    Ok(Err(_)) => Err(Gone),
                    Ok(Ok(())) | Err(_) => Ok(()),
                }
            }
        }
    }
}

/// A replication connection, which runs SQL too.
struct Replica {
    session: Session,
    user: String,
    /// [`ReplicaSeen::run`]. No connection outlives a run.
    run: i64,
}

impl Replica {
    /// Sets the session up, and returns whether the server logs the commands that follow.
    async fn set_up(&mut self) -> Result<bool, SourceError> {
        let asked = async {
            self.session.query(SETTINGS).await?;
            self.session.query(SERVER).await
        };
        let rows = asked.await.map_err(|failure| failed(failure, &self.user))?;
        self.run = number(&rows, 1)?;
        Ok(value(&rows, 0)? == "on")
    }

    async fn look(&mut self) -> Result<ReplicaSeen, SourceError> {
        let (replayed, system) = self.ask().await.map_err(|failure| failed(failure, &self.user))?;
        let takes_writes = value(&replayed, 0)?.is_empty();
        let replayed = if takes_writes { None } else { Some(number(&replayed, 0)?) };
        let (system_id, timeline) = (number(&system, 0)?, number(&system, 1)?);
        Ok(ReplicaSeen { system_id, timeline, replayed, run: self.run })
    }

    /// Asks for the position, and for the timeline after it.
    async fn ask(&mut self) -> Result<(Rows, Rows), Failure> {
        self.session
            .send(|out| {
                frontend::query(REPLAYED, out)?;
                frontend::query("IDENTIFY_SYSTEM", out)
            })
            .await?;
        Ok((self.session.rows().await?, self.session.rows().await?))
    }
}

fn failed(failure: Failure, user: &str) -> SourceError {
    failure.explain(Doing::Asking { what: WHAT, user })
}
