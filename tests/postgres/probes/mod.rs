//! The probes of what a server's readers see, always with the least-privileged role.

mod replica;
mod source;

use std::time::Duration;

use coherd::postgres::probes::{AskConfig, FollowConfig, ask_source, follow_replica};
use coherd::postgres::{Probed, Question, SourceError, Stream};
use coherd::types::lsn::Lsn;
use coherd::types::snapshot::{Commit, ReplicaSeen, Snapshot};
use tokio::sync::{mpsc, watch};

use super::{Followed, Got, dsn, runtime};
use crate::support::wait::PATIENCE;

/// The gate's side of [`ask_source`], which runs only while a method waits for it.
pub struct Asking {
    runtime: tokio::runtime::Runtime,
    questions: watch::Sender<Question>,
    probed: mpsc::Receiver<Probed>,
}

impl Asking {
    /// Probes the server at `text` about the stream from `slot`.
    pub fn start(text: &str, slot: &str) -> Asking {
        let (questions, put) = watch::channel(Question::default());
        let (sender, probed) = mpsc::channel(4);
        let runtime = runtime();
        let waiters = watch::channel(0).1;
        runtime.spawn(ask_source(AskConfig { dsn: dsn(text), slot: slot.into(), waiters }, put, sender));
        Asking { runtime, questions, probed }
    }

    /// Probes `followed`'s server about its stream.
    pub fn about(followed: &Followed) -> Asking {
        let database = &followed.database;
        database.create_role();
        let asking = Asking::start(&database.dsn_as("coherd"), &database.name);
        asking.follow(Some(followed.stream.walsender()));
        asking
    }

    /// Sets the stream that is followed from now on.
    pub fn follow(&self, walsender: Option<u32>) {
        self.questions.send_modify(|question| question.walsender = walsender);
    }

    /// Asks a question.
    pub fn put(&self) {
        self.questions.send_modify(|question| question.number += 1);
    }

    pub fn next(&mut self) -> Probed {
        let next = async { tokio::time::timeout(PATIENCE, self.probed.recv()).await };
        self.runtime.block_on(next).expect("nobody says anything").expect("it has ended")
    }

    /// The next answer. It must be about the stream that is followed.
    pub fn answer(&mut self) -> Snapshot {
        let followed = self.questions.borrow().walsender;
        match self.next() {
            Probed::Source { walsender, snapshot } => {
                assert_eq!(Some(walsender), followed);
                snapshot
            }
            other => panic!("{other:?}"),
        }
    }

    /// Asks a question and returns the answer.
    pub fn ask(&mut self) -> Snapshot {
        self.put();
        self.answer()
    }

    /// Lets the probe run for a moment.
    pub fn work(&mut self) {
        self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(2)).await });
    }
}

/// The pipeline's side of [`follow_replica`]: replica 3. It runs only while a method waits for it.
pub struct Following {
    runtime: tokio::runtime::Runtime,
    wanted: watch::Sender<Lsn>,
    probed: mpsc::Receiver<Probed>,
}

impl Following {
    /// Probes the server at `text` once per `pace`.
    pub fn start(text: &str, pace: Duration) -> Following {
        let (wanted, put) = watch::channel(Lsn::ZERO);
        let (sender, probed) = mpsc::channel(4);
        let runtime = runtime();
        runtime.spawn(follow_replica(3, FollowConfig { dsn: dsn(text), pace }, put, sender));
        Following { runtime, wanted, probed }
    }

    /// Sets the position that should be replayed.
    pub fn want(&self, at: Lsn) {
        self.wanted.send_replace(at);
    }

    fn next_within(&mut self, time: Duration) -> Option<Probed> {
        let next = async { tokio::time::timeout(time, self.probed.recv()).await };
        self.runtime.block_on(next).ok().map(|next| next.expect("it has ended"))
    }

    pub fn next(&mut self) -> Result<ReplicaSeen, SourceError> {
        match self.next_within(PATIENCE).expect("nobody says anything") {
            Probed::Replica { index: 3, seen } => Ok(seen),
            Probed::ReplicaAway { index: 3, error } => Err(error),
            other => panic!("{other:?}"),
        }
    }

    /// The next answer. Panics on a failure.
    pub fn seen(&mut self) -> ReplicaSeen {
        self.next().unwrap_or_else(|error| panic!("{error}"))
    }

    /// The next answer after any number of failures.
    pub fn seen_again(&mut self) -> ReplicaSeen {
        std::iter::repeat_with(|| self.next()).find_map(Result::ok).expect("endless")
    }

    /// Whether nothing is reported for a while.
    pub fn is_silent(&mut self) -> bool {
        self.next_within(Duration::from_millis(200)).is_none()
    }
}

/// The transaction of each Begin message in `got`.
fn commits(got: &[Got]) -> Vec<Commit> {
    let begin = |got: &Got| match got {
        Got::Data(data) if data[0] == b'B' => {
            let at = u64::from_be_bytes(data[1..9].try_into().unwrap());
            let xid = u32::from_be_bytes(data[17..21].try_into().unwrap());
            Some(Commit { xid, at: Lsn::new(at) })
        }
        _ => None,
    };
    got.iter().filter_map(begin).collect()
}

impl Followed {
    /// Reads the stream until a transaction has committed, and returns it.
    fn commit(&mut self) -> Commit {
        let is_commit = |got: &Got| matches!(got, Got::Data(data) if data[0] == b'C');
        let got = self.read_until("a commit", |got| got.iter().any(is_commit));
        *commits(&got).first().expect("a Begin before the Commit")
    }
}
