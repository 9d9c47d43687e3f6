//! The visibility probe of the source.

use coherd::postgres::{ErrorKind, Probed, Source, SourceError, Stream};
use coherd::types::snapshot::Snapshot;

use super::super::{own_server, settled_text};
use super::{Asking, Followed};
use crate::support::process::Signal;
use crate::support::proxy::{Proxy, Way};
use crate::support::{Database, until};

fn away(asking: &mut Asking) -> SourceError {
    match asking.next() {
        Probed::SourceAway(error) => error,
        other => panic!("{other:?}"),
    }
}

/// A probe through a proxy, after its first answer.
fn through_proxy(followed: &Followed) -> (Asking, Proxy) {
    let database = &followed.database;
    database.create_role();
    let proxy = Proxy::start(database.server.port());
    let (direct, proxied) = (database.server.port().to_string(), proxy.port().to_string());
    let mut asking = Asking::start(&database.dsn_as("coherd").replace(&direct, &proxied), &database.name);
    asking.follow(Some(followed.stream.walsender()));
    asking.ask();
    (asking, proxy)
}

/// Appends to `postgresql.conf` and reloads.
fn set(database: &Database, settings: &str) {
    database.server.append_settings(settings);
    database.server.reload();
}

#[test]
fn a_commit_that_waits_for_its_standby_is_not_in_the_snapshot_until_it_is_released() {
    let mut followed = Followed::on(Database::create_on(own_server("")), Database::dsn);
    let mut asking = Asking::about(&followed);
    // Only sessions that ask for it wait; otherwise the test could not clean up.
    followed.database.run("ALTER ROLE postgres SET synchronous_commit = local");
    set(&followed.database, "synchronous_standby_names = 'ghost'");
    let mut writer = followed.database.client();
    writer.run("SET synchronous_commit = on; BEGIN; INSERT INTO t VALUES (1)");
    let writing = std::thread::spawn(move || writer.run("COMMIT"));
    let waiting = followed.commit();
    assert!(!asking.ask().shows(waiting));
    // A commit that does not wait becomes visible before the waiting one.
    followed.database.run("INSERT INTO t VALUES (2)");
    let other = followed.commit();
    let snapshot = asking.ask();
    assert!(snapshot.shows(other) && !snapshot.shows(waiting), "{snapshot:?}");
    let hidden = followed.database.client().one("SELECT count(*) FROM t WHERE id = 1");
    assert_eq!(hidden, "0", "readers see the same");
    set(&followed.database, "synchronous_standby_names = ''");
    writing.join().unwrap();
    assert!(asking.ask().shows(waiting));
}

#[test]
fn a_prepared_transaction_is_seen_when_it_is_committed() {
    let mut followed = Followed::on(Database::create_on(own_server("max_prepared_transactions = 5")), Database::dsn);
    let mut asking = Asking::about(&followed);
    followed.database.run("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'p'");
    let before = asking.ask();
    followed.database.run("COMMIT PREPARED 'p'");
    let commit = followed.commit();
    assert!(!before.shows(commit));
    assert!(asking.ask().shows(commit));
}

#[test]
fn a_transaction_with_subtransactions_is_seen_as_one() {
    let mut followed = Followed::start();
    let mut asking = Asking::about(&followed);
    let mut writer = followed.database.client();
    writer.run("BEGIN; INSERT INTO t VALUES (1); SAVEPOINT a; INSERT INTO t VALUES (2); RELEASE a; SAVEPOINT b");
    writer.run("INSERT INTO t VALUES (3); ROLLBACK TO b; INSERT INTO t VALUES (4)");
    followed.database.run("INSERT INTO t VALUES (5)");
    let other = followed.commit();
    let before = asking.ask();
    writer.run("COMMIT");
    let commit = followed.commit();
    assert!(before.shows(other) && !before.shows(commit), "{before:?}");
    assert!(asking.ask().shows(commit));
}

#[test]
fn what_runs_in_another_database_keeps_nothing_back() {
    let mut followed = Followed::start();
    let elsewhere = Database::create();
    let mut asking = Asking::about(&followed);
    let mut running = elsewhere.client();
    running.run("BEGIN; CREATE TABLE t (id int)");
    followed.database.run("INSERT INTO t VALUES (1)");
    let commit = followed.commit();
    assert!(asking.ask().shows(commit));
    running.run("COMMIT");
}

#[test]
fn a_question_put_while_another_is_under_way_is_answered_by_a_later_statement() {
    let mut followed = Followed::start();
    let (mut asking, proxy) = through_proxy(&followed);
    let name = followed.database.name.clone();
    let mut dba = followed.database.client();
    let of_asking = format!(
        "SELECT state_change FROM pg_stat_activity WHERE datname = '{name}' AND query LIKE '%pg_current_snapshot()::text%' \
         AND state = 'idle' AND pid <> pg_backend_pid()"
    );
    let first = dba.one(&of_asking);
    proxy.stall(Way::ToClient, true);
    asking.put();
    until("the first statement has been answered by the server", || {
        asking.work();
        dba.rows(&of_asking).pop().filter(|row| row[0] != first)
    });
    followed.database.run("INSERT INTO t VALUES (1)");
    let commit = followed.commit();
    asking.put();
    proxy.behave();
    assert!(asking.answer().shows(commit));
    asking.put();
    asking.answer();
}

#[test]
fn another_servers_snapshot_is_no_answer() {
    let followed = Followed::start();
    let mut asking = Asking::about(&followed);
    let walsender = followed.stream.walsender();
    asking.put();
    asking.follow(Some(1));
    let error = away(&mut asking);
    let (pid, name) = (format!("PID {walsender}."), &followed.database.name);
    insta::assert_snapshot!(settled_text(&error, &[(&pid, "PID 2."), (name, "s")]), @"Lost: could not ask the source what its readers see: the stream comes from PID 1, but on the server that dsn reaches now, the slot s is active for PID 2. If dsn names several servers, set target_session_attrs to select one");
    // A server where the slot is not in use, or does not exist, gives no answer either.
    let database = Database::create();
    let mut other = Asking::start(&database.dsn(), "none");
    other.follow(Some(walsender));
    other.put();
    insta::assert_snapshot!(settled_text(&away(&mut other), &[(&walsender.to_string(), "2")]), @r#"Lost: could not ask the source what its readers see: the stream comes from PID 2, but on the server that dsn reaches now, the slot "none" is not active. If dsn names several servers, set target_session_attrs to select one"#);
    away(&mut other);
    // Once the right server streams, the pending question is answered without being repeated.
    asking.follow(Some(walsender));
    loop {
        match asking.next() {
            Probed::SourceAway(_) => {}
            Probed::Source { walsender: of, .. } => break assert_eq!(of, walsender),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_server_that_cannot_be_reached_answers_the_newest_question_when_it_is_back() {
    let mut followed = Followed::start();
    let (mut asking, proxy) = through_proxy(&followed);
    proxy.refuse(true);
    proxy.cut();
    asking.put();
    for _ in 0..3 {
        assert!(away(&mut asking).kind() == ErrorKind::Lost);
    }
    followed.database.run("INSERT INTO t VALUES (1)");
    let commit = followed.commit();
    asking.put();
    proxy.behave();
    let snapshot = loop {
        match asking.next() {
            Probed::SourceAway(_) => {}
            Probed::Source { snapshot, .. } => break snapshot,
            other => panic!("{other:?}"),
        }
    };
    assert!(snapshot.shows(commit));
    asking.ask();
}

#[test]
fn a_server_that_hangs_is_suspended_and_another_connection_opened() {
    let followed = Followed::start();
    let (mut asking, proxy) = through_proxy(&followed);
    proxy.stall(Way::ToServer, true);
    asking.put();
    insta::assert_snapshot!(settled_text(&away(&mut asking), &[]), @"Lost: could not ask the source what its readers see: it has not answered within 5 s");
    proxy.behave();
    asking.answer();
}

#[test]
fn after_a_restart_the_next_stream_is_asked_about_at_once() {
    let mut followed = Followed::on(Database::create_on(own_server("")), Database::dsn);
    let mut asking = Asking::about(&followed);
    asking.ask();
    followed.database.server.stop(Signal::Quit);
    asking.put();
    away(&mut asking);
    asking.follow(None);
    followed.database.server.launch();
    followed.database.run("INSERT INTO t VALUES (1)");
    let (runtime, source) = (&followed.runtime, &mut followed.source);
    followed.stream = runtime.block_on(source.stream()).unwrap().0;
    let commit = followed.commit();
    asking.follow(Some(followed.stream.walsender()));
    assert!(asking.answer().shows(commit), "the question that was put is open still");
}

#[test]
fn without_a_stream_nobody_is_asked() {
    let followed = Followed::start();
    let mut asking = Asking::about(&followed);
    asking.ask();
    asking.follow(None);
    asking.put();
    let sessions = format!(
        "SELECT 1 FROM pg_stat_activity WHERE datname = '{}' AND query LIKE '%pg_current_snapshot()::text%' AND \
         pid <> pg_backend_pid()",
        followed.database.name
    );
    let mut dba = followed.database.client();
    until("its connection is gone", || {
        asking.work();
        dba.rows(&sessions).is_empty().then_some(())
    });
    asking.follow(Some(followed.stream.walsender()));
    asking.answer();
}

#[test]
fn a_standby_says_what_it_has_replayed_and_after_its_promotion_what_it_sees() {
    let primary = own_server("");
    if primary.version() < 160_000 {
        println!("skipped: standbys can be followed from Postgres 16 on");
        return;
    }
    let database = Database::create_on(primary);
    database.run("CREATE TABLE t (id int PRIMARY KEY, note text); CREATE PUBLICATION p FOR ALL TABLES");
    database.create_role();
    let standby = database.server.standby("");
    standby.catch_up(&database.server);
    let mut source = super::super::source(&standby.dsn(&database.name), &database.name);
    let runtime = super::runtime();
    let told = database.server.tell_standbys();
    let stream = runtime.block_on(async {
        source.create_slot().await.unwrap();
        source.stream().await.unwrap().0
    });
    drop(told);
    let mut followed = Followed { runtime, database, source, stream };
    let mut asking = Asking::start(&standby.dsn_as("coherd", &followed.database.name), &followed.database.name);
    asking.follow(Some(followed.stream.walsender()));
    let before = asking.ask();
    assert!(matches!(before, Snapshot::Standby(_)), "{before:?}");
    followed.database.run("INSERT INTO t VALUES (1)");
    let commit = followed.commit();
    let after = asking.ask();
    assert!(!before.shows(commit) && after.shows(commit), "{before:?} {after:?}");
    let mut sql = crate::support::postgres::postgres_client(&standby.dsn(&followed.database.name)).unwrap();
    sql.run("SELECT pg_wal_replay_pause()");
    followed.database.run("INSERT INTO t VALUES (2)");
    assert_eq!(asking.ask(), asking.ask(), "it replays nothing");
    sql.run("SELECT pg_wal_replay_resume()");
    let commit = followed.commit();
    assert!(asking.ask().shows(commit));
    followed.database.server.stop(Signal::Interrupt);
    standby.promote();
    sql.run("INSERT INTO t VALUES (3)");
    let commit = followed.commit();
    let snapshot = asking.ask();
    assert!(matches!(snapshot, Snapshot::Primary(_)) && snapshot.shows(commit), "{snapshot:?}");
}
