//! Asks servers what their readers see: the source whenever the gate asks ([`ask_source`]), and each listed replica in
//! step with what it is waited for ([`follow_replica`]).
//!
//! **The source** is asked over an SQL session of its own, with one prepared statement, because this stands between a
//! commit and its invalidation. Only the server whose walsender sends the stream may answer: another one, say an old
//! primary that is still up, has other transactions under the same ids. So a session belongs to one stream. It counts
//! once the slot is seen to be active for that walsender there, and another stream gets another session.

mod source;

pub use source::{AskConfig, ask_source};
