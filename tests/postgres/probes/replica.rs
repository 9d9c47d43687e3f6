//! The probes of replicas.

use std::time::{Duration, Instant};

use coherd::postgres::ErrorKind;
use coherd::types::lsn::Lsn;

use super::super::{look, own_server, settled_text};
use super::Following;
use crate::support::postgres::{Client, postgres_client};
use crate::support::process::Signal;
use crate::support::{Database, Postgres, Proxy, until};

const HOUR: Duration = Duration::from_hours(1);
/// The other test servers log every replication command, and the probe asks such a server rarely.
const QUIET: &str = "log_replication_commands = off";

/// A database with the table `t`, and a standby of its server.
fn replicated() -> (Database, Postgres) {
    let database = Database::create_on(own_server(QUIET));
    database.create_role();
    database.run("CREATE TABLE t (id int)");
    let standby = database.server.standby(QUIET);
    standby.catch_up(&database.server);
    (database, standby)
}

/// Commits. Returns a position from before it: a replica that has replayed more has replayed the commit.
fn commit(sql: &mut Client) -> Lsn {
    let before: Lsn = sql.one("SELECT pg_current_wal_insert_lsn()").parse().unwrap();
    sql.run("INSERT INTO t VALUES (1)");
    let end: Lsn = sql.one("SELECT pg_current_wal_insert_lsn()").parse().unwrap();
    assert!(before < end);
    Lsn::new(end.as_u64() - 1)
}

fn on(server: &Postgres, database: &Database) -> Client {
    postgres_client(&server.dsn(&database.name)).unwrap()
}

#[test]
fn a_replica_is_asked_until_it_has_replayed_what_is_wanted() {
    let (database, standby) = replicated();
    let system_id = look(&database.dsn()).unwrap().system.id;
    let mut following = Following::start(&standby.dsn_as("coherd", &database.name), HOUR);
    let first = following.seen();
    assert_eq!((first.system_id, first.timeline), (system_id, 1));
    assert!(following.is_silent(), "nothing is wanted");
    let mut sql = on(&standby, &database);
    sql.run("SELECT pg_wal_replay_pause()");
    until("replay is paused", || (sql.one("SELECT pg_get_wal_replay_pause_state()") == "paused").then_some(()));
    let at = commit(&mut database.client());
    following.want(at);
    let stands = following.seen().replayed;
    assert!(stands.is_some_and(|replayed| replayed <= at));
    // The pause is 20 ms after the first few questions. A slow machine may take longer; a loop without pauses would be
    // much faster.
    let began = Instant::now();
    for _ in 0..20 {
        following.want(at);
        assert_eq!(following.seen().replayed, stands);
    }
    assert!(began.elapsed() > Duration::from_millis(200), "{:?}", began.elapsed());
    sql.run("SELECT pg_wal_replay_resume()");
    until("it is replayed", || following.seen().replayed.filter(|replayed| *replayed > at));
    assert!(following.is_silent(), "nothing more is wanted");
    following.want(at);
    assert!(following.seen().replayed > Some(at), "asked once more");
    assert!(following.is_silent());
}

#[test]
fn a_replica_that_nobody_waits_for_gives_signs_of_life() {
    let (database, standby) = replicated();
    let mut following = Following::start(&standby.dsn_as("coherd", &database.name), Duration::from_millis(50));
    let began = Instant::now();
    for _ in 0..10 {
        following.seen();
    }
    assert!(began.elapsed() > Duration::from_millis(400), "{:?}", began.elapsed());
}

#[test]
fn a_server_that_logs_each_question_is_asked_five_times_a_second() {
    let primary = own_server("");
    let standby = primary.standby("");
    standby.catch_up(&primary);
    let mut following = Following::start(&standby.dsn("postgres"), HOUR);
    following.want(Lsn::new(u64::MAX - 1));
    following.seen();
    let began = Instant::now();
    for _ in 0..5 {
        following.seen();
    }
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
}

#[test]
fn a_promoted_replica_says_so_over_the_same_connection() {
    let (database, standby) = replicated();
    let mut following = Following::start(&standby.dsn_as("coherd", &database.name), Duration::from_millis(10));
    let before = following.seen();
    assert!(before.replayed.is_some());
    standby.promote();
    let after = until("it takes writes", || Some(following.seen()).filter(|seen| seen.replayed.is_none()));
    assert_eq!((after.system_id, after.timeline), (before.system_id, 2));
}

/// Positions of the new timeline are never reported with the old timeline's number.
#[test]
fn a_replica_whose_upstream_is_promoted_says_so_over_the_same_connection() {
    let (database, upstream) = replicated();
    let standby = upstream.standby(QUIET);
    standby.catch_up(&database.server);
    let mut following = Following::start(&standby.dsn_as("coherd", &database.name), Duration::from_millis(1));
    following.want(Lsn::new(u64::MAX - 1));
    let before = following.seen();
    assert_eq!(before.timeline, 1);
    database.server.stop(Signal::Interrupt);
    upstream.promote();
    let fork = look(&upstream.dsn("postgres")).unwrap().system.forks[0].at;
    let mut sql = on(&upstream, &database);
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let writing = std::thread::spawn(move || {
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            sql.run("INSERT INTO t VALUES (1)");
        }
    });
    let mut old = before.replayed.unwrap();
    let new = until("it follows", || {
        let seen = following.seen();
        match (seen.timeline, seen.replayed) {
            (1, Some(replayed)) => old = old.max(replayed),
            (2, Some(replayed)) if replayed > fork => return Some(replayed),
            (2, Some(_)) => {}
            _ => panic!("{seen:?}"),
        }
        None
    });
    drop(stop);
    writing.join().unwrap();
    assert!(old > Lsn::ZERO && old <= fork && fork < new, "{old} {fork} {new}");
}

#[test]
fn a_replica_that_cannot_be_reached_is_told_of_and_seen_soon_after_it_is_back() {
    let (database, standby) = replicated();
    let proxy = Proxy::start(standby.port());
    let text = standby.dsn_as("coherd", &database.name);
    let text = text.replace(&standby.port().to_string(), &proxy.port().to_string());
    let mut following = Following::start(&text, Duration::from_millis(10));
    following.seen();
    proxy.refuse(true);
    proxy.cut();
    let error = until("it is away", || following.next().err());
    assert!(error.kind() == ErrorKind::Lost, "{error:?}");
    let at = commit(&mut database.client());
    following.want(at);
    for _ in 0..8 {
        assert!(following.next().is_err());
    }
    proxy.behave();
    let began = Instant::now();
    following.seen_again();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    until("it is replayed", || following.seen().replayed.filter(|replayed| *replayed > at));
}

#[test]
fn a_replica_that_was_restarted_is_seen_again() {
    let (database, standby) = replicated();
    let mut following = Following::start(&standby.dsn_as("coherd", &database.name), Duration::from_millis(10));
    let before = following.seen();
    standby.stop(Signal::Quit);
    until("it is away", || following.next().err());
    let at = commit(&mut database.client());
    standby.launch();
    following.want(at);
    let after = until("it is replayed", || Some(following.seen_again()).filter(|seen| seen.replayed > Some(at)));
    assert_eq!((after.system_id, after.timeline), (before.system_id, 1));
    assert_ne!(after.run, before.run);
}

#[test]
fn a_server_in_any_role_is_looked_at_and_another_one_where_the_dsn_leads_elsewhere() {
    let primary = own_server("");
    let proxy = Proxy::start(primary.port());
    let text = primary.dsn("postgres").replace(&primary.port().to_string(), &proxy.port().to_string());
    let mut following = Following::start(&text, Duration::from_millis(10));
    let seen = following.seen();
    assert_eq!((seen.system_id, seen.timeline, seen.replayed), (look(&text).unwrap().system.id, 1, None));
    let other = Postgres::start_another("");
    proxy.lead_to(other.port());
    let ours = seen.system_id;
    let other_id = look(&other.dsn("postgres")).unwrap().system.id;
    let seen = until("it is the other one", || following.next().ok().filter(|seen| seen.system_id != ours));
    assert_eq!(seen.system_id, other_id);
    let mut picky = Following::start(&format!("{text}&target_session_attrs=standby"), HOUR);
    let port = proxy.port().to_string();
    insta::assert_snapshot!(settled_text(&picky.next().unwrap_err(), &[(&port, "PORT")]), @"Lost: Postgres at 127.0.0.1:PORT: it is a primary, and target_session_attrs=standby is wanted");
}

#[test]
fn what_a_replica_lacks_is_named() {
    let server = own_server("max_wal_senders = 0");
    let port = server.port().to_string();
    let mut following = Following::start(&server.dsn("postgres"), HOUR);
    // From Postgres 17 on, the server puts the setting in quotes.
    let masks = [(port.as_str(), "PORT"), ("\"max_wal_senders\"", "max_wal_senders")];
    insta::assert_snapshot!(settled_text(&following.next().unwrap_err(), &masks), @"Lost: Postgres at 127.0.0.1:PORT: could not log in as postgres to database postgres: number of requested standby connections exceeds max_wal_senders (currently 0) [SQLSTATE 53300]. Raise max_connections or max_wal_senders (ALTER SYSTEM SET max_wal_senders = …; and restart), or close other connections. coherd tries again.");
}
