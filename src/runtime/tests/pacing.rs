//! Tests of how often acknowledgements are sent to the source.

use super::*;
use crate::core::ACKNOWLEDGE_BEHIND_EVERY;

/// A daemon that has just sent an acknowledgement to the source.
async fn just_told(settings: Settings) -> Bench {
    let bench = start(Cache::default(), settings);
    bench.script.say([Say::Position(150)]);
    eventually("the first position is told", || bench.script.acknowledged() == Some(150)).await;
    bench
}

#[test]
fn while_there_is_a_backlog_the_source_hears_of_acknowledgements_now_and_then() {
    on_paused_time(async {
        let bench = just_told(SETTINGS).await;
        bench.script.shared.lock().unwrap().behind = true;
        bench.script.say([Say::Position(200)]);
        tokio::time::sleep(ACKNOWLEDGE_BEHIND_EVERY / 2).await;
        assert_eq!(bench.script.acknowledged(), Some(150));
        tokio::time::sleep(ACKNOWLEDGE_BEHIND_EVERY).await;
        assert_eq!(bench.script.acknowledged(), Some(200));
    });
}

#[test]
fn who_waits_in_sql_need_not_wait_for_that() {
    on_paused_time(async {
        let bench = just_told(SETTINGS).await;
        bench.script.shared.lock().unwrap().behind = true;
        bench.script.say([awaited(200)]);
        tokio::time::sleep(ACKNOWLEDGE_BEHIND_EVERY / 2).await;
        assert_eq!(bench.script.acknowledged(), Some(200));
    });
}

#[test]
fn nor_does_a_backlog_that_has_come_to_its_end_hold_anything_up() {
    on_paused_time(async {
        let bench = just_told(SETTINGS).await;
        bench.script.shared.lock().unwrap().behind = true;
        bench.script.say(transaction(b"1", 200));
        tokio::time::sleep(ACKNOWLEDGE_BEHIND_EVERY / 4).await;
        assert_eq!(bench.script.acknowledged(), Some(150));
        bench.script.shared.lock().unwrap().behind = false;
        tokio::time::sleep(ACKNOWLEDGE_BEHIND_EVERY / 4).await;
        assert_eq!(bench.script.acknowledged(), Some(200));
    });
}

#[test]
fn a_shutdown_tells_all_that_is_confirmed_at_once() {
    on_paused_time(async {
        let Bench { script, stop, running, .. } = just_told(SETTINGS).await;
        script.shared.lock().unwrap().behind = true;
        script.say(transaction(b"1", 200));
        tokio::time::sleep(ACKNOWLEDGE_BEHIND_EVERY / 4).await;
        assert_eq!(script.acknowledged(), Some(150), "it is not told yet");
        drop(stop);
        running.await.unwrap().unwrap();
        assert_eq!(script.acknowledged(), Some(200));
    });
}

#[test]
fn the_source_is_never_told_more_than_the_record_says_was_invalidated() {
    on_paused_time(async {
        let bench = just_told(SETTINGS).await;
        for end in [200, 300, 400] {
            tokio::time::sleep(Duration::from_millis(700)).await;
            bench.script.say(transaction(b"12", end));
            eventually("it is told", || {
                let invalidated = bench.cache.record.lock().unwrap().as_ref().map(|record| record.confirmed.as_u64());
                assert!(
                    bench.script.acknowledged() <= invalidated,
                    "{:?} {invalidated:?}",
                    bench.script.acknowledged()
                );
                bench.script.acknowledged() == Some(end)
            })
            .await;
        }
    });
}
