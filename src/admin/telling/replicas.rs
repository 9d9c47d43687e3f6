//! Reports on replicas: whether each answers, whether coherd waits for it, and whether readers may use it.

use std::collections::HashMap;

use tracing::{debug, info, warn};

use super::Spell;
use crate::admin::status::Board;
use crate::postgres::SourceError;
use crate::types::lsn::Lsn;

pub(crate) struct Replicas {
    board: Board,
    /// Replicas that do not answer.
    silent: HashMap<usize, Spell>,
}

impl Replicas {
    pub(crate) fn new(board: &Board) -> Replicas {
        Replicas { board: board.clone(), silent: HashMap::new() }
    }

    /// A replica has answered.
    pub(crate) fn seen(&mut self, replica: usize, replayed: Option<Lsn>) {
        self.board.replica(replica, |its| (its.replayed, its.fault) = (replayed, None));
        if self.silent.entry(replica).or_default().ends() {
            info!(replica = &*self.board.replica_name(replica), "the replica answers again");
        }
    }

    /// A replica does not answer.
    pub(crate) fn away(&mut self, replica: usize, error: &SourceError) {
        let fault = error.to_string();
        self.board.replica(replica, |its| (its.held, its.fault) = (false, Some(fault.clone())));
        let name = &*self.board.replica_name(replica);
        if self.silent.entry(replica).or_default().begins() {
            warn!(replica = name, "the replica does not answer, retrying: {fault}");
        } else {
            debug!(replica = name, "the replica does not answer: {fault}");
        }
    }

    /// Whether readers may rely on the replica, judged by its answers.
    pub(crate) fn held(&self, replica: usize, held: bool) {
        self.board.replica(replica, |its| its.held = held && its.fault.is_none());
    }

    /// The replica is no longer held: commits that it has not replayed settle without it.
    pub(crate) fn left(&self, replica: usize, why: &str) {
        warn!(
            replica = &*self.board.replica_name(replica),
            "stopped waiting for the replica: {why}. Do not fill caches from it. When it has caught up, coherd flushes the \
             rules that changed in the meantime"
        );
        self.board.replica_stands(replica, Some(why.to_owned()));
    }

    /// coherd waits for the replica again.
    pub(crate) fn returned(&self, replica: usize) {
        info!(replica = &*self.board.replica_name(replica), "the replica has caught up; waiting for it again");
        self.board.replica_stands(replica, None);
    }
}
