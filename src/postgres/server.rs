//! Postgres as a [`Source`]: looks at the slot, creates it and streams from it over a replication connection.

pub mod aside;
mod create;

use std::time::Duration;

use secrecy::SecretString;

use super::client::handshake;
use super::slot;
use super::stream::{PostgresStream, StreamSettings};
use super::synchronous::{Counted, STANDBYS, counted};
use super::{ErrorKind, Seen, SlotSeen, Source, SourceError};
use crate::postgres::client::dial::{Caller, STANDING, Standing, dial};
use crate::postgres::client::dsn::Dsn;
use crate::postgres::client::server_error::Doing;
use crate::postgres::client::session::{Failure, Rows, Session, unexpected};
use crate::postgres::client::socket::Socket;
use crate::types::lsn::Lsn;
use crate::types::server::{Fork, System};
use crate::types::slot::Slot;
use crate::types::table::{quote_identifier, quote_literal};
use crate::types::timeline;

use aside::Reading;
pub use create::Creation;

/// What to follow, and how.
#[derive(Debug, Clone)]
pub struct PostgresConfig {
    /// Where to connect.
    pub dsn: Dsn,
    /// Name of the slot.
    pub slot: String,
    /// Name of the publication.
    pub publication: String,
    /// Whether the server sends logical messages (`pg_logical_emit_message`; Postgres 14).
    pub messages: bool,
    /// How to create a slot.
    pub creation: Creation,
}

/// A Postgres server.
pub struct Postgres {
    config: PostgresConfig,
    /// Kept open from a look to the call that follows it.
    session: Option<Session>,
    /// The last look found no slot of this name.
    seen_missing: bool,
    /// The timeline whose unreadable history is already logged; without it, every look would log it again.
    history_told: Option<u32>,
}

/// A server that coherd may stream from.
struct Admitted {
    standby: bool,
    /// Zero means no timeout.
    wal_sender_timeout: Duration,
}

/// The oldest version that can send logical messages in its stream.
const MAJOR_MIN: u32 = 14;

/// The protocol option with which the server sends only committed transactions, whole and in commit order.
const COMMITTED: &str = "proto_version '1'";

/// The oldest version that decodes its log on a standby.
const MAJOR_MIN_ON_STANDBY: u32 = 16;

/// Opens replication connections.
pub(super) struct Replication;

impl Caller for Replication {
    type Call = Session;
    const REPLICATION: bool = true;

    async fn open(&self, socket: Socket, dsn: &Dsn, password: Option<&SecretString>) -> Result<Session, Failure> {
        let session = handshake::open(socket, dsn, password).await?;
        if session.major < MAJOR_MIN {
            let text = format!("it is Postgres {}; coherd needs {MAJOR_MIN} or later", session.major);
            return Err(SourceError::refused(text).into());
        }
        Ok(session)
    }

    async fn standing(&self, session: &mut Session) -> Result<Standing, Failure> {
        let rows = session.query(STANDING).await?;
        Ok(Standing { in_recovery: value(&rows, 0)? == "t", read_only: value(&rows, 1)? == "on" })
    }
}

/// The value in `column` of the first row; NULL reads as the empty string.
pub(super) fn value(rows: &Rows, column: usize) -> Result<&str, SourceError> {
    let cell = rows.first().and_then(|row| row.get(column)).ok_or_else(|| unexpected(b'D'))?;
    Ok(cell.as_deref().unwrap_or_default())
}

/// The value in `column` of the first row, parsed as a number or any other type.
pub(super) fn number<T: std::str::FromStr>(rows: &Rows, column: usize) -> Result<T, SourceError> {
    value(rows, column)?.parse().map_err(|_| unexpected(b'D'))
}

impl Postgres {
    /// Connects at the first use.
    pub fn new(config: PostgresConfig) -> Postgres {
        Postgres { config, session: None, seen_missing: false, history_told: None }
    }

    /// Returns the open session, or a new one. The session is taken out, so that one that failed halfway is not reused.
    async fn session(&mut self) -> Result<Session, SourceError> {
        match self.session.take() {
            Some(session) => Ok(session),
            None => dial(&self.config.dsn, &Replication).await,
        }
    }

    async fn ask(&self, session: &mut Session, what: &str, sql: &str) -> Result<Rows, SourceError> {
        let user = self.config.dsn.user();
        session.query(sql).await.map_err(|failure| failure.explain(Doing::Asking { what, user }))
    }

    async fn read_slot(&self, session: &mut Session) -> Result<Option<Slot>, SourceError> {
        let rows = self.ask(session, "look at the slot", &slot::query(&self.config.slot, session.major)).await?;
        let row = rows.into_iter().next();
        Ok(row.map(|row| slot::read(|column| row.get(column)?.as_deref())))
    }

    async fn slot(&self, session: &mut Session) -> Result<SlotSeen, SourceError> {
        let slot = self.read_slot(session).await?;
        let assess = |slot: Slot| slot::assess(&slot, &self.config.slot, self.config.dsn.database());
        slot.map_or(Ok(SlotSeen::Missing), assess)
    }

    /// The points at which the log left earlier timelines. Empty if the server cannot say: a history file that was
    /// removed must not keep coherd from following the log.
    async fn forks(&mut self, session: &mut Session, timeline: u32) -> Result<Vec<Fork>, SourceError> {
        if timeline <= 1 {
            return Ok(Vec::new());
        }
        let why = match session.query(&format!("TIMELINE_HISTORY {timeline}")).await {
            Ok(rows) => match timeline::forks(value(&rows, 1)?, timeline) {
                Ok(forks) => return Ok(forks),
                Err(bad) => bad.to_string(),
            },
            Err(Failure::Server(error)) => format!("{} [SQLSTATE {}]", error.message, error.code),
            Err(Failure::Other(error)) => return Err(error),
        };
        if self.history_told.replace(timeline) != Some(timeline) {
            tracing::warn!(
                timeline,
                "the server's timeline history cannot be read: {why}; coherd cannot tell which commits a promotion \
                 lost, so it treats the new timeline as a gap"
            );
        }
        Ok(Vec::new())
    }

    /// Fails unless the publication exists. A slot that is older than its publication can never be read (42704 at its
    /// first change), so the publication comes first.
    async fn require_publication(&self, session: &mut Session) -> Result<(), SourceError> {
        let name = &self.config.publication;
        let sql = format!("SELECT 1 FROM pg_catalog.pg_publication WHERE pubname = {}", quote_literal(name));
        if !self.ask(session, "look for the publication", &sql).await?.is_empty() {
            return Ok(());
        }
        Err(SourceError::refused(format!(
            "the publication {0} does not exist in the database {1}: run coherd setup, or CREATE PUBLICATION {0} FOR \
             TABLE …;",
            quote_identifier(name),
            quote_identifier(self.config.dsn.database())
        )))
    }

    async fn is_standby(&self, session: &mut Session) -> Result<bool, SourceError> {
        let standing = Replication.standing(session).await;
        let doing = Doing::Asking { what: "ask whether it is a standby", user: self.config.dsn.user() };
        standing.map(|standing| standing.in_recovery).map_err(|failure| failure.explain(doing))
    }

    /// Runs before coherd starts anything that writers could wait for.
    async fn require_that_nobody_waits_for_us(&self, session: &mut Session) -> Result<(), SourceError> {
        let what = "read synchronous_standby_names";
        let sql = "SELECT current_setting('synchronous_standby_names'), current_setting('application_name')";
        let rows = self.ask(session, what, sql).await?;
        let (setting, name) = (value(&rows, 0)?, value(&rows, 1)?);
        if counted(setting, name, &[]).is_none() {
            return Ok(());
        }
        let standbys: Vec<String> = self.ask(session, what, STANDBYS).await?.into_iter().flatten().flatten().collect();
        let waits = |counted: Counted| Err(SourceError::new(ErrorKind::Synchronous, counted.to_string()));
        counted(setting, name, &standbys).map_or(Ok(()), waits)
    }

    /// Drops the old slot of our name, but not one that another process has created since the last look found none.
    async fn drop_old(&self, session: &mut Session) -> Result<(), SourceError> {
        if self.slot(session).await? == SlotSeen::Missing {
            return Ok(());
        }
        let slot = &self.config.slot;
        if self.seen_missing {
            let text = format!("the slot {} has just been created by another process", quote_identifier(slot));
            return Err(SourceError::new(ErrorKind::Busy, text));
        }
        let sql = format!("DROP_REPLICATION_SLOT {}", always_quoted(slot));
        let dropped = session.query(&sql).await;
        let user = self.config.dsn.user();
        dropped.map_err(|failure| failure.explain(Doing::Creating { slot, user }))?;
        tracing::info!(slot, "dropped the old slot");
        Ok(())
    }

    /// Checks what must hold before a slot is created or streamed from.
    async fn admit(&self, session: &mut Session) -> Result<Admitted, SourceError> {
        let standby = self.is_standby(session).await?;
        if standby && session.major < MAJOR_MIN_ON_STANDBY {
            return Err(SourceError::refused(format!(
                "the server is a standby, and Postgres {} decodes its log on the primary only (standbys can be followed \
                 from {MAJOR_MIN_ON_STANDBY} on): name the primary in dsn, or all servers with \
                 target_session_attrs=primary, which finds it",
                session.major
            )));
        }
        self.require_publication(session).await?;
        if !standby {
            self.require_that_nobody_waits_for_us(session).await?;
        }
        let sql = "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'";
        let rows = self.ask(session, "read wal_sender_timeout", sql).await?;
        Ok(Admitted { standby, wal_sender_timeout: Duration::from_millis(number(&rows, 0)?) })
    }

    async fn create(&self, session: &mut Session) -> Result<Lsn, SourceError> {
        let Admitted { standby, .. } = self.admit(session).await?;
        self.create_waiting(session, standby).await
    }

    /// The confirmed position of the slot, which must be free: a process that streams from it may move the position.
    async fn free_slot_confirmed(&self, session: &mut Session) -> Result<Option<Lsn>, SourceError> {
        let Some(slot) = self.read_slot(session).await? else { return Ok(None) };
        let Some(pid) = slot.active_pid else { return Ok(slot.confirmed) };
        Err(SourceError::new(
            ErrorKind::Busy,
            format!("the slot {} is active for PID {pid}", quote_identifier(&self.config.slot)),
        ))
    }

    async fn start(&self, session: &mut Session) -> Result<StreamSettings, SourceError> {
        let slot = &self.config.slot;
        let confirmed = match self.slot(session).await? {
            SlotSeen::Usable { confirmed } => confirmed,
            SlotSeen::Missing => return Err(SourceError::gap(format!("the slot {slot} does not exist"))),
            SlotSeen::Lost { reason } => {
                return Err(SourceError::gap(format!("the slot {slot} is lost ({reason}): its log is gone")));
            }
        };
        let admitted = self.admit(session).await?;
        let confirmed = self.free_slot_confirmed(session).await?.unwrap_or(confirmed);
        self.start_from(session, confirmed, admitted, Reading::Committed).await
    }

    /// Starts to stream from the slot, whose confirmed position is `confirmed`.
    async fn start_from(
        &self,
        session: &mut Session,
        confirmed: Lsn,
        Admitted { standby, wal_sender_timeout }: Admitted,
        reading: Reading,
    ) -> Result<StreamSettings, SourceError> {
        let (slot, publication) = (self.config.slot.clone(), self.config.publication.clone());
        let started = session.start(&self.start_command(reading.protocol())).await;
        let doing = Doing::Starting { slot: &slot, user: self.config.dsn.user() };
        started.map_err(|failure| failure.explain(doing))?;
        Ok(StreamSettings { slot, publication, confirmed, wal_sender_timeout, standby, holding: reading.holding() })
    }

    /// Position 0/0 means the slot's confirmed position. Option values are literals of the replication grammar, in
    /// which a backslash has no special meaning. The server reads the list of names inside as SQL identifiers.
    /// `protocol` is the first of the options.
    fn start_command(&self, protocol: &str) -> String {
        let names = always_quoted(&self.config.publication).replace('\'', "''");
        format!(
            "START_REPLICATION SLOT {} LOGICAL 0/0 ({protocol}, publication_names '{names}', messages '{}')",
            always_quoted(&self.config.slot),
            self.config.messages
        )
    }
}

/// Always quotes, because the replication grammar has keywords of its own.
fn always_quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Whether the session can be used after this result.
fn keeps_session<T>(result: &Result<T, SourceError>) -> bool {
    result.as_ref().err().is_none_or(|error| !error.policy().ends_session)
}

impl Source for Postgres {
    type Stream = PostgresStream;

    async fn look(&mut self) -> Result<Seen, SourceError> {
        let mut session = self.session().await?;
        let looked = async {
            // Before the timeline, so that a slot that a promotion made usable is seen on the new timeline.
            let slot = self.slot(&mut session).await?;
            let system = self.ask(&mut session, "identify the system", "IDENTIFY_SYSTEM").await?;
            let timeline = number(&system, 1)?;
            let forks = self.forks(&mut session, timeline).await?;
            let system = System { id: number(&system, 0)?, timeline, wal_end: number(&system, 2)?, forks };
            Ok(Seen { system, slot })
        };
        let seen = looked.await;
        if keeps_session(&seen) {
            self.session = Some(session);
        }
        self.seen_missing = matches!(&seen, Ok(Seen { slot: SlotSeen::Missing, .. }));
        seen
    }

    /// Drops an old slot of this name first, unless the last look found none.
    async fn create_slot(&mut self) -> Result<Lsn, SourceError> {
        let mut session = self.session().await?;
        let created = self.create(&mut session).await;
        if keeps_session(&created) {
            self.session = Some(session);
        }
        created
    }

    async fn stream(&mut self) -> Result<(PostgresStream, Lsn), SourceError> {
        let mut session = self.session().await?;
        match self.start(&mut session).await {
            Ok(settings) => {
                let confirmed = settings.confirmed;
                Ok((PostgresStream::new(session, settings), confirmed))
            }
            Err(error) => {
                let result = Err(error);
                if keeps_session(&result) {
                    self.session = Some(session);
                }
                result
            }
        }
    }
}
