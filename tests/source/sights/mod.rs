//! What servers say of what their readers see, always asked as the least-privileged role.

mod source;

use coherd::lsn::Lsn;
use coherd::sight::{Commit, Sight};
use coherd::source::sights::{AskConfig, ask_source};
use coherd::source::{Question, Sighted, Stream};
use tokio::sync::{mpsc, watch};

use super::{Followed, Got, dsn, runtime};
use crate::support::wait::PATIENCE;

/// The gate's side of [`ask_source`], which works only while an answer is waited for.
pub struct Asking {
    runtime: tokio::runtime::Runtime,
    questions: watch::Sender<Question>,
    sighted: mpsc::Receiver<Sighted>,
}

impl Asking {
    /// Asks the server of `text` about the stream from `slot`.
    pub fn start(text: &str, slot: &str) -> Asking {
        let (questions, put) = watch::channel(Question::default());
        let (sender, sighted) = mpsc::channel(4);
        let runtime = runtime();
        runtime.spawn(ask_source(AskConfig { dsn: dsn(text), slot: slot.into() }, put, sender));
        Asking { runtime, questions, sighted }
    }

    /// Asks `followed`'s server about its stream.
    pub fn about(followed: &Followed) -> Asking {
        let database = &followed.database;
        database.create_role();
        let asking = Asking::start(&database.dsn_as("coherd"), &database.name);
        asking.follow(Some(followed.stream.walsender()));
        asking
    }

    /// Says which stream is followed from now on.
    pub fn follow(&self, walsender: Option<u32>) {
        self.questions.send_modify(|question| question.walsender = walsender);
    }

    /// Puts a question.
    pub fn put(&self) {
        self.questions.send_modify(|question| question.number += 1);
    }

    pub fn next(&mut self) -> Sighted {
        let next = async { tokio::time::timeout(PATIENCE, self.sighted.recv()).await };
        self.runtime.block_on(next).expect("nobody says anything").expect("it has ended")
    }

    /// The next answer, which has to be about the stream that is followed.
    pub fn answer(&mut self) -> Sight {
        let followed = self.questions.borrow().walsender;
        match self.next() {
            Sighted::Source { walsender, sight } => {
                assert_eq!(Some(walsender), followed);
                sight
            }
            other => panic!("{other:?}"),
        }
    }

    /// Puts a question and gives the answer.
    pub fn ask(&mut self) -> Sight {
        self.put();
        self.answer()
    }

    /// Lets it work for a moment.
    pub fn work(&mut self) {
        self.runtime.block_on(async { tokio::time::sleep(std::time::Duration::from_millis(2)).await });
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
    /// Reads the stream until a transaction has committed there, and gives it.
    fn commit(&mut self) -> Commit {
        let is_commit = |got: &Got| matches!(got, Got::Data(data) if data[0] == b'C');
        let got = self.read_until("a commit", |got| got.iter().any(is_commit));
        *commits(&got).first().expect("a Begin before the Commit")
    }
}
