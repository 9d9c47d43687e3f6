//! Whether the daemon is ready, and why not. Takes the status and the time, and returns the reasons for `/readyz`.

use std::time::{Duration, Instant};

use super::{State, Status, TargetStatus};

/// How long a flush may hold changes back before the daemon counts as not ready.
const FLUSH_AGE_MAX: Duration = Duration::from_secs(1);

/// `Ok` if the stream runs, coherd can read the catalogue and check commit visibility, every rule is covered, every
/// target is up and the lag is below `ready_max_lag`. Otherwise all reasons, each with what is wrong and what to do.
pub fn readiness(status: &Status, now: Instant, ready_max_lag: Duration) -> Result<(), Vec<String>> {
    let mut reasons = Vec::new();
    match &status.state {
        State::Streaming => {}
        State::Starting => {
            reasons.push(
                "starting: the stream is not open yet; if this lasts, see coherd's log (journalctl -u coherd)"
                    .to_owned(),
            );
        }
        State::Standby { reason } => reasons.push(format!(
            "hot standby: another instance reads slot {}; this one takes over when it ends ({reason})",
            status.slot
        )),
        State::Reconnecting { reason } => {
            reasons.push(format!("not following the log, retrying: {reason}"));
        }
        State::Draining => reasons.push("stopping: this instance is about to end".to_owned()),
    }
    // A standby connects to no target.
    let stands_by = matches!(status.state, State::Standby { .. });
    let asked = status.targets.iter().filter(|target| !stands_by || target.fault.is_some());
    reasons.extend(asked.filter_map(|target| trouble(target, now)));
    for rule in &status.rules {
        if let Some(why) = &rule.uncovered {
            reasons.push(format!("{} is not covered: {why}", rule.subject));
        }
    }
    if let (State::Streaming, Some(watch)) = (&status.state, &status.watch)
        && let Some((age, why)) = watch.blind(status.entered, now)
    {
        reasons.push(format!(
            "coherd could not read the catalogue for {} s: {why}. Until it can, it misses changes of the publication and the tables",
            age.as_secs()
        ));
    }
    if let (State::Streaming, Some(why)) = (&status.state, &status.probe_fault) {
        reasons
            .push(format!("cannot check commit visibility: {why}. coherd sends early invalidations; nothing settles"));
    }
    reasons.extend(behind(status, now, ready_max_lag));
    if reasons.is_empty() { Ok(()) } else { Err(reasons) }
}

/// What holds settled back, if the lag has reached `ready_max_lag`.
fn behind(status: &Status, now: Instant, ready_max_lag: Duration) -> Option<String> {
    let lag = status.lag(now);
    if lag < ready_max_lag {
        return None;
    }
    let uncovered = status.rules.iter().filter(|rule| rule.uncovered.is_some()).map(|rule| &*rule.subject);
    let uncovered: Vec<&str> = uncovered.collect();
    if !uncovered.is_empty() {
        let are = if uncovered.len() == 1 { "is" } else { "are" };
        return Some(format!("settled is held back because {} {are} not covered (see above)", uncovered.join(", ")));
    }
    let holder = status.holder.as_ref().map(|holder| format!(" (the oldest: {holder})")).unwrap_or_default();
    Some(format!(
        "settled is {:.1} s and {} bytes behind the log (admin.ready_max_lag is {:.1} s). A slow target or replica, \
         a commit that waits for a synchronous standby, or a long transaction of this database holds it back{holder}",
        lag.as_secs_f64(),
        status.lag_bytes(),
        ready_max_lag.as_secs_f64()
    ))
}

/// How to end a halt. Every message about a halt gives this advice.
pub const HALT_ADVICE: &str = "to flush every scope and continue, run coherd flush, or set on_gap: flush and reload coherd \
                               (systemctl reload coherd)";

/// How to separate two daemons that write the same record.
pub fn record_advice(target: &str) -> String {
    format!("In one of the two configurations, set targets.{target}.record to another key, and restart that coherd")
}

/// The most serious problem of a target.
fn trouble(target: &TargetStatus, now: Instant) -> Option<String> {
    let name = &target.name;
    if let Some(missed) = &target.halted {
        return Some(format!(
            "target {name} is halted (on_gap: halt) and gets nothing, because it may have missed changes: {missed}; \
             {HALT_ADVICE}"
        ));
    }
    if let Some(why) = &target.taken {
        return Some(format!("target {name} gets nothing: {why}. {}", record_advice(name)));
    }
    if let Some(why) = &target.suspended {
        let fault = target.fault.as_ref().map(|fault| format!(" ({fault})")).unwrap_or_default();
        return Some(format!("target {name} was {why}; coherd flushes it when it is back{fault}"));
    }
    if let (true, Some(flushing)) = (target.up, &target.flushing) {
        let age = now.saturating_duration_since(flushing.since);
        return (age >= FLUSH_AGE_MAX).then(|| {
            format!(
                "flushing {} scope(s) of target {name} for {} s; nothing settles until that is done. \
                 limits.flush_keys_per_second limits the speed",
                flushing.scopes,
                age.as_secs()
            )
        });
    }
    match &target.fault {
        _ if target.up => None,
        Some(fault) => Some(format!("target {name} is down, retrying ({fault})")),
        None => Some(format!("target {name} has not answered yet")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::{Board, LOOK_AGE_MAX, TargetStatus};
    use crate::core::Watermarks;
    use crate::types::lsn::Lsn;

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
            (State::Draining, "stopping"),
        ] {
            board.enter(state);
            assert!(reasons(&board).contains(word), "{word}: {}", reasons(&board));
        }
    }

    #[test]
    fn one_target_down_is_not_ready_and_is_named() {
        let board = streaming();
        board.target(1, |target| target.is_down("connection refused"));
        insta::assert_snapshot!(reasons(&board), @"target edge is down, retrying (connection refused)");
    }

    #[test]
    fn a_flush_that_takes_long_is_not_ready_and_says_how_large_it_is() {
        let board = streaming();
        board.target(1, |target| target.is_flushing(40));
        let begun = board.status().targets[1].flushing.unwrap().since;
        board.target(1, |target| target.is_flushing(40));
        let at = |seconds: u64| readiness(&board.status(), begun + Duration::from_secs(seconds), MAX);
        assert_eq!(at(0), Ok(()));
        insta::assert_snapshot!(at(3).unwrap_err().join("\n"), @"flushing 40 scope(s) of target edge for 3 s; nothing settles until that is done. limits.flush_keys_per_second limits the speed");
        board.target(1, |target| target.is_flushing(0));
        assert_eq!(at(3), Ok(()));
    }

    #[test]
    fn a_target_that_was_never_heard_of_counts_where_it_is_asked() {
        let board = Board::new("s", "p", [("cache", "redis")]);
        assert!(reasons(&board).contains("target cache has not answered yet"));
        board.enter(State::Standby { reason: "in use".to_owned() });
        assert!(!reasons(&board).contains("target"), "who stands by asks nobody");
    }

    #[test]
    fn a_target_that_was_suspended_is_named_with_the_place_and_the_reason() {
        let board = streaming();
        board.target(1, |target| {
            target.is_down("connection refused");
            target.suspended = Some("suspended at 0/123 to keep the log within wal_budget (10 GiB)".to_owned());
        });
        insta::assert_snapshot!(reasons(&board), @"target edge was suspended at 0/123 to keep the log within wal_budget (10 GiB); coherd flushes it when it is back (connection refused)");
    }

    #[test]
    fn a_halted_target_tells_what_to_do_whatever_the_daemon_does() {
        let board = streaming();
        board.target(0, |target| target.halted = Some("the target holds keys but no record".to_owned()));
        board.enter(State::Reconnecting { reason: "the server went away".to_owned() });
        board.enter(State::Streaming);
        insta::assert_snapshot!(reasons(&board), @"target cache is halted (on_gap: halt) and gets nothing, because it may have missed changes: the target holds keys but no record; to flush every scope and continue, run coherd flush, or set on_gap: flush and reload coherd (systemctl reload coherd)");
    }

    #[test]
    fn a_rule_that_is_not_covered_is_named_until_it_is() {
        let board = streaming();
        board.rules(["rules[0] public.users".into(), "rules[1] public.orders".into()]);
        board.uncover(1, "coherd lacks it; ALTER PUBLICATION coherd ADD TABLE public.orders;");
        insta::assert_snapshot!(reasons(&board), @"rules[1] public.orders is not covered: coherd lacks it; ALTER PUBLICATION coherd ADD TABLE public.orders;");
        board.uncover(1, "now for another reason");
        assert!(reasons(&board).contains("another reason"));
        board.cover(1);
        assert_eq!(readiness(&board.status(), Instant::now(), MAX), Ok(()));
    }

    #[test]
    fn a_catalogue_that_is_not_seen_for_long_is_not_ready() {
        let board = streaming();
        board.unwatched("permission denied");
        let begun = Instant::now();
        let at = |after: Duration| readiness(&board.status(), begun + after, MAX);
        assert_eq!(at(LOOK_AGE_MAX / 2), Ok(()));
        insta::assert_snapshot!(at(LOOK_AGE_MAX).unwrap_err().join("\n"), @"coherd could not read the catalogue for 30 s: permission denied. Until it can, it misses changes of the publication and the tables");
        board.observed(None, Instant::now());
        assert_eq!(at(LOOK_AGE_MAX / 2), Ok(()));
        assert!(at(LOOK_AGE_MAX * 2).unwrap_err().join("\n").contains("the last look has not ended"));
    }

    #[test]
    fn the_catalogue_need_not_be_seen_before_the_stream_runs() {
        let board = streaming();
        board.observed(None, Instant::now());
        let status = {
            let mut status = board.status();
            // An outage of an hour, and a stream that has just started.
            status.entered += Duration::from_hours(1);
            status
        };
        assert_eq!(readiness(&status, status.entered + Duration::from_secs(1), MAX), Ok(()));
        let late = readiness(&status, status.entered + LOOK_AGE_MAX, MAX).unwrap_err().join("\n");
        assert!(late.contains("could not read the catalogue for 36"), "{late}");
    }

    #[test]
    fn a_standstill_is_not_ready_although_the_stream_runs() {
        let board = streaming();
        board.moved(Watermarks { decoded: Lsn::new(500), ..Watermarks::default() });
        let (status, now) = (board.status(), Instant::now());
        assert_eq!(readiness(&status, now, MAX), Ok(()));
        let late = readiness(&status, now + MAX, MAX).unwrap_err().join("\n");
        assert!(late.contains("500 bytes behind the log"), "{late}");
        board.rules(["rules[0] public.users".into(), "rules[1] public.orders".into()]);
        board.uncover(1, "it is not in the publication");
        let held = readiness(&board.status(), now + MAX, MAX).unwrap_err().join("\n");
        assert!(
            held.ends_with("settled is held back because rules[1] public.orders is not covered (see above)"),
            "{held}"
        );
        board.cover(1);
        board.moved(Watermarks { decoded: Lsn::new(500), settled: Lsn::new(500), ..Watermarks::default() });
        assert_eq!(readiness(&board.status(), now + MAX, MAX), Ok(()));
    }
}
