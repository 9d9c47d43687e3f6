//! Asks servers what their readers see: the source whenever the gate asks ([`ask_source`]), and each listed replica at
//! a pace that depends on the position coherd waits for ([`follow_replica`]).
//!
//! **The source** is asked over its own SQL session with one prepared statement, because this stands between a commit
//! and its invalidation. Only the server whose walsender sends the stream may answer: another one, such as an old
//! primary that is still up, has other transactions under the same ids. So a session belongs to one stream. It counts
//! once coherd has seen the slot active for that walsender there, and another stream gets another session.
//!
//! **A replica** must report how far it has replayed and on which timeline: its upstream may be promoted, and the
//! replica follows without dropping a connection. No SQL function that every role may call reports that timeline at
//! once; the control file lags by a checkpoint, and `pg_stat_wal_receiver` shows what was received, to monitoring roles
//! only. `IDENTIFY_SYSTEM` reports it, on a replication connection, which runs SQL too. So coherd opens one. It needs
//! only what the source needs (REPLICATION, an entry in pg_hba.conf) and takes one of the replica's `max_wal_senders`.
//! A pooler cannot route its statements to different servers.
//!
//! coherd asks for the position first and the timeline after it, in one round trip. A server's timeline only rises
//! while it runs, and what it has replayed is part of every timeline that it moves to later. So the pair is true even
//! if the timeline changes in between. In the other order, a position on the new timeline could be taken for one on the
//! old.

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

/// Time limit of one exchange. A server that hangs does not enforce its statement_timeout either.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Gives up an exchange that takes too long. `what` completes "could not".
async fn in_time<T>(what: &str, asking: impl Future<Output = Result<T, SourceError>>) -> Result<T, SourceError> {
    answered_within(ANSWER_MAX, what, asking).await
}

/// Gives up an attempt to connect that takes too long.
async fn reached<T>(dsn: &Dsn, connecting: impl Future<Output = Result<T, SourceError>>) -> Result<T, SourceError> {
    let most = dsn.connect_max();
    tokio::time::timeout(most, connecting).await.unwrap_or_else(|_| {
        let text =
            format!("could not connect within {} s; connect_timeout in the DSN sets another limit", most.as_secs());
        Err(SourceError::lost(text))
    })
}
