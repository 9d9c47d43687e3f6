//! Asks servers what their readers see: the source whenever the gate asks ([`ask_source`]).

mod source;

use super::Sighted;
use super::dsn::Dsn;
use crate::lsn::Lsn;
pub use source::{AskConfig, ask_source};
#[allow(missing_docs)]
pub struct FollowConfig {
    pub dsn: Dsn,
    pub pace: std::time::Duration,
}
#[allow(missing_docs)]
pub async fn follow_replica(
    _: usize,
    _: FollowConfig,
    _: tokio::sync::watch::Receiver<Lsn>,
    _: tokio::sync::mpsc::Sender<Sighted>,
) {
}
