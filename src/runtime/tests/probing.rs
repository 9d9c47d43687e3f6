//! Tests of the gate and the replica pass, with a scripted source and a scripted target.

use super::*;
use crate::types::snapshot::ReplicaSeen;

fn with_replicas(count: usize) -> Script {
    let script = Script::default();
    script.shared.lock().unwrap().replicas = count;
    script
}

impl Script {
    async fn replica(&self, index: usize, replayed: u64) {
        let run = self.shared.lock().unwrap().run;
        let seen = ReplicaSeen { system_id: 7, timeline: 1, replayed: Some(Lsn::new(replayed)), run };
        let answers = self.shared.lock().unwrap().answers.clone().unwrap();
        answers.send(Probed::Replica { index, seen }).await.unwrap();
    }

    /// Reports the replayed position of each replica, again and again.
    fn replicas_say(&self, replayed: &[u64]) -> tokio::task::JoinHandle<()> {
        let (script, replayed) = (self.clone(), replayed.to_vec());
        tokio::task::spawn_local(async move {
            loop {
                for (index, replayed) in replayed.iter().enumerate() {
                    script.replica(index, *replayed).await;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
    }
}

impl Cache {
    fn invalidated(&self, key: &str) -> usize {
        self.keys.lock().unwrap().iter().filter(|its| *its == key).count()
    }

    fn settled(&self) -> u64 {
        self.record.lock().unwrap().as_ref().map_or(0, |record| record.settled.as_u64())
    }

    fn applied(&self) -> u64 {
        self.record.lock().unwrap().as_ref().map_or(0, |record| record.applied.as_u64())
    }
}

fn early() -> Cache {
    Cache { early: true, ..Cache::default() }
}

#[test]
fn a_commit_that_readers_do_not_see_is_invalidated_early_and_again_when_they_do() {
    on_paused_time(async {
        let Bench { script, cache, stop: _stop, .. } = start(early(), SETTINGS);
        script.readers_see("9:10:9");
        script.say(transaction(b"1", 200));
        script.say([Say::Position(300)]);
        eventually("it is invalidated early", || cache.invalidated("user:1") == 1).await;
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!((cache.invalidated("user:1"), script.acknowledged()), (1, Some(100)));
        assert!(cache.settled() < 200 && cache.applied() < 200, "nothing counts yet");
        script.readers_see("10:10:");
        eventually("it counts", || script.acknowledged() == Some(300) && cache.settled() == 300).await;
        assert_eq!(cache.invalidated("user:1"), 2);
    });
}

#[test]
fn a_commit_that_waits_does_not_hold_those_after_it_up() {
    on_paused_time(async {
        let Bench { script, cache, stop: _stop, .. } = start(early(), SETTINGS);
        script.readers_see("9:10:9");
        script.say(transaction(b"1", 200));
        eventually("it is invalidated early", || cache.invalidated("user:1") == 1).await;
        script.readers_see("9:12:9");
        script.say(transaction_by(11, [b"2".as_slice()].into_iter(), 300));
        eventually("the one after it is invalidated early, and counts", || cache.invalidated("user:2") == 2).await;
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!((cache.invalidated("user:1"), script.acknowledged()), (1, Some(100)));
        script.readers_see("12:12:");
        eventually("all counts", || script.acknowledged() == Some(300)).await;
        assert_eq!((cache.invalidated("user:1"), cache.invalidated("user:2")), (2, 2));
    });
}

#[test]
fn without_an_answer_invalidations_leave_early_and_nothing_counts() {
    on_paused_time(async {
        let Bench { script, cache, stop: _stop, .. } = start(early(), SETTINGS);
        script.readers_see(NO_ANSWER);
        script.say(transaction(b"1", 200));
        eventually("it is invalidated early", || cache.invalidated("user:1") == 1).await;
        script.say(transaction(b"2", 300));
        eventually("so is the next", || cache.invalidated("user:2") == 1).await;
        assert_eq!(script.acknowledged(), Some(100));
        script.readers_see("10:10:");
        eventually("all counts", || script.acknowledged() == Some(300)).await;
    });
}

#[test]
fn what_a_replica_has_not_replayed_is_invalidated_again_when_it_has() {
    on_paused_time(async {
        let Bench { script, cache, stop: _stop, .. } = start_following(with_replicas(2), Cache::default(), SETTINGS);
        let behind = script.replicas_say(&[500, 200]);
        script.say(transaction(b"1", 200));
        eventually("it is invalidated", || cache.applied() == 200).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!((cache.invalidated("user:1"), script.acknowledged()), (1, Some(100)));
        assert!(cache.settled() < 200);
        behind.abort();
        let _there = script.replicas_say(&[500, 201]);
        eventually("it counts", || script.acknowledged() == Some(200) && cache.settled() == 200).await;
        assert_eq!(cache.invalidated("user:1"), 2);
    });
}

#[test]
fn what_every_replica_has_replayed_is_invalidated_once() {
    on_paused_time(async {
        let Bench { script, cache, stop: _stop, .. } = start_following(with_replicas(1), Cache::default(), SETTINGS);
        let _there = script.replicas_say(&[1000]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        script.say(transaction(b"1", 200));
        eventually("it counts", || script.acknowledged() == Some(200)).await;
        assert_eq!(cache.invalidated("user:1"), 1);
    });
}

#[test]
fn a_replica_that_stays_behind_is_left_and_the_rules_are_flushed_when_it_is_back() {
    on_paused_time(async {
        let Bench { script, cache, stop: _stop, .. } = start_following(with_replicas(1), Cache::default(), SETTINGS);
        let behind = script.replicas_say(&[150]);
        script.say(transaction(b"1", 200));
        eventually("it is invalidated", || cache.applied() == 200).await;
        tokio::time::sleep(MAX_LAG * 9 / 10).await;
        assert_eq!(script.acknowledged(), Some(100));
        eventually("it settles without the replica", || script.acknowledged() == Some(200)).await;
        let marks = || cache.record.lock().unwrap().as_ref().and_then(|record| record.rules.clone()).unwrap();
        assert_eq!(&*marks(), "", "no record lists a rule that readers of the replica may spoil");
        behind.abort();
        let _back = script.replicas_say(&[1000]);
        eventually("the rule is flushed", || cache.invalidated("SCOPE user:*") == 1).await;
        eventually("the record lists it again", || !marks().is_empty()).await;
        assert_eq!(cache.invalidated("SCOPE user:*"), 1);
    });
}

#[test]
fn a_replica_that_has_never_answered_holds_nothing_once_it_is_left() {
    on_paused_time(async {
        let Bench { script, cache, stop: _stop, .. } = start_following(with_replicas(1), Cache::default(), SETTINGS);
        script.say([Say::Position(500)]);
        tokio::time::sleep(MAX_LAG * 2).await;
        eventually("the position settles without it", || script.acknowledged() == Some(500)).await;
        script.say(transaction(b"1", 600));
        eventually("so does a commit", || script.acknowledged() == Some(600) && cache.settled() == 600).await;
        let _there = script.replicas_say(&[1000]);
        script.say(transaction(b"2", 700));
        eventually("and one after its return", || script.acknowledged() == Some(700)).await;
    });
}

#[test]
fn a_rule_that_nothing_touched_is_not_flushed_when_a_replica_is_back() {
    on_paused_time(async {
        let Bench { script, cache, stop: _stop, .. } = start_following(with_replicas(1), Cache::default(), SETTINGS);
        let there = script.replicas_say(&[1000]);
        script.say(transaction(b"1", 200));
        eventually("it counts", || script.acknowledged() == Some(200)).await;
        there.abort();
        tokio::time::sleep(MAX_LAG * 2).await;
        let _back = script.replicas_say(&[1000]);
        script.say(transaction(b"2", 300));
        eventually("all counts", || script.acknowledged() == Some(300)).await;
        assert_eq!(cache.invalidated("SCOPE user:*"), 0);
    });
}

#[test]
fn a_replica_that_was_restarted_has_every_rule_flushed_whether_touched_or_not() {
    on_paused_time(async {
        let Bench { script, cache, stop: _stop, .. } = start_following(with_replicas(1), Cache::default(), SETTINGS);
        let _there = script.replicas_say(&[1000]);
        script.say([Say::Position(300)]);
        eventually("it settles", || script.acknowledged() == Some(300)).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(cache.invalidated("SCOPE user:*"), 0);
        script.shared.lock().unwrap().run += 1;
        eventually("the rule is flushed", || cache.invalidated("SCOPE user:*") == 1).await;
    });
}

#[test]
fn a_flush_of_a_gap_is_repeated_for_the_replicas_and_the_record_lists_its_rules_after_that() {
    on_paused_time(async {
        let cache = Cache { not_empty: true, ..Cache::default() };
        let Bench { script, cache, stop: _stop, .. } = start_following(with_replicas(1), cache, SETTINGS);
        let behind = script.replicas_say(&[50]);
        eventually("it is flushed", || cache.invalidated("SCOPE user:*") == 1).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let marks = || cache.record.lock().unwrap().as_ref().and_then(|record| record.rules.clone()).unwrap();
        assert_eq!(&*marks(), "");
        behind.abort();
        let _there = script.replicas_say(&[20_000]);
        eventually("the record lists it", || !marks().is_empty()).await;
        assert_eq!(cache.invalidated("SCOPE user:*"), 2);
    });
}

#[test]
fn what_was_invalidated_for_good_is_repeated_once_after_the_pause() {
    on_paused_time(async {
        let settings = Settings { policy: Policy { repeat_after: Duration::from_secs(2), ..POLICY }, ..SETTINGS };
        let Bench { script, cache, stop: _stop, .. } = start(Cache::default(), settings);
        script.say(transaction(b"1", 200));
        eventually("it counts, whatever is to be repeated", || script.acknowledged() == Some(200)).await;
        script.say(transaction(b"2", 300));
        tokio::time::sleep(Duration::from_millis(1900)).await;
        assert_eq!((cache.invalidated("user:1"), cache.invalidated("user:2")), (1, 1));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!((cache.invalidated("user:1"), cache.invalidated("user:2")), (2, 2));
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!((cache.invalidated("user:1"), cache.invalidated("user:2")), (2, 2));
    });
}

#[test]
fn a_snapshot_from_between_the_two_invalidations_is_a_gap_for_the_next_process() {
    on_paused_time(async {
        let cache = Cache { not_empty: true, ..Cache::default() };
        let Bench { script, cache, stop, running } = start_following(with_replicas(1), cache, SETTINGS);
        let caught_up = script.replicas_say(&[20_000]);
        eventually("the first start's flush is over", || cache.settled() == 100).await;
        caught_up.abort();
        let behind = script.replicas_say(&[150]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        script.say(transaction(b"1", 200));
        eventually("it is invalidated once", || cache.applied() == 200).await;
        let snapshot = cache.record.lock().unwrap().clone();
        behind.abort();
        let _there = script.replicas_say(&[20_000]);
        eventually("it is invalidated for good", || script.acknowledged() == Some(200)).await;
        assert_eq!(cache.invalidated("user:1"), 2);
        drop(stop);
        running.await.unwrap().unwrap();
        *cache.record.lock().unwrap() = snapshot;
        let flushes = cache.invalidated("SCOPE user:*");
        let (_, _stop, _running) = launch(&script, std::slice::from_ref(&cache), SETTINGS);
        eventually("what it missed is flushed", || cache.invalidated("SCOPE user:*") > flushes).await;
    });
}
