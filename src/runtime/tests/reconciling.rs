//! Tests of how the loop reacts to the targets' records and to observations of the server.

use super::*;
use crate::types::database::{Database, Operations, Publication};
use crate::types::observation::HeldWal;
use crate::types::server::{Fork, System};
use crate::types::table::{Published, PublishedBy, Table, TableColumn, TableName};

/// A look at the usual server, modified by `change`.
fn with(change: impl FnOnce(&mut System)) -> Seen {
    let mut seen = seen(100);
    change(&mut seen.system);
    seen
}

fn seen(confirmed: u64) -> Seen {
    let slot = SlotSeen::Usable { confirmed: Lsn::new(confirmed) };
    Seen { system: System { id: 7, timeline: 1, wal_end: Lsn::new(10_000), forks: Vec::new() }, slot }
}

impl Bench {
    fn invalidated(&self) -> Vec<String> {
        self.cache.keys.lock().unwrap().clone()
    }

    fn forget_what_was_invalidated(&self) {
        self.cache.keys.lock().unwrap().clear();
    }

    fn record(&self) -> Record {
        self.cache.record.lock().unwrap().clone().expect("a record")
    }

    /// The watcher reports this observation.
    fn shows(&self, look: Observation) {
        let watching = self.script.shared.lock().unwrap().watching.clone();
        watching.unwrap().try_send(Watched::Seen(look)).unwrap();
    }

    /// The stream breaks, and `seen` is the result of the look when it is opened again.
    fn comes_back_as(&self, seen: Seen) {
        self.script.shared.lock().unwrap().shows = Some(seen);
        self.script.say([Say::Break]);
    }

    async fn acknowledges(&self, position: u64) {
        eventually("it is acknowledged", || self.script.acknowledged() == Some(position)).await;
    }
}

fn held(retained: u64) -> HeldWal {
    HeldWal { end: Lsn::new(5000 + retained), retained, safe: None, segment: 100 }
}

fn rules() -> Vec<Rule> {
    resolve(&[RawRule::of("users", &["user:{id}"])], &["cache-0".to_owned()]).unwrap()
}

#[test]
fn a_target_beyond_the_budget_is_suspended_and_flushed_when_it_is_back() {
    on_paused_time(async {
        let script = Script::default();
        script.shared.lock().unwrap().shows = Some(with(|its| its.wal_end = Lsn::new(100)));
        let bench = start_following(
            script,
            Cache::default(),
            Settings { policy: Policy { wal_budget: Some(5000), ..POLICY }, ..SETTINGS },
        );
        bench.script.say(transaction(b"0", 150));
        bench.acknowledges(150).await;
        *bench.cache.closed.lock().unwrap() = true;
        bench.script.say(transaction(b"1", 200));
        tokio::time::sleep(Duration::from_secs(10)).await;
        bench.shows(Observation { wal: Some(held(4998)), ..look(&rules(), "as it was") });
        bench.shows(Observation { wal: Some(held(4999)), ..look(&rules(), "as it was") });
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(bench.script.acknowledged(), Some(150), "within the budget the slot waits");
        bench.shows(Observation { wal: Some(held(6000)), ..look(&rules(), "as it was") });
        bench.script.say(transaction(b"2", 20_300));
        bench.script.say([Say::Position(20_400)]);
        bench.acknowledges(20_400).await;
        assert!(bench.record().applied < Lsn::new(20_400), "the record proves the gap to another start");
        bench.forget_what_was_invalidated();
        *bench.cache.closed.lock().unwrap() = false;
        eventually("it is flushed", || bench.invalidated().contains(&"SCOPE user:*".to_owned())).await;
        assert!(!bench.invalidated().contains(&"user:2".to_owned()), "nothing was gathered while it was suspended");
        bench.script.say(transaction(b"3", 20_500));
        bench.acknowledges(20_500).await;
        assert_eq!(bench.invalidated().last().map(String::as_str), Some("user:3"));
        eventually("readers see it settled", || bench.record().settled == Lsn::new(20_500)).await;
    });
}

#[test]
fn a_target_that_keeps_up_is_never_suspended() {
    on_paused_time(async {
        let bench =
            start(Cache::default(), Settings { policy: Policy { wal_budget: Some(5000), ..POLICY }, ..SETTINGS });
        bench.script.say([Say::Position(9000)]);
        bench.acknowledges(9000).await;
        bench.shows(Observation { wal: Some(held(6000)), ..look(&rules(), "as it was") });
        bench.script.say(transaction(b"1", 9500));
        bench.acknowledges(9500).await;
        assert_eq!(bench.invalidated(), ["user:1"]);
    });
}

#[test]
fn a_target_that_owes_little_is_not_blamed_for_what_a_long_transaction_holds_back() {
    on_paused_time(async {
        let bench =
            start(Cache::default(), Settings { policy: Policy { wal_budget: Some(5000), ..POLICY }, ..SETTINGS });
        *bench.cache.closed.lock().unwrap() = true;
        bench.script.say(transaction(b"1", 200));
        for end in [250, 300, 350] {
            let wal = Some(HeldWal { end: Lsn::new(end), ..held(6000) });
            bench.shows(Observation { wal, ..look(&rules(), "as it was") });
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        *bench.cache.closed.lock().unwrap() = false;
        bench.acknowledges(200).await;
        assert_eq!(bench.invalidated(), ["user:1"]);
    });
}

#[test]
fn a_changed_publication_flushes_the_rule_and_settles_only_then() {
    on_paused_time(async {
        let bench = start(Cache::default(), SETTINGS);
        bench.script.say([Say::Position(200)]);
        bench.acknowledges(200).await;
        let before = bench.record().rules;
        let running = Horizon { xmin: 9, xmax: 12 };
        bench.shows(Observation { snapshot: running, ..look(&rules(), "otherwise") });
        eventually("the rule is flushed", || bench.invalidated() == ["SCOPE user:*"]).await;
        bench.script.say([Say::Position(300)]);
        bench.acknowledges(300).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(bench.record().settled, Lsn::new(200), "a transaction of that time still runs");
        bench.shows(Observation { snapshot: Horizon { xmin: 12, xmax: 12 }, ..look(&rules(), "otherwise") });
        eventually("it is flushed again", || bench.invalidated() == ["SCOPE user:*", "SCOPE user:*"]).await;
        eventually("it is settled", || bench.record().settled == Lsn::new(300)).await;
        let marks = bench.cache.records.lock().unwrap().iter().filter_map(|its| its.rules.clone()).next_back();
        assert!(marks.is_some() && marks != before, "the record lists the rule again");
    });
}

#[test]
fn a_rule_that_the_record_does_not_list_is_flushed() {
    on_paused_time(async {
        let marks = |marks: &str| Some(marks.into());
        let flushed = &["SCOPE user:*"][..];
        for (marks, invalidated) in
            [(marks("new"), &[][..]), (marks("1 2 3"), flushed), (marks(""), flushed), (None, flushed)]
        {
            let at = Lsn::new(100);
            let record = Record {
                applied: at,
                confirmed: at,
                settled: at,
                system_id: 7,
                timeline: 1,
                sequence: 0,
                commit: None,
                rules: marks,
            };
            let cache = Cache { record: Mutex::new(Some(record)), not_empty: true, ..Cache::default() };
            let bench = start(cache, SETTINGS);
            bench.script.say([Say::Position(500)]);
            bench.acknowledges(500).await;
            assert_eq!(bench.invalidated(), invalidated);
        }
    });
}

#[test]
fn a_target_that_went_back_is_sent_again_what_it_lost_and_nothing_else() {
    on_paused_time(async {
        let bench = start(Cache::default(), SETTINGS);
        bench.script.say(transaction(b"1", 200));
        eventually("it is settled", || {
            bench.cache.record.lock().unwrap().clone().is_some_and(|its| its.settled == Lsn::new(200))
        })
        .await;
        let snapshot = bench.record();
        bench.script.say(transaction(b"23", 300));
        bench.acknowledges(300).await;
        bench.forget_what_was_invalidated();
        *bench.cache.record.lock().unwrap() = Some(snapshot);
        *bench.cache.lost.lock().unwrap() = true;
        bench.script.say(transaction(b"4", 400));
        bench.acknowledges(400).await;
        let mut invalidated = bench.invalidated();
        invalidated.sort();
        invalidated.dedup();
        assert!(invalidated.ends_with(&["user:2".into(), "user:3".into(), "user:4".into()]), "{invalidated:?}");
        assert!(!invalidated.iter().any(|key| key.starts_with("SCOPE")), "{invalidated:?}");
    });
}

#[test]
fn a_target_that_goes_back_within_a_large_transaction_is_sent_again_what_it_lost() {
    on_paused_time(async {
        let bench = start(Cache::default(), SETTINGS);
        bench.script.say(transaction(b"0", 150));
        bench.acknowledges(150).await;
        let mut said = transaction(b"123", 200);
        let rest = said.split_off(4);
        bench.script.say(said);
        eventually("the first piece is there", || bench.invalidated().len() == 3).await;
        let snapshot = Record { sequence: bench.record().sequence - 1, ..bench.record() };
        bench.forget_what_was_invalidated();
        *bench.cache.record.lock().unwrap() = Some(snapshot);
        *bench.cache.lost.lock().unwrap() = true;
        bench.script.say(rest);
        bench.acknowledges(200).await;
        let invalidated = bench.invalidated();
        for key in ["user:1", "user:2", "user:3"] {
            assert!(invalidated.contains(&key.to_owned()), "{invalidated:?}");
        }
        assert!(!invalidated.iter().any(|key| key.starts_with("SCOPE")), "{invalidated:?}");
    });
}

#[test]
fn whatever_became_of_the_source_meanwhile_the_targets_are_compared_with_it_anew() {
    on_paused_time(async {
        let earlier = with(|its| its.wal_end = Lsn::new(150));
        for (seen, invalidated) in [
            (with(|its| its.id = 8), &["SCOPE user:*"][..]),
            (earlier, &["SCOPE user:*"]),
            (with(|its| its.timeline = 2), &["SCOPE user:*"]),
            (Seen { slot: SlotSeen::Missing, ..seen(100) }, &["SCOPE user:*"]),
            // Another instance was active, and its record covers the acknowledged position.
            (seen(250), &[]),
        ] {
            let bench = start(Cache { not_empty: true, ..Cache::default() }, SETTINGS);
            bench.script.say(transaction(b"1", 200));
            bench.acknowledges(200).await;
            bench.forget_what_was_invalidated();
            let position = Lsn::new(if seen == self::seen(250) { 250 } else { 200 });
            let record = Record { applied: position, confirmed: position, settled: position, ..bench.record() };
            *bench.cache.record.lock().unwrap() = Some(record);
            bench.script.shared.lock().unwrap().acknowledged.clear();
            bench.comes_back_as(seen.clone());
            let end = seen.system.wal_end;
            eventually("it is opened again", || bench.script.shared.lock().unwrap().opened == 2).await;
            for _ in 0..2 {
                bench.shows(Observation { wal: Some(HeldWal { end, ..held(0) }), ..look(&rules(), "as it was") });
            }
            bench.script.say([Say::Position(600)]);
            bench.acknowledges(600).await;
            assert_eq!(bench.invalidated(), invalidated, "{seen:?}");
        }
    });
}

/// Another instance writes the record, and then the connection to the target breaks.
fn another_instance_writes(bench: &Bench) {
    let at = Lsn::new(300);
    let sequence = bench.record().sequence + 1_000_000;
    *bench.cache.record.lock().unwrap() =
        Some(Record { applied: at, confirmed: at, settled: at, sequence, ..bench.record() });
    *bench.cache.lost.lock().unwrap() = true;
}

#[test]
fn without_a_stream_a_record_is_left_alone_because_another_instance_may_have_written_it() {
    on_paused_time(async {
        let bench = start(Cache::default(), SETTINGS);
        bench.script.say(transaction(b"1", 200));
        bench.acknowledges(200).await;
        bench.script.shared.lock().unwrap().look_takes = Duration::from_secs(20);
        another_instance_writes(&bench);
        bench.comes_back_as(seen(300));
        let its = bench.record();
        tokio::time::sleep(Duration::from_secs(19)).await;
        assert_eq!(bench.record(), its, "no heartbeat has written over it");
        bench.script.say([Say::Position(600)]);
        bench.acknowledges(600).await;
        assert!(bench.record().sequence > its.sequence);
        assert_eq!(bench.invalidated(), ["user:1"], "nothing was flushed");
    });
}

#[test]
fn a_record_of_another_instance_has_the_stream_opened_anew_before_anything_is_written_over_it() {
    on_paused_time(async {
        let bench = start(Cache::default(), SETTINGS);
        bench.script.say(transaction(b"1", 200));
        bench.acknowledges(200).await;
        bench.script.shared.lock().unwrap().busy = true;
        another_instance_writes(&bench);
        let its = bench.record();
        eventually("the stream is let go", || bench.script.shared.lock().unwrap().let_go == 1).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!((bench.record(), bench.invalidated()), (its, vec!["user:1".to_owned()]));
    });
}

#[test]
fn after_a_promotion_what_was_sent_beyond_the_fork_is_sent_again() {
    on_paused_time(async {
        let bench = start(Cache::default(), SETTINGS);
        bench.script.say(transaction(b"1", 200));
        bench.acknowledges(200).await;
        bench.script.say(transaction(b"2", 300));
        bench.acknowledges(300).await;
        bench.forget_what_was_invalidated();
        let forks = vec![Fork { timeline: 1, at: Lsn::new(250) }];
        bench.comes_back_as(Seen { system: System { id: 7, timeline: 2, forks, wal_end: Lsn::new(260) }, ..seen(200) });
        bench.script.say(transaction(b"3", 270));
        bench.script.say([Say::Position(280)]);
        eventually("it goes on", || bench.record().applied == Lsn::new(280)).await;
        let mut invalidated = bench.invalidated();
        invalidated.sort();
        invalidated.dedup();
        assert_eq!(invalidated, ["user:2", "user:3"]);
        assert_eq!(bench.record().timeline, 2);
    });
}

/// A table whose changes are all in the stream.
fn published(oid: u32, name: TableName, parents: Vec<TableName>) -> Table {
    let id = TableColumn { name: "id".into(), in_identity: true, ..TableColumn::default() };
    let published = Some(Published { columns: None, row_filter: false, by: PublishedBy::AllTables });
    let identity_columns = vec![id.name.clone()];
    Table { oid, name, parents, columns: vec![id], identity_columns, published, ..Table::default() }
}

/// Changes may have arrived under the name of an unknown child, so they matched no rule.
#[test]
fn a_child_that_came_before_the_first_look_is_flushed_and_one_that_was_known_is_not() {
    let parent = rules()[0].table.clone();
    let child = TableName { name: "child".into(), ..parent.clone() };
    let tables = vec![published(2, child, vec![parent.clone()]), published(1, parent, Vec::new())];
    let operations = Operations { insert: true, update: true, delete: true, truncate: true };
    let publication = Some(Publication { operations, ..Publication::default() });
    let asked = vec![rules()[0].table.clone()];
    let database = Database { asked, tables, has_heirs: true, publication, ..Database::default() };
    for (knew, is_flushed) in [(Heirs::of(&database), false), (Heirs::default(), true)] {
        on_paused_time(async {
            let script = Script::default();
            script.shared.lock().unwrap().heirs = Some(knew);
            let bench = start_following(script, Cache::default(), SETTINGS);
            bench.script.say(transaction(b"1", 150));
            tokio::time::sleep(Duration::from_secs(1)).await;
            let database = Some(Box::new(database.clone()));
            bench.shows(Observation { database, ..look(&rules(), "as it was") });
            bench.acknowledges(150).await;
            assert_eq!(bench.invalidated().contains(&"SCOPE user:*".to_owned()), is_flushed);
        });
    }
}

#[test]
fn with_on_gap_halt_nothing_is_flushed_nor_acknowledged() {
    on_paused_time(async {
        let cache = Cache { not_empty: true, ..Cache::default() };
        let Bench { script, cache, stop: _stop, .. } =
            start(cache, Settings { policy: Policy { on_gap: OnGap::Halt, ..POLICY }, ..SETTINGS });
        script.say([Say::Position(500)]);
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(script.acknowledged(), Some(100));
        assert!(cache.keys.lock().unwrap().is_empty());
    });
}
