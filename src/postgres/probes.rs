//! Asks servers what their readers see: the source whenever the gate asks ([`ask_source`]), and each listed replica in
//! step with what it is waited for ([`follow_replica`]).
//!
//! **The source** is asked over an SQL session of its own, with one prepared statement, because this stands between a
//! commit and its invalidation. Only the server whose walsender sends the stream may answer: another one, say an old
//! primary that is still up, has other transactions under the same ids. So a session belongs to one stream. It counts
//! once the slot is seen to be active for that walsender there, and another stream gets another session.
//!
//! **A replica** has to say how far it has replayed, and on which timeline: its upstream may be promoted, and it follows
//! without dropping a connection. No SQL function that anybody may call knows that timeline at once; the control file
//! lags by a checkpoint, and `pg_stat_wal_receiver` shows what was received, to monitoring roles only. `IDENTIFY_SYSTEM`
//! does, on a replication connection, where SQL can be run too. So there is one, which needs nothing but what the source
//! needs (REPLICATION, an entry in pg_hba.conf) and takes one of the replica's `max_wal_senders`. A pooler cannot lead
//! its statements to different servers.
//!
//! The position is asked first and the timeline after it, in one round trip. A server's timelines only rise as long as
//! it runs, and what it has replayed is part of each timeline that it comes to later. So the pair is true even if the
//! timeline changes in between; the other way round, a position of the new one could be taken for one of the old.

mod flush;
mod pacing;
mod replica;
mod source;

use std::future::Future;
use std::time::Duration;

use super::SourceError;
use crate::postgres::client::dsn::Dsn;
use crate::postgres::client::session::answered_within;

pub use replica::{FollowConfig, REPLICA_PACE, follow_replica};
pub use source::{AskConfig, ask_source};

/// How long one exchange may take; a server that hangs answers no statement_timeout either.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Gives an exchange up that takes too long. `what` completes "could not".
async fn in_time<T>(what: &str, asking: impl Future<Output = Result<T, SourceError>>) -> Result<T, SourceError> {
    answered_within(ANSWER_MAX, what, asking).await
}

/// Gives an attempt to connect up that takes too long.
async fn reached<T>(dsn: &Dsn, connecting: impl Future<Output = Result<T, SourceError>>) -> Result<T, SourceError> {
    let most = dsn.connect_max();
    tokio::time::timeout(most, connecting).await.unwrap_or_else(|_| {
        let text =
            format!("could not connect within {} s; connect_timeout in the DSN sets another limit", most.as_secs());
        Err(SourceError::lost(text))
    })
}
