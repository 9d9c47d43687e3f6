//! Invalidations and flushes of a target whose readers use leases.

use std::num::NonZeroU32;

use coherd::targets::Delivery;
use coherd::targets::config::TargetConfig;
use coherd::types::invalidation::{Action, Batch, RuleId};

use super::{Asked, config, deliver, delivery, flush, open, record};
use crate::protocol::{in_each_form_on, lease_of};
use crate::support::{Redis, until};

fn with_leases(server: &Redis) -> TargetConfig {
    TargetConfig { leases: true, ..config(&server.url()) }
}

fn names(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| String::from_utf8(lease_of(key.as_bytes())).unwrap()).collect()
}

fn set_all<K: AsRef<str>>(asked: &mut Asked, keys: &[K]) {
    for key in keys {
        asked.set(key.as_ref());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_invalidated_key_of_any_shape_takes_its_lease_along() {
    let server = Redis::start();
    let target = open(&with_leases(&server));
    let runtime = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        in_each_form_on(&server, |reader| {
            for (key, _) in crate::protocol::leases::SHAPES {
                let token = reader.lease(key);
                let mut batch = Batch::default();
                batch.push(Action::Delete, RuleId(0), key);
                let invalidation = Delivery { batch, record: record(1) };
                let delivered = runtime.block_on(deliver(&*target, &invalidation)).unwrap();
                assert_eq!(delivered.hit, 0, "a lease is no key that was hit");
                assert_eq!(reader.raw(&lease_of(key)), None, "{key:?}");
                assert!(!reader.fill(key, &token, b"old"), "{key:?}");
                let token = reader.lease(key);
                assert!(reader.fill(key, &token, b"new"));
                assert_eq!(runtime.block_on(deliver(&*target, &invalidation)).unwrap().hit, 1);
            }
        });
    });
}

#[tokio::test]
async fn many_leases_go_with_their_keys_and_are_not_counted() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let keys = |count: usize| (0..count).map(|n| format!("user:{n}"));
    asked.fill(20_000, |n| format!("user:{n}"));
    asked.fill(10_000, |n| format!("{{user:{n}}}:lease"));
    let mut batch = Batch::default();
    keys(20_000).for_each(|key| batch.push(Action::Delete, RuleId(0), key.as_bytes()));
    let delivered = open(&with_leases(&server)).deliver(&Delivery { batch, record: record(9) }).await.unwrap();
    assert_eq!(delivered.hit, 20_000);
    assert_eq!(asked.run::<u64>(&["DBSIZE"]), 1, "the record");
    assert_eq!(asked.calls("unlink"), 2 * 20_000_u64.div_ceil(512));
}

#[tokio::test]
async fn without_leases_or_with_another_action_none_is_touched() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let leases = names(&["k", "{k}:x"]);
    let invalidations = [
        (open(&config(&server.url())), delivery(1, &[(Action::Delete, "k"), (Action::Delete, "{k}:x")])),
        (open(&with_leases(&server)), delivery(2, &[(Action::Bump, "k"), (Action::Publish, "{k}:x")])),
        (open(&with_leases(&server)), flush(3, &[(Action::Bump, "*k*"), (Action::Publish, "*k*")])),
    ];
    for (target, invalidation) in invalidations {
        set_all(&mut asked, &leases);
        deliver(&*target, &invalidation).await.unwrap();
        assert!(leases.iter().all(|lease| asked.has(lease)), "{invalidation:?}");
    }
}

#[tokio::test]
async fn a_flush_ends_the_leases_of_its_scope_in_both_forms_and_no_others() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let covered = ["user:1", "user:2", "user:{3}", "user:{4}:x", "user:a}b", "user:", "user:{}"];
    let others = ["order:1", "{order:2}", "xuser:1", "{tag}user:1"];
    set_all(&mut asked, &names(&covered));
    set_all(&mut asked, &names(&others));
    set_all(&mut asked, &["user:1", "user:{3}", "order:1"]);
    let delivered = open(&with_leases(&server)).deliver(&flush(1, &[(Action::Delete, "user:*")])).await.unwrap();
    assert_eq!(delivered.hit, 2, "keys, and no leases");
    let mut left: Vec<String> = asked.run(&["KEYS", "*"]);
    left.retain(|key| key != "coherd:app");
    left.sort();
    let mut expected = names(&others);
    expected.push("order:1".to_owned());
    expected.sort();
    assert_eq!(left, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_key_of_any_scope_goes_before_the_last_lease_is_gone() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let (plain, tagged) = (["user:1", "user:2", "order:3"], ["user:{4}", "order:{5}"]);
    let leases = [names(&plain), names(&tagged)].concat();
    let keys = [plain.as_slice(), &tagged].concat();
    set_all(&mut asked, &leases);
    set_all(&mut asked, &keys);
    // One key per command, and a tenth of a second between two commands.
    let mut config = with_leases(&server);
    config.flush_keys_per_second = NonZeroU32::new(10).unwrap();
    let target = open(&config);
    let scopes = [(Action::Delete, "user:*"), (Action::Delete, "order:*")];
    let flushing = tokio::spawn(async move { target.deliver(&flush(1, &scopes)).await });
    tokio::task::block_in_place(|| {
        let there = |asked: &mut Asked, names: &[String]| -> u64 {
            let mut command = vec!["EXISTS"];
            command.extend(names.iter().map(String::as_str));
            asked.run(&command)
        };
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        until("all keys are gone", || {
            // Keys first, so that what is deleted between the two questions cannot make the order look wrong.
            let (left, standing) = (there(&mut asked, &keys), there(&mut asked, &leases));
            assert!(left == 5 || standing == 0, "{left} keys are left, and {standing} leases stand");
            (left == 0).then_some(())
        });
    });
    flushing.await.unwrap().unwrap();
}
