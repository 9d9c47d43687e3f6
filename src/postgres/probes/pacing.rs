//! Decides when a replica is asked again.

use std::time::Duration;

use crate::types::lsn::Lsn;

/// Shortest pause between two questions, and the first pause while something has not been replayed.
const LEAST: Duration = Duration::from_millis(1);
/// The longest pause while something has not been replayed.
const MOST: Duration = Duration::from_millis(20);
/// Replaces [`LEAST`] where the server logs each question: five lines a second.
const LEAST_LOGGED: Duration = Duration::from_millis(200);

/// Pauses that grow while a replica makes no progress.
#[derive(Debug)]
pub(super) struct Pacing {
    least: Duration,
    most: Duration,
    pause: Duration,
    /// The position in the last answer.
    replayed: Option<Lsn>,
}

/// When the next question is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// After this much time since the last question. Nothing new can hurry it before: the replica must first replay
    /// what was wanted earlier.
    After(Duration),
    /// After this much time since the last question, as soon as something new is wanted.
    WhenWanted(Duration),
}

impl Pacing {
    /// For a new connection.
    pub(super) fn new(logs_commands: bool) -> Pacing {
        let least = if logs_commands { LEAST_LOGGED } else { LEAST };
        Pacing { least, most: least.max(MOST), pause: least, replayed: None }
    }

    /// Decides after an answer: the replica has replayed everything before `replayed` (`None`: it takes writes), and
    /// should have what is at `wanted`.
    pub(super) fn next(&mut self, replayed: Option<Lsn>, wanted: Lsn) -> Next {
        let made_way = std::mem::replace(&mut self.replayed, replayed) != replayed;
        if !is_wanted(replayed, wanted) {
            self.pause = self.least;
            // A server that takes writes gives the same answer each time.
            return Next::WhenWanted(if replayed.is_none() { self.most } else { self.least });
        }
        let pause = if made_way { self.least } else { self.pause };
        self.pause = (pause * 3 / 2).min(self.most);
        Next::After(pause)
    }
}

/// Whether somebody waits for a replica that has replayed everything before `replayed`.
pub(super) fn is_wanted(replayed: Option<Lsn>, wanted: Lsn) -> bool {
    wanted > Lsn::ZERO && replayed.is_some_and(|replayed| replayed <= wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_it_makes_no_way_and_begin_anew_when_it_does() {
        let mut pacing = Pacing::new(false);
        let mut pauses = |replayed: u64| match pacing.next(Some(Lsn::new(replayed)), Lsn::new(100)) {
            Next::After(pause) => pause.as_micros(),
            Next::WhenWanted(pause) => panic!("{pause:?}"),
        };
        let stuck: Vec<u128> = (0..10).map(|_| pauses(50)).collect();
        assert_eq!(stuck, [1000, 1500, 2250, 3375, 5062, 7593, 11390, 17085, 20000, 20000]);
        assert_eq!([60, 61, 61, 100].map(pauses), [1000, 1000, 1500, 1000]);
        let replayed = Some(Lsn::new(101));
        assert_eq!(pacing.next(replayed, Lsn::new(100)), Next::WhenWanted(LEAST));
        assert_eq!(pacing.next(replayed, Lsn::new(101)), Next::After(LEAST));
    }

    #[test]
    fn who_is_not_waited_for_is_asked_when_something_new_is_wanted() {
        let mut pacing = Pacing::new(false);
        assert_eq!(pacing.next(Some(Lsn::ZERO), Lsn::ZERO), Next::WhenWanted(LEAST));
        assert_eq!(pacing.next(None, Lsn::new(100)), Next::WhenWanted(MOST));
    }

    #[test]
    fn a_server_that_logs_each_question_is_asked_rarely() {
        let mut pacing = Pacing::new(true);
        let pauses = [(Some(5), 4), (Some(5), 6), (Some(5), 6), (Some(6), 6), (None, 6)];
        let pauses = pauses.map(|(replayed, wanted)| match pacing.next(replayed.map(Lsn::new), Lsn::new(wanted)) {
            Next::After(pause) | Next::WhenWanted(pause) => pause,
        });
        assert_eq!(pauses, [LEAST_LOGGED; 5]);
    }
}
