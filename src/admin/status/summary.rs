//! The status in one line, for `systemctl status`.

use std::fmt::Write as _;

use super::{State, Status};

/// The longest line, in characters. Reasons come from servers and can be long.
const CHARS_MAX: usize = 400;

/// What the daemon is doing, in one line without control characters: in sd_notify(3), a line break starts a new
/// assignment.
pub fn summary(status: &Status) -> String {
    let text = match &status.state {
        State::Starting => "starting: looking at source and targets".to_owned(),
        State::Streaming => streaming(status),
        State::Standby { .. } => format!("hot standby: another instance reads slot {}", status.slot),
        State::Reconnecting { reason } => format!("reconnecting: {reason}"),
        State::Draining => "draining: delivering what has been read".to_owned(),
    };
    text.chars().take(CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn streaming(status: &Status) -> String {
    let mut text = String::new();
    // Problems that need a person come first. Writing to a String cannot fail.
    for target in &status.targets {
        if let Some(missed) = &target.halted {
            let _ = write!(text, "halted: target {}: {missed}; ", target.name);
        }
    }
    let uncovered = status.rules.iter().filter(|rule| rule.uncovered.is_some()).count();
    if uncovered > 0 {
        let _ = write!(text, "{uncovered} of {} rules not covered; ", status.rules.len());
    }
    let up = status.targets.iter().filter(|target| target.up).count();
    let _ = write!(
        text,
        "following the log: settled {}, {} bytes behind, {up} of {} targets up",
        status.watermarks.settled,
        status.lag_bytes(),
        status.targets.len()
    );
    let suspended = status.targets.iter().filter(|target| target.suspended.is_some()).count();
    if suspended > 0 {
        let _ = write!(text, ", {suspended} suspended");
    }
    let left = status.replicas.iter().filter(|replica| replica.left.is_some()).count();
    if left > 0 {
        let _ = write!(text, ", {left} of {} replicas not waited for", status.replicas.len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::{Board, TargetStatus};
    use crate::core::Watermarks;
    use crate::types::lsn::Lsn;

    fn board() -> Board {
        let board = Board::new("coherd", "coherd", [("cache", "redis"), ("edge", "redis")]);
        board.rules(["rules[0] public.users".into()]);
        board.enter(State::Streaming);
        board
    }

    #[test]
    fn a_stream_is_told_with_how_far_it_has_come() {
        let board = board();
        board.target(0, TargetStatus::is_up);
        board.moved(Watermarks { decoded: Lsn::new(0x1A30), settled: Lsn::new(0x1A2B), ..Watermarks::default() });
        insta::assert_snapshot!(summary(&board.status()), @"following the log: settled 0/1A2B, 5 bytes behind, 1 of 2 targets up");
    }

    #[test]
    fn what_takes_a_person_stands_first() {
        let board = board();
        board.target(0, |target| target.halted = Some("the record is gone".to_owned()));
        board.target(1, |target| target.suspended = Some("suspended at 0/123".to_owned()));
        board.uncover(0, "the publication lacks the table");
        insta::assert_snapshot!(summary(&board.status()), @"halted: target cache: the record is gone; 1 of 1 rules not covered; following the log: settled 0/0, 0 bytes behind, 0 of 2 targets up, 1 suspended");
    }

    #[test]
    fn every_other_state_is_told_with_its_reason() {
        let board = board();
        let reason = || "said the server".to_owned();
        for (state, text) in [
            (State::Starting, "starting: looking at source and targets"),
            (State::Standby { reason: reason() }, "hot standby: another instance reads slot coherd"),
            (State::Reconnecting { reason: reason() }, "reconnecting: said the server"),
            (State::Draining, "draining: delivering what has been read"),
        ] {
            board.enter(state);
            assert_eq!(summary(&board.status()), text);
        }
    }

    #[test]
    fn a_server_cannot_slip_in_a_second_line_nor_a_long_one() {
        let board = board();
        board.enter(State::Reconnecting { reason: format!("no\nMAINPID=1\n{}", "x".repeat(10_000)) });
        let line = summary(&board.status());
        assert!(line.starts_with("reconnecting: no MAINPID=1 x") && line.chars().count() == CHARS_MAX, "{line}");
    }
}
