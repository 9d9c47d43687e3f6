//! Tests of targets that do not keep up, of takeovers, and of shutdowns.

use super::*;

#[test]
fn a_stream_that_cannot_be_read_is_let_go_and_taken_up_again() {
    on_paused_time(async {
        let settings = Settings {
            policy: Policy { pending_keys: 1_000_000, ..POLICY },
            transaction_keys_max: 1_000_000,
            ..SETTINGS
        };
        let Bench { script, cache, stop: _stop, .. } = start(Cache::default(), settings);
        *cache.closed.lock().unwrap() = true;
        let ids: Vec<Vec<u8>> = (0..300_000).map(|id| format!("{id:06}").into_bytes()).collect();
        script.say(transaction_of(ids.iter().map(Vec::as_slice), 200));
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert!(!script.shared.lock().unwrap().said.is_empty(), "it was read although nothing has room");
        assert_eq!(script.shared.lock().unwrap().let_go, 0);
        eventually("the stream is let go", || script.shared.lock().unwrap().let_go == 1).await;
        *cache.closed.lock().unwrap() = false;
        eventually("it is opened again", || script.shared.lock().unwrap().opened == 2).await;
        eventually("everything is acknowledged", || script.acknowledged() == Some(200)).await;
        let keys: std::collections::HashSet<String> = cache.keys.lock().unwrap().iter().cloned().collect();
        assert_eq!(keys.len(), 300_000);
    });
}

#[test]
fn a_shutdown_delivers_what_was_read_and_acknowledges_it() {
    on_paused_time(async {
        let Bench { script, cache, stop, running } = start(Cache::default(), SETTINGS);
        script.say(transaction(b"123", 200));
        eventually("it was read", || script.shared.lock().unwrap().said.is_empty()).await;
        stop.send(()).unwrap();
        running.await.unwrap().unwrap();
        assert_eq!(cache.keys.lock().unwrap().len(), 3);
        assert_eq!(script.acknowledged(), Some(200));
        assert!(script.shared.lock().unwrap().finished);
    });
}

#[test]
fn a_standby_that_takes_over_asks_its_targets_anew() {
    on_paused_time(async {
        let script = Script::default();
        script.shared.lock().unwrap().busy = true;
        let at = |applied| Record {
            applied,
            confirmed: applied,
            settled: applied,
            system_id: 7,
            timeline: 1,
            sequence: 0,
            commit: None,
            rules: Some("new".into()),
        };
        let record = Mutex::new(Some(at(Lsn::new(100))));
        let cache = Cache { record, not_empty: true, ..Cache::default() };
        let Bench { script, cache, stop: _stop, .. } = start_following(script, cache, SETTINGS);
        tokio::time::sleep(Duration::from_mins(1)).await;
        // Meanwhile the other instance delivers, and then ends.
        *cache.record.lock().unwrap() = Some(at(Lsn::new(5000)));
        script.shared.lock().unwrap().acknowledged.push(5000);
        script.shared.lock().unwrap().busy = false;
        script.say(transaction(b"1", 6000));
        eventually("the commit is acknowledged", || script.acknowledged() == Some(6000)).await;
        assert_eq!(*cache.keys.lock().unwrap(), ["user:1"], "nothing was missed, so nothing is flushed");
    });
}

#[test]
fn a_drain_without_a_source_and_with_a_target_that_stalls_ends_in_time() {
    on_paused_time(async {
        let Bench { script, cache, stop, running } = start(Cache::default(), SETTINGS);
        script.say(transaction(b"1", 200));
        eventually("the target is up", || script.acknowledged() == Some(200)).await;
        *cache.stalled.lock().unwrap() = true;
        script.shared.lock().unwrap().busy = true;
        script.say(transaction(b"2", 300));
        script.say([Say::Break]);
        tokio::time::sleep(Duration::from_secs(3)).await;
        stop.send(()).unwrap();
        let ended = tokio::time::timeout(DRAIN_TIME * 2, running).await;
        ended.expect("it ends").unwrap().unwrap();
    });
}

/// `coherd.invalidate()` of a hundred keys.
fn manual(begin: usize) -> Say {
    let keys: Vec<String> = (begin..begin + 100).map(|n| format!("\"by-hand:{n}\"")).collect();
    let content = format!(r#"{{"v":1,"do":"invalidate","keys":[{}]}}"#, keys.join(","));
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    Say::Data([b"M\x01\0\0\0\0\0\0\0\xC8coherd\0".as_slice(), &length, content.as_bytes()].concat())
}

#[test]
fn manual_keys_wait_in_the_log_for_a_target_that_is_away() {
    on_paused_time(async {
        let script = Script::default();
        let caches = [Arc::new(Cache::default()), Arc::new(Cache::default())];
        let (board, _stop, _running) = launch(&script, &caches, SETTINGS);
        *caches[1].closed.lock().unwrap() = true;
        let mut said = transaction(b"1", 200);
        let commit = said.pop().unwrap();
        said.extend((0..10_000).step_by(100).map(manual));
        said.push(commit);
        script.say(said);
        tokio::time::sleep(Duration::from_mins(1)).await;
        let pending = board.status().targets[1].pending_keys;
        assert!(pending <= POLICY.pending_keys as u64, "{pending} keys wait in memory");
        *caches[1].closed.lock().unwrap() = false;
        eventually("the commit is acknowledged", || script.acknowledged() == Some(200)).await;
        for cache in caches {
            // If the stream was closed and reopened meanwhile, some keys arrive twice.
            let keys: std::collections::HashSet<String> = cache.keys.lock().unwrap().iter().cloned().collect();
            assert_eq!(keys.len(), 10_001, "every key is invalidated, and no scope");
        }
    });
}

#[test]
fn a_worker_that_ends_ends_the_daemon_rather_than_leave_it_standing_still() {
    on_paused_time(async {
        let Bench { script, cache, stop: _stop, running } = start(Cache::default(), SETTINGS);
        script.say(transaction(b"1", 200));
        eventually("the target is up", || script.acknowledged() == Some(200)).await;
        *cache.broken.lock().unwrap() = true;
        script.say(transaction(b"2", 300));
        let ended = tokio::time::timeout(Duration::from_mins(1), running).await;
        assert!(matches!(ended.expect("it ends").unwrap(), Err(Stopped::Broken(text)) if text.contains("cache-0")));
        assert_eq!(script.acknowledged(), Some(200));
    });
}
