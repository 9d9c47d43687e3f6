//! What is told of the source's and the replicas' readers.

use tracing::{debug, info, warn};

use super::Observer;
use crate::core::Absent;
use crate::postgres::SourceError;
use crate::types::lsn::Lsn;

impl Observer {
    /// The source says what its readers see.
    pub(in crate::runtime) fn probed(&mut self) {
        if self.board.probed() {
            info!("commit visibility can be checked again");
        }
    }

    /// It cannot be asked, though the stream may run.
    pub(in crate::runtime) fn unprobed(&mut self, error: &SourceError) {
        let fault = error.to_string();
        if self.board.unprobed(&fault) {
            warn!(
                "cannot check commit visibility, retrying. coherd sends early invalidations and repeats them later. Nothing \
                 settles until it can check again: {fault}"
            );
        } else {
            debug!("cannot check commit visibility: {fault}");
        }
    }

    /// A replica has answered.
    pub(in crate::runtime) fn replica_seen(&mut self, replica: usize, replayed: Option<Lsn>) {
        let recovers = self.board.replica(replica, |its| {
            its.replayed = replayed;
            its.fault.take().is_some()
        });
        if recovers {
            info!(replica = &*self.board.replica_name(replica), "the replica answers again");
        }
    }

    /// A replica cannot be asked.
    pub(in crate::runtime) fn replica_away(&mut self, replica: usize, error: &SourceError) {
        let fault = error.to_string();
        let is_new = self.board.replica(replica, |its| {
            its.held = false;
            its.fault.replace(fault.clone()).is_none()
        });
        if is_new {
            warn!(replica = &*self.board.replica_name(replica), "the replica does not answer, retrying: {fault}");
        } else {
            debug!(replica = &*self.board.replica_name(replica), "the replica does not answer: {fault}");
        }
    }

    /// Whether readers may rely on the replica, as far as its answers go.
    pub(in crate::runtime) fn replica_held(&mut self, replica: usize, held: bool) {
        self.board.replica(replica, |its| its.held = held && its.fault.is_none());
    }

    /// What the replica has not replayed settles without it.
    pub(in crate::runtime) fn replica_left(&mut self, replica: usize, why: Absent) {
        let why = why.to_string();
        warn!(
            replica = &*self.board.replica_name(replica),
            "stopped waiting for the replica: {why}. Do not fill caches from it. When it has caught up, coherd flushes the \
             rules that changed in the meantime"
        );
        self.board.replica_stands(replica, Some(why));
    }

    /// It is waited for again.
    pub(in crate::runtime) fn replica_returned(&mut self, replica: usize) {
        info!(replica = &*self.board.replica_name(replica), "the replica has caught up; waiting for it again");
        self.board.replica_stands(replica, None);
    }
}
