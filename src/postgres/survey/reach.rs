//! Finds out who answers a replication connection: the intended server, or something in between.

use std::time::Duration;

use crate::postgres::SourceError;
use crate::postgres::client::dial::dial;
use crate::postgres::client::dsn::Dsn;
use crate::postgres::client::server_error::Doing;
use crate::postgres::client::session::{Rows, Session, answered_within};
use crate::postgres::server::{Replication, number, value};
use crate::types::lsn::Lsn;
use crate::types::server::Life;

/// Time limit of the questions, once connected.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Completes "could not".
const WHAT: &str = "ask the server who it is";

/// What a server reports over a replication connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// The process id in `BackendKeyData`.
    pub announced_pid: u32,
    /// `pg_backend_pid()`. Another number means that something in between has answered the greeting.
    pub backend_pid: u32,
    /// Which server it is.
    pub life: Life,
    /// The end of the log: flushed, or, on a standby, replayed.
    pub position: Lsn,
    /// `None` unless the server is a standby.
    pub standby: Option<Standby>,
}

/// What a standby reports about its replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standby {
    /// `pg_is_wal_replay_paused()`.
    pub paused: bool,
    /// `recovery_min_apply_delay`; zero means none.
    pub delay: Duration,
}

/// A replication connection that only asks questions.
pub struct Reach {
    session: Session,
    user: String,
}

const SERVER: &str = "SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_postmaster_start_time()::text, \
    pg_catalog.pg_is_in_recovery(), \
    CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_is_wal_replay_paused() END, \
    (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'recovery_min_apply_delay')";

const POSITION: &str = "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() \
    THEN coalesce(pg_catalog.pg_last_wal_replay_lsn(), '0/0') ELSE pg_catalog.pg_current_wal_flush_lsn() END";

impl Reach {
    /// Connects to the server.
    pub async fn open(dsn: &Dsn) -> Result<Reach, SourceError> {
        let session = dial(dsn, &Replication).await?;
        Ok(Reach { session, user: dsn.user().to_owned() })
    }

    /// Asks everything in [`Reached`].
    pub async fn look(&mut self) -> Result<Reached, SourceError> {
        let asking = async {
            let server = self.ask(SERVER).await?;
            let system = self.ask("IDENTIFY_SYSTEM").await?;
            let position = self.ask(POSITION).await?;
            let delay = Duration::from_millis(number(&server, 4).unwrap_or_default());
            let standby = Standby { paused: value(&server, 3)? == "t", delay };
            Ok(Reached {
                announced_pid: self.session.backend_pid,
                backend_pid: number(&server, 0)?,
                life: Life { system_id: Some(number(&system, 0)?), started: value(&server, 1)?.to_owned() },
                position: number(&position, 0)?,
                standby: (value(&server, 2)? == "t").then_some(standby),
            })
        };
        answered_within(ANSWER_MAX, WHAT, asking).await
    }

    /// The end of the server's log: flushed, or, on a standby, replayed.
    pub async fn position(&mut self) -> Result<Lsn, SourceError> {
        let asking = async { number(&self.ask(POSITION).await?, 0) };
        answered_within(ANSWER_MAX, WHAT, asking).await
    }

    async fn ask(&mut self, sql: &str) -> Result<Rows, SourceError> {
        let rows = self.session.query(sql).await;
        rows.map_err(|failure| failure.explain(Doing::Asking { what: WHAT, user: &self.user }))
    }
}
