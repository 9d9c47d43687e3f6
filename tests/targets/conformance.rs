//! What every kind of target must do.

use std::sync::Arc;

use coherd::targets::config::TargetConfig;
use coherd::targets::{Capabilities, Delivered, Exactness, KINDS, Target};
use coherd::types::invalidation::{Action, Batch, RuleId, Scope};
use coherd::types::pattern::Extent;

use super::{Asked, config, delivery, flush, open, open_url, record};
use crate::support::Redis;

/// The cache behind a target, which the test reads and writes directly.
pub trait Cache {
    fn put(&mut self, key: &str);
    fn has(&mut self, key: &str) -> bool;
}

impl Cache for Asked {
    fn put(&mut self, key: &str) {
        self.set(key);
    }

    fn has(&mut self, key: &str) -> bool {
        Asked::has(self, key)
    }
}

/// Checks that a fresh, empty target does everything that every target must do.
pub async fn conforms(target: Arc<dyn Target>, cache: &mut dyn Cache) {
    let fresh = target.load_record().await.expect("loads");
    assert_eq!((fresh.record, fresh.empty), (None, true), "a fresh target remembers nothing");

    for key in ["user:1", "user:2", "order:1", "ключ", " with space\n"] {
        cache.put(key);
    }
    assert!(!target.load_record().await.expect("loads").empty, "keys are seen");

    let keys = ["user:1", "absent", "ключ", " with space\n"].map(|key| (Action::Delete, key));
    let invalidated = target.deliver(&delivery(100, &keys)).await.expect("delivers");
    assert_eq!(invalidated.hit, 3, "only keys that were there count");
    assert!(!cache.has("user:1") && !cache.has("ключ") && !cache.has(" with space\n"));
    assert!(cache.has("user:2") && cache.has("order:1"), "nothing else is touched");
    assert_eq!(target.load_record().await.expect("loads").record, Some(record(100)));

    let again = target.deliver(&delivery(100, &keys)).await.expect("delivers the same again");
    assert_eq!(again.hit, 0);

    target.deliver(&delivery(200, &[])).await.expect("an empty batch moves the record");
    assert_eq!(target.load_record().await.expect("loads").record, Some(record(200)));

    cache.put("user:3");
    target.deliver(&flush(300, &[(Action::Delete, "user:*")])).await.expect("flushes");
    assert!(!cache.has("user:2") && !cache.has("user:3"));
    assert!(cache.has("order:1"), "a flush touches its scope only");
    assert_eq!(target.load_record().await.expect("loads").record, Some(record(300)));

    let both = [delivery(400, &[(Action::Delete, "order:1")]), delivery(500, &[])];
    let (first, second) = tokio::join!(target.deliver(&both[0]), target.deliver(&both[1]));
    first.and(second).expect("two at once");
    assert_eq!(target.load_record().await.expect("loads").record, Some(record(500)), "the later record is the last");
    assert!(target.load_record().await.expect("loads").empty, "the record alone is nothing that can be stale");
}

/// Invalidates `early:1` early, and expects that it was there so many times.
async fn invalidates_early(target: &dyn Target, hit: u64) {
    let mut batch = Batch::default();
    batch.push(Action::Delete, RuleId(0), b"early:1");
    if let Some(early) = target.early() {
        assert_eq!(early.invalidate(&batch).await, Delivered { hit, ..Delivered::default() });
    }
}

/// Flushes scopes of every exactness. What a target cannot tell from the scope goes too, and nothing of the scope stays.
async fn flushes(target: &dyn Target, cache: &mut dyn Cache, exactness: Exactness) {
    const KEYS: [&str; 5] = ["a:1:x", "a:1:y", "a:22:x", "b:1:x", "a*:1"];
    let of_scopes = [
        (Exactness::Pattern, "a:*:x", ["a:1:x", "a:22:x"].as_slice()),
        (Exactness::Pattern, "a:[0-9]:?", &["a:1:x", "a:1:y"]),
        (Exactness::Pattern, "*:x", &["a:1:x", "a:22:x", "b:1:x"]),
        (Exactness::Prefix, "a:*", &["a:1:x", "a:1:y", "a:22:x"]),
        (Exactness::Prefix, r"a\**", &["a*:1"]),
        (Exactness::All, "*", &KEYS),
    ];
    for (needs, glob, covered) in of_scopes {
        for key in KEYS {
            cache.put(key);
        }
        let mut batch = Batch::default();
        batch.push_scope(&Scope { action: Action::Delete, keys: Extent::read(glob) });
        target.flush(&batch).await.expect("flushes");
        for key in KEYS {
            let is_exact = needs <= exactness;
            assert!(!cache.has(key) || !covered.contains(&key), "{glob} leaves {key}");
            assert!(!is_exact || cache.has(key) != covered.contains(&key), "{glob} removes {key}");
        }
    }
}

/// Tests every kind in the registry, and the capabilities that it declares.
#[tokio::test]
async fn every_kind_conforms() {
    for kind in KINDS {
        let server = match kind.schemes {
            ["redis", ..] => Redis::start(),
            other => panic!("start a server for the kind with the schemes {other:?} here"),
        };
        let mut asked = Asked::of(&server);
        conforms(open_url(&server.url()), &mut asked).await;
        let Capabilities { leases, actions, early, scopes } = kind.capabilities;
        flushes(&*open_url(&server.url()), &mut asked, scopes).await;
        let target = open(&TargetConfig { leases, ..config(&server.url()) });
        assert_eq!(target.early().is_some(), early, "it says whether it takes early invalidations");
        asked.put("early:1");
        invalidates_early(&*target, 0).await;
        assert!(asked.has("early:1"), "it does not connect for what counts for nothing");
        target.load_record().await.expect("loads");
        invalidates_early(&*target, u64::from(early)).await;
        assert_eq!(asked.has("early:1"), !early);
        for (n, action) in actions.iter().enumerate() {
            let key = format!("able:{n}");
            asked.put(&key);
            asked.put(&format!("{{{key}}}:lease"));
            target.deliver(&delivery(1000 + n as u64, &[(*action, &key)])).await.expect("does what it says it can");
            let removes = *action == Action::Delete;
            assert_eq!(asked.has(&key), !removes, "{action:?}");
            if removes && leases {
                assert!(!asked.has(&format!("{{{key}}}:lease")), "the lease goes with the key");
            }
        }
    }
}

#[tokio::test]
async fn redis_conforms_over_tcp() {
    let server = Redis::start();
    conforms(open_url(&server.url()), &mut Asked::of(&server)).await;
}

#[tokio::test]
async fn redis_conforms_over_a_unix_socket() {
    let server = Redis::start();
    conforms(open_url(&format!("redis+unix://{}", server.socket())), &mut Asked::of(&server)).await;
}

#[tokio::test]
async fn redis_conforms_with_a_password_that_needs_escaping() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let _: () = asked.run(&["ACL", "SETUSER", "coherd", "on", ">p@ss/w:rd", "~*", "&*", "+@all"]);
    let url = server.url().replace("redis://", "redis://coherd:p%40ss%2Fw%3Ard@");
    conforms(open_url(&url), &mut asked).await;
}
