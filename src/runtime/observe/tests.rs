//! Tests of what the observer reports, as `/readyz`, `/status` and `/metrics` show it.

use std::time::{Duration, Instant};

use super::*;
use crate::admin::status::{State, readiness};
use crate::core::continuity::{Gap, Overspent, SlotOrigin};
use crate::core::{Opening, Policy, Replicas, Watermarks, Why};
use crate::pgoutput::{self, PgTime};
use crate::postgres::SourceError;
use crate::rules::config::{RawRule, resolve};
use crate::transaction::{Gather, Made};
use crate::types::invalidation::Action;
use crate::types::lsn::{CommitLsn, Lsn};
use crate::types::observation::{HeldWal, Horizon, Observation};
use crate::types::server::System;
use crate::types::snapshot::Commit;

const MAX_LAG: Duration = Duration::from_secs(10);

struct Told {
    observer: Observer,
    board: Board,
    metrics: Metrics,
    rules: Vec<Rule>,
}

fn told() -> Told {
    let raw = [RawRule::of("users", &["users:{id}"]), RawRule::of("orders", &["orders:{id}"])];
    let rules = resolve(&raw, &["cache".into()]).unwrap();
    let board = Board::new("coherd", "coherd", [("cache", "redis")]);
    let metrics = Metrics::new(&board);
    let observer = Observer::new(board.clone(), metrics.clone(), &["cache".into()], &rules);
    board.enter(State::Streaming);
    board.target(0, crate::admin::status::TargetStatus::is_up);
    Told { observer, board, metrics, rules }
}

impl Told {
    fn reasons(&self) -> String {
        readiness(&self.board.status(), Instant::now(), MAX_LAG).err().unwrap_or_default().join("\n")
    }

    fn has_metric(&self, line: &str) -> bool {
        self.metrics.encode().unwrap().lines().any(|its| its == line)
    }
}

#[test]
fn a_rule_that_is_not_covered_is_not_ready_and_counts_as_0_until_it_is_covered_again() {
    let mut its = told();
    assert!(its.has_metric("coherd_rule_covered{rule=\"rules[1] public.orders\"} 1"));
    its.observer.tell(Event::Uncovered(
        RuleId(1),
        "the publication lacks the table; ALTER PUBLICATION coherd ADD TABLE orders;".to_owned(),
    ));
    insta::assert_snapshot!(its.reasons(), @"rules[1] public.orders is not covered: the publication lacks the table; ALTER PUBLICATION coherd ADD TABLE orders;");
    assert!(its.has_metric("coherd_rule_covered{rule=\"rules[0] public.users\"} 1"));
    assert!(its.has_metric("coherd_rule_covered{rule=\"rules[1] public.orders\"} 0"));
    its.observer.tell(Event::Covered(RuleId(1)));
    assert_eq!(its.reasons(), "");
    its.observer.tell(Event::Uncovered(RuleId(9), "a rule that is none is nobody's trouble".to_owned()));
    assert_eq!(its.reasons(), "");
}

#[test]
fn a_target_that_was_suspended_is_a_gap_and_not_ready_until_it_is_taken_back() {
    let mut its = told();
    let spent = Overspent::Budget { retained: 10 << 30, limit: 10 << 30 };
    its.observer.tell(Event::Suspended(0, Why::Overspent(Lsn::new(0x123), spent)));
    insta::assert_snapshot!(its.reasons(), @"target cache was suspended at 0/123: the slot holds back 10240 MiB of log, and source.wal_budget is 10240 MiB; coherd flushes it when it is back");
    assert!(its.has_metric("coherd_gaps_total{reason=\"wal_budget\"} 1"));
    let gaps = its.board.status().gaps;
    assert_eq!(gaps.back().map(|gap| gap.reason), Some("wal_budget"));
    its.observer.tell(Event::Resumed(0));
    assert_eq!(its.reasons(), "");
}

#[test]
fn what_is_sent_again_from_memory_is_counted_and_remembered() {
    let mut its = told();
    let (record, needed) = (Lsn::new(0x10), Lsn::new(0x20));
    its.observer.tell(Event::Resent(0, Gap::TargetWentBack { record, needed }));
    assert!(its.has_metric("coherd_resends_total{reason=\"target_went_back\"} 1"));
    let resends = its.board.status().resends;
    insta::assert_snapshot!(resends[0].text, @"cache: the target's record says 0/10, but the target had confirmed 0/20: the target went back in time; what it lost was sent again");
}

#[test]
fn what_the_slot_holds_back_is_what_was_last_seen() {
    let mut its = told();
    assert!(!its.metrics.encode().unwrap().contains("slot_retained_bytes"), "nothing was seen yet");
    let wal = Some(HeldWal { end: Lsn::new(9000), retained: 5000, safe: Some(70), segment: 16 << 20 });
    let snapshot = Horizon { xmin: 1, xmax: 1 };
    let observation = Observation {
        wal,
        snapshot,
        log_end: Lsn::ZERO,
        catalogue_at: Instant::now(),
        tables: vec![],
        database: None,
        holder: None,
        synchronous: None,
    };
    its.observer.source.watched(&observation);
    assert!(its.has_metric("coherd_slot_retained_bytes 5000"));
    assert_eq!(its.board.status().held.and_then(|held| held.safe), Some(70));
}

#[test]
fn a_look_that_fails_is_told_after_half_a_minute_with_its_reason() {
    let mut its = told();
    its.observer.source.unwatched(&SourceError::refused("permission denied for pg_publication_rel"));
    assert_eq!(its.reasons(), "");
    let late = Instant::now() + crate::admin::status::LOOK_AGE_MAX;
    let reasons = readiness(&its.board.status(), late, MAX_LAG).unwrap_err().join("\n");
    assert!(reasons.contains("coherd could not read the catalogue for 30 s: permission denied"), "{reasons}");
}

#[test]
fn a_halted_target_stays_halted_when_the_state_changes() {
    let mut its = told();
    its.observer.tell(Event::Halted(0, Why::Gap(Gap::RecordIsGone, None)));
    its.observer.source.away(&SourceError::lost("gone"), Duration::ZERO);
    let slot = SlotOrigin::CreatedHere;
    let (start, wal_end) = (Lsn::new(100), Lsn::new(100));
    let system = System { id: 7, timeline: 1, wal_end, forks: vec![] };
    let opening = Opening { system, slot, start, walsender: 4711 };
    its.observer.tell(Event::Streaming(opening, false));
    assert!(its.reasons().contains("target cache is halted (on_gap: halt)"), "{}", its.reasons());
}

#[test]
fn a_commit_is_timed_until_it_settles_also_where_its_keys_left_before_it_was_read() {
    let mut its = told();
    let commit =
        |its: &mut Told, at| its.observer.commits.read(CommitLsn::from_end(Lsn::new(at)), PgTime(0), Made::default());
    let watermarks = |decoded, settled| Watermarks {
        decoded: Lsn::new(decoded),
        settled: Lsn::new(settled),
        ..Watermarks::default()
    };
    commit(&mut its, 100);
    its.observer.commits.settle(&watermarks(100, 100));
    assert!(its.has_metric("coherd_commit_to_settled_seconds_count 1"));
    commit(&mut its, 200);
    its.observer.commits.settle(&watermarks(200, 100));
    assert!(its.has_metric("coherd_commit_to_settled_seconds_count 1"));
    its.observer.commits.settle(&watermarks(300, 200));
    assert!(its.has_metric("coherd_commit_to_settled_seconds_count 2"));
}

#[test]
fn a_commit_invalidates_when_it_has_made_a_key_and_the_next_one_does_not_for_that() {
    let its = told();
    let now = Instant::now();
    let mut core = Core::new(0, its.rules.clone(), "", Policy::patient(), Replicas::new(0, Duration::ZERO, now), now);
    core.begun(Commit { xid: 7, at: Lsn::new(90) }, PgTime(0));
    assert!(!core.commit_invalidates());
    core.key(RuleId(0), Action::Delete, b"user:1");
    assert!(core.commit_invalidates());
    core.begun(Commit { xid: 8, at: Lsn::new(190) }, PgTime(0));
    assert!(!core.commit_invalidates());
}

/// The stream contains rows only, no keepalive.
#[test]
fn rows_are_a_sign_of_life_also_in_the_middle_of_a_transaction() {
    let mut its = told();
    let mut core = Core::without_targets(Lsn::ZERO);
    let mut reader = Reader::new(its.rules.clone(), 10);
    its.observer.turned(&mut reader, &core);
    assert_eq!(its.board.status().last_message, None, "nothing was read");
    let begin = [b"B".as_slice(), &[0; 16], &[0, 0, 0, 9]].concat();
    let relation = b"R\0\0\0\x01public\0users\0d\0\x01\x01id\0\0\0\0\x17\xFF\xFF\xFF\xFF";
    let insert = b"I\0\0\0\x01N\0\x01t\0\0\0\x017";
    for bytes in [begin.as_slice(), relation, insert] {
        reader.read(pgoutput::decode(bytes).unwrap(), &mut core).unwrap();
    }
    its.observer.turned(&mut reader, &core);
    let first = its.board.status().last_message.expect("a row was read");
    its.observer.turned(&mut reader, &core);
    assert_eq!(its.board.status().last_message, Some(first), "nothing more was read");
    core.committed(Lsn::new(200));
    its.observer.turned(&mut reader, &core);
    assert!(its.board.status().last_message > Some(first), "a commit was read");
}
