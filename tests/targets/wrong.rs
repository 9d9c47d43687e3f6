//! A key of coherd's holds something else: another type, or a value that coherd never writes. coherd replaces and
//! reports it, and it blocks nothing.

use coherd::targets::FaultKind;
use coherd::targets::config::TargetConfig;
use coherd::types::invalidation::Action;

use super::{Asked, config, deliver, delivery, flush, open, open_url};
use crate::protocol::{Form, Reader, lease_of};
use crate::support::Redis;

/// Values that no version pointer holds. The last ones overflow 53, 63 and 64 bits.
const NO_NUMBERS: &[&str] = &[
    "abc",
    "0x10",
    "1e3",
    "1.5",
    "-5",
    "soon",
    "",
    " 7",
    "nan",
    "inf",
    "9007199254740991",
    "9223372036854775808",
    "99999999999999999999",
];

/// Commands that store another type at the key.
const OTHER_TYPES: &[&[&str]] = &[
    &["RPUSH", "b:version", "1"],
    &["HSET", "b:version", "a", "1"],
    &["SADD", "b:version", "1"],
    &["ZADD", "b:version", "1", "a"],
    &["XADD", "b:version", "*", "a", "1"],
];

#[tokio::test]
async fn a_pointer_that_is_none_is_replaced_and_the_others_move() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let target = open_url(&server.url());
    let bump = delivery(1, &[(Action::Bump, "a"), (Action::Bump, "b"), (Action::Delete, "k"), (Action::Bump, "c")]);
    let values = NO_NUMBERS.iter().map(|wrong| vec!["SET", "b:version", *wrong]);
    let types = OTHER_TYPES.iter().map(|command| command.to_vec());
    for spoil in values.chain(types) {
        asked.run::<()>(&["FLUSHALL"]);
        asked.set("k");
        let _: ::redis::Value = asked.run(&spoil);
        let delivered = deliver(&*target, &bump).await.unwrap_or_else(|fault| panic!("{spoil:?}: {fault}"));
        assert_eq!(delivered.hit, 4, "{spoil:?}");
        let pointers = ["a", "b", "c"].map(|key| asked.pointer(key).unwrap());
        assert!(pointers.iter().all(|pointer| (1 << 50..1 << 53).contains(pointer)), "{spoil:?}: {pointers:?}");
        assert!(asked.run::<i64>(&["PTTL", "b:version"]) > 0, "{spoil:?}");
        assert!(!asked.has("k"));
    }
}

#[tokio::test]
async fn the_last_number_that_readers_take_is_followed_by_one_they_take() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let target = open_url(&server.url());
    asked.run::<()>(&["SET", "p:version", "9007199254740989"]);
    let bump = delivery(1, &[(Action::Bump, "p")]);
    deliver(&*target, &bump).await.unwrap();
    assert_eq!(asked.pointer("p"), Some(9_007_199_254_740_990));
    deliver(&*target, &bump).await.unwrap();
    assert!(asked.pointer("p").unwrap() < 9_007_199_254_740_990, "the clock, from which it goes on");
    let mut reader = Reader { connection: server.client(), form: Form::Script };
    assert_eq!(Some(reader.version("p")), asked.pointer("p"));
}

#[tokio::test]
async fn a_flush_replaces_pointers_that_are_none() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    asked.fill(3_000, |n| format!("p:{n}:version"));
    for n in (0..3_000).filter(|n| n % 1000 != 0) {
        asked.run::<()>(&["SET", &format!("p:{n}:version"), "5"]);
    }
    let delivered = open_url(&server.url()).deliver(&flush(7, &[(Action::Bump, "p:*")])).await.unwrap();
    assert_eq!(delivered.hit, 3_000);
    assert!((0..3_000).all(|n| asked.pointer(&format!("p:{n}")).unwrap() > 5));
    assert_eq!(asked.field("applied").as_deref(), Some("7"));
}

#[tokio::test]
async fn a_lease_and_a_key_of_another_type_go_like_any() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let target = open(&TargetConfig { leases: true, ..config(&server.url()) });
    let lease = String::from_utf8(lease_of(b"user:1")).unwrap();
    for invalidation in [delivery(1, &[(Action::Delete, "user:1")]), flush(2, &[(Action::Delete, "user:*")])] {
        asked.run::<()>(&["RPUSH", "user:1", "x"]);
        asked.run::<()>(&["HSET", &lease, "a", "x"]);
        assert_eq!(target.deliver(&invalidation).await.unwrap().hit, 1);
        assert!(!asked.has("user:1") && !asked.has(&lease));
    }
}

/// Values that are no record, each as the commands that store it.
const NO_RECORDS: &[&[&[&str]]] = &[
    &[&["SET", "coherd:app", "not a hash"]],
    &[&["RPUSH", "coherd:app", "1"]],
    &[&["HSET", "coherd:app", "applied", "abc", "settled", "1", "system_id", "1", "timeline", "1"]],
    &[&["HSET", "coherd:app", "applied", "99999999999999999999", "settled", "1", "system_id", "1", "timeline", "1"]],
    &[&["HSET", "coherd:app", "colour", "red"]],
    &[&[
        "HSET",
        "coherd:app",
        "applied",
        "1",
        "settled",
        "1",
        "system_id",
        "1",
        "timeline",
        "1",
        "sequence",
        "18446744073709551615",
    ]],
];

#[tokio::test]
async fn a_record_that_is_none_proves_that_something_was_missed_and_is_replaced() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    for spoil in NO_RECORDS {
        asked.run::<()>(&["FLUSHALL"]);
        let target = open_url(&server.url());
        for command in *spoil {
            asked.run::<()>(command);
        }
        let loaded = target.load_record().await.unwrap_or_else(|fault| panic!("{spoil:?}: {fault}"));
        let record = loaded.record.expect("not none, which could pass for a first start");
        assert_eq!((record.applied.as_u64(), record.confirmed.as_u64(), record.rules), (0, 0, None), "{spoil:?}");
        target.deliver(&delivery(500, &[(Action::Delete, "k")])).await.unwrap();
        assert_eq!(target.load_record().await.unwrap().record, Some(super::record(500)), "{spoil:?}");
    }
}

#[tokio::test]
async fn a_record_that_is_spoiled_while_deliveries_go_on_is_replaced_also_where_memory_is_full() {
    let server = Redis::start_with(&["--maxmemory-policy", "noeviction"]);
    let mut asked = Asked::of(&server);
    let target = open_url(&server.url());
    target.deliver(&delivery(100, &[])).await.unwrap();
    for (applied, full) in [(200, "0"), (300, "1")] {
        asked.run::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
        asked.run::<()>(&["SET", "coherd:app", "mine"]);
        asked.run::<()>(&["CONFIG", "SET", "maxmemory", full]);
        let next = delivery(applied, &[(Action::Delete, "k")]);
        let fault = target.deliver(&next).await.expect_err("somebody else wrote there");
        assert_eq!(fault.kind, FaultKind::Changed);
        assert!(target.load_record().await.unwrap().record.expect("a spoiled one").is_unreadable());
        target.deliver(&next).await.unwrap();
        assert_eq!(target.load_record().await.unwrap().record, Some(super::record(applied)));
    }
}

#[tokio::test]
async fn a_look_at_a_pointer_of_another_type_sees_that_it_is_there() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    asked.run::<()>(&["RPUSH", "p:version", "1"]);
    let peek = coherd::targets::open_to_peek(&config(&server.url())).unwrap();
    let batch = delivery(1, &[(Action::Bump, "p"), (Action::Bump, "q")]).batch;
    let seen = peek.peek(&batch, std::time::Duration::from_secs(5)).await.unwrap();
    assert_eq!(seen.keys[0].version, None);
    assert_eq!(seen.keys[0].held, coherd::targets::peek::Held::Here(None));
}

#[tokio::test]
async fn other_refusals_still_hold_everything_up() {
    let server = Redis::start_with(&["--rename-command", "UNLINK", ""]);
    let fault = open_url(&server.url()).deliver(&delivery(1, &[(Action::Delete, "k")])).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Rejected);
}
