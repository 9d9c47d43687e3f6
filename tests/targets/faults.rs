//! Each way in which Redis can refuse: the kind of fault, that nothing is confirmed meanwhile, and that everything is
//! confirmed after the repair.

use std::time::Duration;

use coherd::targets::FaultKind;
use coherd::types::invalidation::Action;

use super::worker::Driver;
use super::{Asked, config, delivery, open, open_url};
use crate::support::process::Signal;
use crate::support::{Redis, until};

/// A worker that is up and has delivered once.
async fn working(url: &str) -> Driver {
    let mut config = config(url);
    config.reply_timeout = Duration::from_millis(500);
    config.connect_timeout = Duration::from_millis(500);
    let mut driver = Driver::new(open(&config));
    driver.send(delivery(100, &[(Action::Delete, "user:0"), (Action::Bump, "p")]));
    driver.until("it delivers at all", |driver| driver.confirmed == [100]).await;
    driver
}

/// Sends three deliveries to a broken target, expects the fault and no confirmation, repairs the target and expects all
/// confirmations.
async fn holds_until_repaired(driver: &mut Driver, kind: FaultKind, repair: impl FnOnce()) {
    for applied in [200, 300, 400] {
        driver.send(delivery(applied, &[(Action::Delete, &format!("user:{applied}")), (Action::Bump, "p")]));
    }
    let attempts = if kind.passes_by_itself() { 4 } else { 2 };
    driver
        .until("the fault shows", |driver| driver.troubles.iter().filter(|f| f.kind == kind).count() >= attempts)
        .await;
    assert_eq!(driver.confirmed, [100], "nothing is confirmed that was not done");
    let fault = driver.troubles.iter().find(|fault| fault.kind == kind).expect("seen");
    assert!(fault.message.starts_with("Redis at ") && !fault.message.contains("user:"), "{fault}");
    repair();
    driver.until("all is confirmed", |driver| driver.confirmed == [100, 200, 300, 400]).await;
    driver.until("it is up again", |driver| driver.ups >= 2).await;
}

fn proof(server: &Redis) {
    let mut asked = Asked::of(server);
    assert_eq!(asked.field("applied").as_deref(), Some("400"));
    assert!([200, 300, 400].iter().all(|n| !asked.has(&format!("user:{n}"))), "invalidated after the fix");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_killed_server_is_a_lost_connection() {
    let mut server = Redis::start();
    let mut driver = working(&server.url()).await;
    server.kill();
    holds_until_repaired(&mut driver, FaultKind::Connection, || {
        server.restart();
    })
    .await;
    proof(&server);
    assert_eq!(driver.stored_records.last().expect("asked again").record, None, "the restarted server is empty");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_that_is_not_there_yet_is_waited_for() {
    let mut server = Redis::start();
    let url = server.url();
    server.kill();
    let mut driver = Driver::new(open_url(&url));
    driver.send(delivery(400, &[]));
    driver.until("it is refused a few times", |driver| driver.troubles.len() >= 4).await;
    assert!(driver.troubles.iter().all(|fault| fault.kind == FaultKind::Connection));
    assert!(driver.stored_records.is_empty() && driver.ups == 0);
    server.restart();
    driver.until("it is confirmed", |driver| driver.confirmed == [400]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stalled_server_leads_to_a_fresh_connection_and_loses_nothing() {
    let server = Redis::start();
    let mut driver = working(&server.url()).await;
    server.signal(Signal::Stop);
    holds_until_repaired(&mut driver, FaultKind::Timeout, || server.signal(Signal::Continue)).await;
    proof(&server);
    let mut asked = Asked::of(&server);
    until("the abandoned connections are gone", || {
        asked.run::<String>(&["INFO", "clients"]).contains("connected_clients:2\r\n").then_some(())
    });
    assert!(asked.run::<String>(&["INFO", "stats"]).contains("total_connections_received:"), "it dialled anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_connection_closed_by_the_server_is_dialled_anew() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let mut driver = working(&server.url()).await;
    let killed: u64 = asked.run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    assert_eq!(killed, 1);
    driver.send(delivery(200, &[]));
    driver.until("it is confirmed", |driver| driver.confirmed == [100, 200]).await;
    assert_eq!(driver.troubles.iter().map(|fault| fault.kind).collect::<Vec<_>>(), [FaultKind::Connection]);
    assert_eq!(driver.stored_records.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_replica_is_waited_for_until_it_is_the_primary() {
    let primary = Redis::start();
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let mut driver = working(&server.url()).await;
    let _: () = asked.run(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]);
    until("it is synchronised", || {
        asked.run::<String>(&["INFO", "replication"]).contains("master_link_status:up").then_some(())
    });
    holds_until_repaired(&mut driver, FaultKind::ReadOnly, || asked.run(&["REPLICAOF", "NO", "ONE"])).await;
    proof(&server);
    // The replica took over the other server's empty data: its record is gone, and the worker reports that.
    assert_eq!(driver.stored_records.last().expect("asked again").record, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_that_is_loading_is_waited_for() {
    let server = Redis::start_with(&["--enable-debug-command", "yes", "--key-load-delay", "0"]);
    let mut asked = Asked::of(&server);
    asked.fill(2_000, |n| format!("other:{n}"));
    let mut driver = working(&server.url()).await;
    // While it loads, it serves its clients every `loading-process-events-interval-bytes`.
    let _: () = asked.run(&["CONFIG", "SET", "key-load-delay", "1500"]);
    let _: () = asked.run(&["CONFIG", "SET", "loading-process-events-interval-bytes", "1024"]);
    let mut reloading = server.client();
    let reload = std::thread::spawn(move || ::redis::cmd("DEBUG").arg("RELOAD").query::<()>(&mut reloading));
    until("it is loading", || asked.run::<String>(&["INFO", "persistence"]).contains("loading:1").then_some(()));
    holds_until_repaired(&mut driver, FaultKind::NotReady, || asked.run(&["CONFIG", "SET", "key-load-delay", "0"]))
        .await;
    reload.join().expect("joins").expect("reloads");
    proof(&server);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_wrong_password_is_named_never_printed_and_tried_again() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let _: () = asked.run(&["ACL", "SETUSER", "coherd", "on", ">mellon", "~*", "&*", "+@all"]);
    let url = server.url().replace("redis://", "redis://coherd:mellon@");
    let mut driver = working(&url).await;
    let _: () = asked.run(&["ACL", "SETUSER", "coherd", "resetpass", ">friend"]);
    let _: u64 = asked.run(&["CLIENT", "KILL", "USER", "coherd"]);
    holds_until_repaired(&mut driver, FaultKind::Denied, || asked.run(&["ACL", "SETUSER", "coherd", ">mellon"])).await;
    proof(&server);
    let text = format!("{:?}", driver.troubles);
    assert!(text.contains("AUTH was answered with WRONGPASS") && !text.contains("mellon"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_that_wants_a_password_says_so() {
    let server = Redis::start_with(&["--requirepass", "mellon"]);
    let fault = open_url(&server.url()).load_record().await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Denied);
    assert!(fault.message.contains("NOAUTH") && fault.message.contains("url"), "{fault}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_missing_permission_is_named_and_tried_again() {
    for missing in ["unlink", "hset", "eval"] {
        let server = Redis::start();
        let mut asked = Asked::of(&server);
        let _: () = asked.run(&["ACL", "SETUSER", "coherd", "on", ">mellon", "~*", "&*", "+@all"]);
        let url = server.url().replace("redis://", "redis://coherd:mellon@");
        let mut driver = working(&url).await;
        // coherd calls a known script by its name with `EVALSHA`, which the rule for `eval` does not cover.
        let also = if missing == "eval" { "-evalsha" } else { "-flushall" };
        let _: () = asked.run(&["ACL", "SETUSER", "coherd", &format!("-{missing}"), also]);
        let repair = || asked.run(&["ACL", "SETUSER", "coherd", "+@all"]);
        holds_until_repaired(&mut driver, FaultKind::Denied, repair).await;
        proof(&server);
        assert!(driver.troubles[0].message.contains("NOPERM"), "{:?}", driver.troubles);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_key_outside_the_users_patterns_is_refused_without_being_named() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let _: () = asked.run(&["ACL", "SETUSER", "coherd", "on", ">mellon", "~coherd:*", "~user:*", "&*", "+@all"]);
    let target = open_url(&server.url().replace("redis://", "redis://coherd:mellon@"));
    let fault = target.deliver(&delivery(1, &[(Action::Delete, "order:4711")])).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Denied);
    assert!(!fault.message.contains("4711"), "{fault}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_command_that_the_server_does_not_have_is_named_without_its_arguments() {
    let server = Redis::start_with(&["--rename-command", "UNLINK", ""]);
    let target = open_url(&server.url());
    let fault = target.deliver(&delivery(1, &[(Action::Delete, "order:4711")])).await.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Rejected);
    assert!(fault.message.contains("UNLINK") && !fault.message.contains("4711"), "{fault}");
}
