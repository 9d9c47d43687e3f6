//! A server at `maxmemory` that evicts nothing: it refuses HSET, and a SET in a script, but never UNLINK.

use coherd::targets::config::TargetConfig;
use coherd::targets::{Delivery, FaultKind};
use coherd::types::invalidation::{Action, Batch, RuleId};

use super::worker::Driver;
use super::{Asked, config, delivery, flush, open, open_url, record};
use crate::support::Redis;

fn server() -> (Redis, Asked) {
    let server = Redis::start_with(&["--maxmemory-policy", "noeviction"]);
    let asked = Asked::of(&server);
    (server, asked)
}

fn fill_up(asked: &mut Asked) {
    let _: () = asked.run(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = ::redis::cmd("SET").arg("one more").arg("v").exec(&mut asked.0).unwrap_err();
    assert!(refused.to_string().contains("OOM"), "{refused}");
}

#[tokio::test]
async fn a_full_server_loses_keys_and_leases_and_takes_the_record() {
    let (server, mut asked) = server();
    let target = open(&TargetConfig { leases: true, ..config(&server.url()) });
    for known in [false, true] {
        let _: () = asked.run(&["CONFIG", "SET", "maxmemory", "0"]);
        asked.fill(400, |n| format!("user:{n}"));
        asked.fill(400, |n| format!("{{user:{n}}}:lease"));
        fill_up(&mut asked);
        let mut batch = Batch::default();
        (0..400).for_each(|n| batch.push(Action::Delete, RuleId(0), format!("user:{n}").as_bytes()));
        let delivered = target.deliver(&Delivery { batch, record: record(200) }).await.unwrap();
        assert_eq!(delivered.hit, 400, "the script is known: {known}");
        assert_eq!(asked.run::<u64>(&["DBSIZE"]), 1, "the record is all that is left");
        assert_eq!(target.load_record().await.unwrap().record, Some(record(200)));
    }
}

#[tokio::test]
async fn a_record_that_is_there_keeps_the_fields_that_are_not_written() {
    let (server, mut asked) = server();
    let target = open_url(&server.url());
    let mut first = delivery(100, &[]);
    first.record.rules = Some("1f 2e".into());
    target.deliver(&first).await.unwrap();
    fill_up(&mut asked);
    target.deliver(&delivery(200, &[])).await.unwrap();
    let loaded = target.load_record().await.unwrap().record.unwrap();
    assert_eq!((loaded.rules.as_deref(), loaded.applied.as_u64()), (Some("1f 2e"), 200));
}

#[tokio::test]
async fn pointers_that_are_there_move_and_no_new_ones_are_made() {
    let (server, mut asked) = server();
    let target = open_url(&server.url());
    asked.run::<()>(&["MSET", "p:1:version", "5", "p:3:version", "9007199254740000", "q:1:version", "5"]);
    fill_up(&mut asked);
    let keys = ["p:0", "p:1", "p:2", "p:3", "p:4"].map(|key| (Action::Bump, key));
    for _ in 0..2 {
        let before = [asked.pointer("p:1"), asked.pointer("p:3")];
        assert_eq!(target.deliver(&delivery(200, &keys)).await.unwrap().hit, 2);
        let after = [asked.pointer("p:1"), asked.pointer("p:3")];
        assert!(after[0] > before[0] && after[1] > before[1], "{before:?} {after:?}");
        assert!(asked.run::<i64>(&["PTTL", "p:1:version"]) > 0);
    }
    assert_eq!(["p:0", "p:2", "p:4"].map(|key| asked.pointer(key)), [None; 3], "nobody holds their version");
    assert_eq!(target.deliver(&flush(300, &[(Action::Bump, "q:*")])).await.unwrap().hit, 1);
    assert!(asked.pointer("q:1").unwrap() > 5);
    assert_eq!(asked.field("applied").as_deref(), Some("300"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_that_fills_up_and_empties_is_no_trouble_to_the_worker() {
    let (server, mut asked) = server();
    let mut driver = Driver::new(open_url(&server.url()));
    driver.send(delivery(100, &[(Action::Delete, "user:0"), (Action::Bump, "p")]));
    driver.until("it delivers at all", |driver| driver.confirmed == [100]).await;
    asked.set("user:400");
    fill_up(&mut asked);
    driver.send(delivery(200, &[(Action::Delete, "user:400"), (Action::Bump, "p")]));
    driver.until("it is confirmed while the server is full", |driver| driver.confirmed == [100, 200]).await;
    assert!(!asked.has("user:400"));
    let _: () = asked.run(&["CONFIG", "SET", "maxmemory", "0"]);
    driver.send(delivery(300, &[(Action::Bump, "p")]));
    driver.until("it is confirmed", |driver| driver.confirmed == [100, 200, 300]).await;
    assert!(driver.troubles.is_empty(), "{:?}", driver.troubles);
    assert_eq!(asked.field("applied").as_deref(), Some("300"));
}

#[tokio::test]
async fn a_user_without_the_script_is_refused_by_name_whether_full_or_not() {
    let (server, mut asked) = server();
    let _: () = asked.run(&["ACL", "SETUSER", "coherd", "on", ">mellon", "~*", "&*", "+@all", "-eval", "-evalsha"]);
    let target = open_url(&server.url().replace("redis://", "redis://coherd:mellon@"));
    for full in [false, true] {
        if full {
            fill_up(&mut asked);
        }
        let fault = target.deliver(&delivery(200, &[(Action::Delete, "k")])).await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Denied, "{fault}");
        assert!(fault.message.contains("NOPERM") && fault.message.contains("EVAL"), "{fault}");
    }
}
