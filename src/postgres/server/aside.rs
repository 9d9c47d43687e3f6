//! A stream beside the daemon's, for commands that show changes to people. It reads from a temporary slot, which ends
//! with its connection and then holds nothing back. It waits for no lock; creating the slot waits for the transactions
//! that are running.

use super::{COMMITTED, Postgres, PostgresStream, SourceError};
use crate::postgres::client::inbox::Holding;
use crate::types::lsn::Lsn;

/// What a stream sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Committed transactions, as the daemon gets them.
    Committed,
    /// Also transactions in progress, in the protocol that [`crate::pgoutput::streamed`] reads. As soon as more than
    /// [`IN_PROGRESS_BYTES`] of changes are waiting, the server sends the largest transaction.
    InProgress,
}

/// `logical_decoding_work_mem` of such a stream, in bytes: the minimum that Postgres allows.
pub const IN_PROGRESS_BYTES: usize = 64 << 10;

impl Reading {
    pub(super) const fn protocol(self) -> &'static str {
        match self {
            Reading::Committed => COMMITTED,
            Reading::InProgress => "proto_version '2', streaming 'on'",
        }
    }

    pub(super) const fn holding(self) -> Holding {
        match self {
            Reading::Committed => Holding::Streamed,
            Reading::InProgress => Holding::Whole,
        }
    }
}

impl Postgres {
    /// Creates a temporary slot of the configured name, streams from it, and returns the position from which it sends.
    /// The slot ends with the stream.
    pub async fn stream_aside(mut self, reading: Reading) -> Result<(PostgresStream, Lsn), SourceError> {
        let mut session = self.session().await?;
        let admitted = self.admit(&mut session).await?;
        if reading == Reading::InProgress {
            let sql = format!("SET logical_decoding_work_mem = '{}kB'", IN_PROGRESS_BYTES >> 10);
            self.ask(&mut session, "set logical_decoding_work_mem", &sql).await?;
        }
        let confirmed = self.create_aside(&mut session, &self.config.slot, "TEMPORARY", admitted.standby).await?;
        let settings = self.start_from(&mut session, confirmed, admitted, reading).await?;
        Ok((PostgresStream::new(session, settings), confirmed))
    }
}
