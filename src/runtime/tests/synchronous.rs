//! Tests with a source whose writers would wait for the stream.

use super::*;

fn counts_us() -> Observation {
    let rules = resolve(&[RawRule::of("users", &["user:{id}"])], &["cache-0".to_owned()]).unwrap();
    Observation { synchronous: Some("writers would wait".to_owned()), ..look(&rules, "as it was") }
}

fn shows(script: &Script, look: Observation) {
    let watching = script.shared.lock().unwrap().watching.clone();
    watching.unwrap().try_send(Watched::Seen(look)).unwrap();
}

#[test]
fn it_is_refused_by_a_process_that_has_not_followed_it_yet() {
    on_paused_time(async {
        let script = Script::default();
        script.shared.lock().unwrap().synchronous = true;
        let Bench { stop: _stop, running, .. } = start_following(script, Cache::default(), SETTINGS);
        assert!(matches!(running.await.unwrap(), Err(Stopped::Refused(text)) if text == "writers would wait"));
    });
}

#[test]
fn its_stream_is_let_go_at_once_and_opened_again_where_nobody_would_wait_any_more() {
    on_paused_time(async {
        let Bench { script, cache, stop: _stop, running } = start(Cache::default(), SETTINGS);
        eventually("it is followed", || script.shared.lock().unwrap().opened == 1).await;
        script.shared.lock().unwrap().synchronous = true;
        shows(&script, counts_us());
        eventually("it is let go", || script.shared.lock().unwrap().let_go == 1).await;
        script.say(transaction(b"1", 200));
        for _ in 0..60 {
            shows(&script, counts_us());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(script.shared.lock().unwrap().opened, 1);
        assert!(!running.is_finished() && cache.keys.lock().unwrap().is_empty());
        script.shared.lock().unwrap().synchronous = false;
        eventually("the commit is acknowledged", || script.acknowledged() == Some(200)).await;
        assert_eq!(*cache.keys.lock().unwrap(), ["user:1"]);
    });
}
