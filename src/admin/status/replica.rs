//! What coherd knows about the replicas that readers read from.

use std::sync::Arc;
use std::time::SystemTime;

use crate::types::lsn::Lsn;

/// One listed replica, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// `user@host:port/database`.
    pub name: Arc<str>,
    /// Everything before this position is replayed there; `None` before its first answer, and while it is not a
    /// standby.
    pub replayed: Option<Lsn>,
    /// Why coherd cannot query it; `None` while it can.
    pub fault: Option<String>,
    /// Why the settled watermark does not wait for it; `None` while it does.
    pub left: Option<String>,
    /// Whether readers may fill caches from it: it has replayed everything that has settled, nothing settles without
    /// it, and coherd has flushed what readers may have stored while that was not so.
    pub held: bool,
    /// When coherd last started or stopped waiting for it.
    pub since: SystemTime,
}

impl ReplicaStatus {
    pub(super) fn unheard(name: Arc<str>, since: SystemTime) -> ReplicaStatus {
        ReplicaStatus { name, replayed: None, fault: None, left: None, held: false, since }
    }
}
