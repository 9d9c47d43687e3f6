//! The channels between the loop and the tasks that ask the source and its replicas.

use tokio::sync::{mpsc, watch};

use crate::postgres::{Probed, Question};
use crate::types::lsn::Lsn;

/// The channels to and from the tasks that ask the source and its replicas.
pub struct Probes {
    /// Answers.
    pub probed: mpsc::Receiver<Probed>,
    /// Questions to the source.
    pub questions: watch::Sender<Question>,
    /// The position that replicas have to replay.
    pub wanted: watch::Sender<Lsn>,
}

impl Probes {
    /// Asks what new snapshots see on the server that runs this walsender.
    pub(super) fn ask(&self, walsender: u32) {
        self.questions.send_modify(|question| {
            *question = Question { walsender: Some(walsender), number: question.number.wrapping_add(1) };
        });
    }

    /// Stops the questions to the source, because there is no stream.
    pub(super) fn closed(&self) {
        self.questions.send_modify(|question| question.walsender = None);
    }
}
