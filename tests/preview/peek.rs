//! What a target reports about its keys.

use std::time::Duration;

use coherd::targets::config::TargetConfig;
use coherd::targets::open_to_peek;
use coherd::targets::peek::{Held, ScopeSeen};
use coherd::types::invalidation::{Action, Batch, RuleId, Scope};

use crate::support::Redis;
use crate::targets::Asked;

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn keys_pointers_and_leases_are_seen_with_their_times_and_nothing_is_changed() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let _: () = asked.run(&["SET", "a", "v", "PX", "50000"]);
    let _: () = asked.run(&["SET", "b", "v"]);
    let _: () = asked.run(&["SET", "{a}:lease", "v", "PX", "9000"]);
    let _: () = asked.run(&["SET", "p:version", "42"]);
    let target =
        open_to_peek(&TargetConfig { leases: true, ..TargetConfig::new("cache", server.url(), "app") }).unwrap();
    let mut batch = Batch::default();
    for (action, key) in [
        (Action::Delete, "a"),
        (Action::Delete, "b"),
        (Action::Delete, "c"),
        (Action::Bump, "p"),
        (Action::Bump, "q"),
        (Action::Publish, "a"),
    ] {
        batch.push(action, RuleId(0), key.as_bytes());
    }
    let seen = target.peek(&batch, PATIENCE).await.unwrap().keys;
    let Held::Here(Some(left)) = seen[0].held else { panic!("{seen:?}") };
    assert!(left <= Duration::from_secs(50) && left > Duration::from_secs(20), "{left:?}");
    assert!(matches!(seen[0].lease, Held::Here(Some(_))), "{seen:?}");
    assert_eq!([seen[1].held, seen[2].held, seen[5].held], [Held::Here(None), Held::Absent, Held::Untold]);
    assert_eq!((seen[3].held, seen[3].version.as_deref()), (Held::Here(None), Some("42")));
    assert_eq!((seen[4].held, seen[4].version.as_deref()), (Held::Absent, None));
    assert_eq!(asked.run::<u64>(&["DBSIZE"]), 4);
    assert_eq!(asked.calls("function|load"), 0, "who looks brings no library");
}

#[tokio::test]
async fn scopes_are_counted_without_the_record_and_leases_for_as_long_as_there_is_time() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    asked.fill(50_000, |n| format!("user:{n}"));
    for key in ["user:1:lease", "p:1:version", "p:2:version", "coherd:app"] {
        asked.set(key);
    }
    let target = open_to_peek(&TargetConfig::new("cache", server.url(), "app")).unwrap();
    let mut batch = Batch::default();
    for (action, pattern) in
        [(Action::Delete, "user:*"), (Action::Bump, "p:*"), (Action::Publish, "x:*"), (Action::Delete, "coherd:*")]
    {
        batch.push_scope(&Scope { action, keys: coherd::types::pattern::Extent::read(pattern) });
    }
    let seen = target.peek(&batch, PATIENCE).await.unwrap().scopes;
    let whole = |keys| ScopeSeen { keys, whole: true };
    assert_eq!(seen, [whole(Some(50_000)), whole(Some(2)), whole(None), whole(Some(0))]);
    let seen = target.peek(&batch, Duration::ZERO).await.unwrap().scopes;
    assert_eq!(seen[0], ScopeSeen { keys: Some(0), whole: false });
}
