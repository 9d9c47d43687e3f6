//! Flushes: exactly the scope, at the pace.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use coherd::invalidation::Action;
use coherd::target::FaultKind;

use super::{Asked, config, flush, open, open_url};
use crate::support::Redis;

fn left(asked: &mut Asked) -> Vec<String> {
    let mut keys: Vec<String> = asked.run(&["KEYS", "*"]);
    keys.retain(|key| key != "coherd:app");
    keys.sort();
    keys
}

#[tokio::test]
async fn glob_characters_in_a_template_mean_themselves() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let target = open_url(&server.url());
    let cases = [
        (r"a\*b:*", ["a*b:1", "a*b:"].as_slice(), ["axb:1", "ab:1", "aaab:1"].as_slice()),
        (r"a\?b:*", &["a?b:1"], &["axb:1", "ab:1"]),
        (r"\[x\]:*", &["[x]:1"], &["x:1", "[x:1"]),
        (r"a\\b:*", &[r"a\b:1"], &["ab:1", r"a\\b:1"]),
        (r"\^a-z:*", &["^a-z:1"], &["b:1"]),
        ("user:*:name", &["user:1:name", "user::name", "user:1:x:name"], &["user:1", "user:1:name:2", "xuser:1:name"]),
        ("exact", &["exact"], &["exact:1", "exac", "Exact"]),
    ];
    for (pattern, covered, others) in cases {
        let _: () = asked.run(&["FLUSHALL"]);
        for key in covered.iter().chain(others) {
            asked.set(*key);
        }
        let delivered = target.deliver(&flush(1, &[(Action::Delete, pattern)])).await.unwrap();
        let mut expected = others.to_vec();
        expected.sort_unstable();
        assert_eq!(left(&mut asked), expected, "{pattern}");
        assert_eq!(delivered.hit, covered.len() as u64, "{pattern}");
    }
}

#[tokio::test]
async fn a_flush_of_many_keys_leaves_none_of_them_and_all_of_the_others() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    asked.fill(30_000, |n| format!("user:{n}"));
    asked.fill(5_000, |n| format!("order:{n}"));
    let mut config = config(&server.url());
    config.flush_keys_per_second = NonZeroU32::MAX;
    let scopes = [(Action::Delete, "user:*"), (Action::Delete, "nobody:*")];
    assert_eq!(open(&config).deliver(&flush(1, &scopes)).await.unwrap().hit, 30_000);
    assert_eq!(asked.run::<u64>(&["DBSIZE"]), 5_001);
}

#[tokio::test]
async fn a_flush_keeps_to_its_pace() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    asked.fill(2_000, |n| format!("user:{n}"));
    let mut config = config(&server.url());
    config.flush_keys_per_second = NonZeroU32::new(2_000).unwrap();
    let began = Instant::now();
    open(&config).deliver(&flush(1, &[(Action::Delete, "user:*")])).await.unwrap();
    let took = began.elapsed();
    assert!(took > Duration::from_millis(900) && took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn a_scope_of_everything_spares_the_record() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let target = open_url(&server.url());
    target.deliver(&flush(1, &[])).await.unwrap();
    let born: u64 = asked.field("updated_ms").unwrap().parse().unwrap();
    let _: () = asked.run(&["HSET", "coherd:app", "witness", "1"]);
    asked.set("user:1");
    assert_eq!(target.deliver(&flush(2, &[(Action::Delete, "*")])).await.unwrap().hit, 1);
    assert_eq!(asked.field("witness").as_deref(), Some("1"), "born {born} and never deleted");
    assert_eq!(asked.field("applied").as_deref(), Some("2"));
}

#[tokio::test]
async fn a_bump_scope_moves_the_pointers_there_are_and_deletes_nothing() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let target = open_url(&server.url());
    for key in ["p:1", "p:2", "q:1"] {
        asked.set(key);
        let _: () = asked.run(&["SET", &format!("{key}:version"), "5"]);
    }
    asked.set("p:3");
    assert_eq!(target.deliver(&flush(1, &[(Action::Bump, "p:*")])).await.unwrap().hit, 2);
    assert!(asked.pointer("p:1").unwrap() > 5 && asked.pointer("p:2").unwrap() > 5);
    assert_eq!((asked.pointer("q:1"), asked.pointer("p:3")), (Some(5), None));
    assert_eq!(asked.run::<u64>(&["EXISTS", "p:1", "p:2", "p:3", "q:1"]), 4);
}

#[tokio::test]
async fn a_pointer_that_cannot_move_fails_the_flush_but_keeps_no_other_stale() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let target = open_url(&server.url());
    asked.fill(3_000, |n| format!("p:{n}:version"));
    for n in (0..3_000).filter(|n| n % 1000 != 0) {
        let _: () = asked.run(&["SET", &format!("p:{n}:version"), "5"]);
    }
    let scope = flush(1, &[(Action::Bump, "p:*")]);
    assert_eq!(target.deliver(&scope).await.unwrap_err().kind, FaultKind::Rejected);
    assert!((0..3_000).filter(|n| n % 1000 != 0).all(|n| asked.pointer(&format!("p:{n}")).unwrap() > 5));
    assert_eq!(asked.field("applied"), None, "nothing vouches for it yet");
}
