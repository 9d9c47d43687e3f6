//! What is known of the servers that readers read from.

use std::sync::Arc;
use std::time::SystemTime;

use crate::types::lsn::Lsn;

/// One listed replica, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// `user@host:port/database`.
    pub name: Arc<str>,
    /// Everything before is replayed there; `None` before its first answer, and while it is no standby.
    pub replayed: Option<Lsn>,
    /// Why it cannot be asked, while that is so.
    pub fault: Option<String>,
    /// Why the settled watermark does not wait for it, while that is so.
    pub left: Option<String>,
    /// Whether readers may read from it what they fill caches with: it has replayed all that has settled, nothing settles
    /// without it, and what readers may have filled in while that was otherwise is flushed.
    pub held: bool,
    /// Since when it has been waited for, or not.
    pub since: SystemTime,
}

impl ReplicaStatus {
    pub(super) fn unheard(name: Arc<str>, since: SystemTime) -> ReplicaStatus {
        ReplicaStatus { name, replayed: None, fault: None, left: None, held: false, since }
    }
}
