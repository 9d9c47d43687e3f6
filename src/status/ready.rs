//! Whether the daemon does its work.

use std::time::{Duration, Instant};

use super::{State, Status};

/// `Ok` where the stream runs, every target is up and the lag is below `ready_max_lag`. Otherwise every reason, each
/// with what is wrong and what to do.
pub fn readiness(status: &Status, now: Instant, ready_max_lag: Duration) -> Result<(), Vec<String>> {
    let mut reasons = Vec::new();
    match &status.state {
        State::Streaming => {}
        State::Starting => reasons.push("starting: the stream has not begun yet; see the log if this lasts".to_owned()),
        State::Standby { reason } => reasons.push(format!(
            "hot standby: another instance streams from slot {}, and this one takes over when it goes ({reason})",
            status.slot
        )),
        State::Reconnecting { reason } => {
            reasons.push(format!("reconnecting to Postgres by itself; mend what stands in the way ({reason})"));
        }
        State::Halted { reason } => reasons.push(format!(
            "halted (on_gap: halt): changes may be missing, so nothing goes on until somebody decides; flush the \
             caches, then restart with on_gap: flush ({reason})"
        )),
        State::Draining => reasons.push("draining: this instance is about to end".to_owned()),
    }
    for target in status.targets.iter().filter(|target| !target.up) {
        let fault = target.fault.as_deref().unwrap_or("it has not answered yet");
        reasons.push(format!("target {} is down; its deliveries are repeated until it answers ({fault})", target.name));
    }
    let lag = status.lag(now);
    if lag >= ready_max_lag {
        reasons.push(format!(
            "settled has been {:.1} s and {} bytes behind the log, and admin.ready_max_lag is {:.1} s; the slowest \
             target or a long transaction holds it",
            lag.as_secs_f64(),
            status.lag_bytes(),
            ready_max_lag.as_secs_f64()
        ));
    }
    if reasons.is_empty() { Ok(()) } else { Err(reasons) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Watermarks;
    use crate::lsn::Lsn;
    use crate::status::{Board, TargetStatus};

    const MAX: Duration = Duration::from_secs(10);

    fn streaming() -> Board {
        let board = Board::new("coherd", "coherd", [("cache", "redis"), ("edge", "redis")]);
        board.enter(State::Streaming);
        board.target(0, TargetStatus::is_up);
        board.target(1, TargetStatus::is_up);
        board
    }

    fn reasons(board: &Board) -> String {
        readiness(&board.status(), Instant::now(), MAX).unwrap_err().join("\n")
    }

    #[test]
    fn a_stream_with_every_target_up_is_ready() {
        assert_eq!(readiness(&streaming().status(), Instant::now(), MAX), Ok(()));
    }

    #[test]
    fn every_state_but_streaming_is_not_ready_and_says_why() {
        let board = streaming();
        let reason = || "said the server".to_owned();
        for (state, word) in [
            (State::Starting, "starting"),
            (State::Standby { reason: reason() }, "hot standby"),
            (State::Reconnecting { reason: reason() }, "said the server"),
            (State::Halted { reason: reason() }, "on_gap: halt"),
            (State::Draining, "draining"),
        ] {
            board.enter(state);
            assert!(reasons(&board).contains(word), "{word}: {}", reasons(&board));
        }
    }

    #[test]
    fn one_target_down_is_not_ready_and_is_named() {
        let board = streaming();
        board.target(1, |target| target.is_down("connection refused"));
        insta::assert_snapshot!(reasons(&board), @"target edge is down; its deliveries are repeated until it answers (connection refused)");
    }

    #[test]
    fn a_standstill_is_not_ready_although_the_stream_runs() {
        let board = streaming();
        board.moved(Watermarks { decoded: Lsn::new(500), ..Watermarks::default() });
        let (status, now) = (board.status(), Instant::now());
        assert_eq!(readiness(&status, now, MAX), Ok(()));
        let late = readiness(&status, now + MAX, MAX).unwrap_err().join("\n");
        assert!(late.contains("500 bytes behind the log"), "{late}");
        board.moved(Watermarks { decoded: Lsn::new(500), settled: Lsn::new(500), ..Watermarks::default() });
        assert_eq!(readiness(&board.status(), now + MAX, MAX), Ok(()));
    }
}
