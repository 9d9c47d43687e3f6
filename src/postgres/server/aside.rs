//! A stream beside the daemon's, for people who look: from a temporary slot, which ends with its connection and then
//! holds nothing back. It waits for nobody's lock; making the slot waits for the transactions that are running.

use super::{
    COMMITTED, Doing, Holding, MAJOR_MIN_ON_STANDBY, Postgres, PostgresStream, SourceError, StreamSettings, explain,
};
use crate::types::lsn::Lsn;

/// The oldest version that sends transactions in progress, with the messages that were written in them.
const MAJOR_MIN_IN_PROGRESS: u32 = 14;

/// What a stream brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Committed transactions, as to the daemon.
    Committed,
    /// Also those in progress, in the protocol that [`crate::pgoutput::streamed`] reads: as soon as more than
    /// [`IN_PROGRESS_BYTES`] of changes wait, the largest transaction is sent.
    InProgress,
}

/// `logical_decoding_work_mem` of a stream in progress, in bytes: the least there can be.
pub const IN_PROGRESS_BYTES: usize = 64 << 10;

impl Reading {
    const fn protocol(self) -> &'static str {
        match self {
            Reading::Committed => COMMITTED,
            Reading::InProgress => "proto_version '2', streaming 'on'",
        }
    }

    const fn holding(self) -> Holding {
        match self {
            Reading::Committed => Holding::Streamed,
            Reading::InProgress => Holding::Whole,
        }
    }
}

impl Postgres {
    /// Makes a temporary slot of the configured name and streams from it, and gives the position from which it sends.
    /// The slot is gone when the stream is.
    pub async fn stream_aside(mut self, reading: Reading) -> Result<(PostgresStream, Lsn), SourceError> {
        let mut session = self.session().await?;
        let standby = self.is_standby(&mut session).await?;
        let oldest = match (reading, standby) {
            (Reading::InProgress, _) => MAJOR_MIN_IN_PROGRESS,
            (Reading::Committed, true) => MAJOR_MIN_ON_STANDBY,
            (Reading::Committed, false) => 0,
        };
        if session.major < oldest {
            let major = session.major;
            return Err(SourceError::Refused(format!("this needs Postgres {oldest} or later, and it is {major}")));
        }
        self.require_publication(&mut session).await?;
        if !standby {
            self.require_that_nobody_waits_for_us(&mut session).await?;
        }
        if reading == Reading::InProgress {
            let sql = format!("SET logical_decoding_work_mem = '{}kB'", IN_PROGRESS_BYTES >> 10);
            self.ask(&mut session, "set logical_decoding_work_mem", &sql).await?;
        }
        let wal_sender_timeout = self.sender_timeout(&mut session).await?;
        let (slot, user) = (&self.config.slot, self.config.dsn.user());
        let confirmed = self.create_aside(&mut session, slot, "TEMPORARY", standby).await?;
        let started = session.start(&self.start_command(session.major, reading.protocol())).await;
        started.map_err(|failure| explain(failure, Doing::Starting { slot, user }))?;
        let settings = StreamSettings {
            slot: slot.clone(),
            publication: self.config.publication.clone(),
            confirmed,
            wal_sender_timeout,
            standby,
            holding: reading.holding(),
        };
        Ok((PostgresStream::new(session, settings), confirmed))
    }
}
