//! Flushes cover exactly their scopes, and keep to the pace.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use coherd::targets::config::TargetConfig;
use coherd::types::invalidation::Action;

use super::{Asked, config, deliver, flush, open, open_url};
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
        let delivered = deliver(&*target, &flush(1, &[(Action::Delete, pattern)])).await.unwrap();
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

/// Two scopes for each of twenty rules: both have text before a star, and one also has text after it.
fn scopes_of_twenty_rules() -> Vec<(Action, String)> {
    let of = |rule: usize| {
        let action = if rule % 4 == 3 { Action::Bump } else { Action::Delete };
        [(action, format!("rule{rule}:*")), (action, format!("page:{rule}:*:html"))]
    };
    (0..20).flat_map(of).collect()
}

fn flush_of(applied: u64, scopes: &[(Action, String)]) -> coherd::targets::Delivery {
    flush(applied, &scopes.iter().map(|(action, pattern)| (*action, pattern.as_str())).collect::<Vec<_>>())
}

#[tokio::test]
async fn all_scopes_share_one_pass_over_the_keys_and_their_leases_another() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    asked.fill(20_000, |n| format!("foreign:{n}"));
    for rule in 0..20 {
        for n in 0..5 {
            asked.set(format!("rule{rule}:{n}"));
            asked.set(format!("page:{rule}:{n}:html"));
            asked.set(format!("page:{rule}:{n}:json"));
            asked.set(format!("{{rule{rule}:{n}}}:lease"));
            asked.run::<()>(&["SET", &format!("rule{rule}:{n}:version"), "5"]);
        }
    }
    let before: u64 = asked.run(&["DBSIZE"]);
    let target = open(&TargetConfig { leases: true, ..config(&server.url()) });
    let delivered = target.deliver(&flush_of(1, &scopes_of_twenty_rules())).await.unwrap();
    let calls = asked.calls("scan");
    assert!(calls <= 2 * (before / 1000 + 2), "{calls} calls of SCAN for {before} keys");
    // 15 rules delete two keys and the pointer of each row; 5 rules move one pointer of each row.
    assert_eq!(delivered.hit, 15 * 5 * 3 + 5 * 5);
    let left = left(&mut asked);
    assert_eq!(left.iter().filter(|key| key.starts_with("foreign:")).count(), 20_000);
    assert_eq!(left.iter().filter(|key| key.ends_with(":json")).count(), 100);
    assert_eq!(left.iter().filter(|key| key.ends_with(":html")).count(), 25, "of the rules that bump");
    let stand = left.iter().filter(|key| key.ends_with(":lease")).count();
    assert_eq!(stand, 25, "of the rules that bump");
    assert!((0..5).all(|n| asked.pointer(&format!("rule3:{n}")).unwrap() > 5));
}

#[tokio::test]
async fn scopes_that_only_redis_can_read_are_flushed_beside_the_others() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    for key in ["a:1", "a:x", "b:1", "b:22", "c*d:1", "cxd:1", "e[1]:1", "f:1", "f:1:version"] {
        asked.run::<()>(&["SET", key, "5"]);
    }
    let scopes = [
        (Action::Delete, "a:[0-9]"),
        (Action::Delete, "b:?"),
        (Action::Delete, r"c\*d:*"),
        (Action::Delete, r"e\[1\]:*"),
        (Action::Bump, "f:*"),
    ];
    let delivered = deliver(&*open_url(&server.url()), &flush(1, &scopes)).await.unwrap();
    assert_eq!(delivered.hit, 5);
    assert_eq!(left(&mut asked), ["a:x", "b:22", "cxd:1", "f:1", "f:1:version"]);
    assert!(asked.pointer("f:1").unwrap() > 5);
}

#[tokio::test]
async fn a_key_of_two_scopes_is_removed_rather_than_moved() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    for scopes in [[(Action::Delete, "p:*"), (Action::Bump, "p:*")], [(Action::Bump, "p:*"), (Action::Delete, "p:*")]] {
        asked.run::<()>(&["MSET", "p:1", "v", "p:1:version", "5"]);
        assert_eq!(deliver(&*open_url(&server.url()), &flush(1, &scopes)).await.unwrap().hit, 2);
        assert_eq!(left(&mut asked), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn keys_too_long_for_one_reply_of_a_thousand_are_looked_at_in_smaller_pieces() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let long = "x".repeat(50_000);
    for n in 0..400 {
        asked.set(format!("foreign:{n}:{long}"));
    }
    asked.fill(100, |n| format!("user:{n}"));
    asked.fill(100, |n| format!("order:{n}"));
    let mut driver = super::worker::Driver::new(open_url(&server.url()));
    driver.send(flush(1, &[(Action::Delete, "user:*"), (Action::Delete, "order:*")]));
    driver.until("the flush is confirmed", |driver| driver.confirmed == [1]).await;
    assert_eq!(asked.run::<u64>(&["DBSIZE"]), 401);
}
