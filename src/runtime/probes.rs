//! The way to those who ask the source and its replicas.

use tokio::sync::{mpsc, watch};

use crate::postgres::{Probed, Question};
use crate::types::lsn::Lsn;

/// The way to those who ask the source and its replicas.
pub struct Probes {
    /// Answers.
    pub probed: mpsc::Receiver<Probed>,
    /// Questions to the source.
    pub questions: watch::Sender<Question>,
    /// The position that replicas have to replay.
    pub wanted: watch::Sender<Lsn>,
}

impl Probes {
    /// What do new snapshots show of the server that has this walsender?
    pub(super) fn ask(&self, walsender: u32) {
        self.questions.send_modify(|question| {
            *question = Question { walsender: Some(walsender), number: question.number.wrapping_add(1) };
        });
    }

    /// There is no stream.
    pub(super) fn closed(&self) {
        self.questions.send_modify(|question| question.walsender = None);
    }
}
