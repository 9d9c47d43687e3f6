//! A standby that is promoted.

use coherd::postgres::{ErrorKind, Source};
use coherd::types::lsn::Lsn;
use coherd::types::server::Fork;

use super::{Followed, look, own_server, runtime, settled_text, source};
use crate::support::Database;
use crate::support::postgres::postgres_client;
use crate::support::process::Signal;

#[test]
fn a_look_at_a_promoted_standby_gives_the_fork_and_at_the_next_one_both() {
    let primary = own_server("");
    assert_eq!(look(&primary.dsn("postgres")).unwrap().system.forks, []);
    let second = primary.standby("");
    second.catch_up(&primary);
    assert_eq!(look(&second.dsn("postgres")).unwrap().system.forks, [], "it is still on the primary's timeline");
    let promoted = |server: &crate::support::Postgres| {
        server.promote();
        let seen = look(&server.dsn("postgres")).unwrap();
        let file = format!("SELECT pg_read_file('pg_wal/{:08X}.history')", seen.system.timeline);
        let history = postgres_client(&server.dsn("postgres")).unwrap().one(&file);
        let last = history.lines().rfind(|line| !line.is_empty()).unwrap().to_owned();
        let at: Lsn = last.split('\t').nth(1).unwrap().parse().unwrap();
        (seen, at)
    };
    let before = look(&second.dsn("postgres")).unwrap().system.wal_end;
    primary.stop(Signal::Quit);
    let (seen, first_at) = promoted(&second);
    assert_eq!((seen.system.timeline, seen.system.forks), (2, vec![Fork { timeline: 1, at: first_at }]));
    assert!(first_at <= before, "{first_at} is after {before}");
    let third = second.standby("");
    third.catch_up(&second);
    second.stop(Signal::Quit);
    let (seen, second_at) = promoted(&third);
    assert_eq!(seen.system.timeline, 3);
    assert_eq!(seen.system.forks, [Fork { timeline: 1, at: first_at }, Fork { timeline: 2, at: second_at }]);
    assert!(second_at > first_at && seen.system.wal_end >= second_at);
}

#[test]
fn a_history_that_is_gone_or_broken_gives_no_forks_and_the_look_goes_on() {
    let primary = own_server("");
    let standby = primary.standby("");
    standby.catch_up(&primary);
    primary.stop(Signal::Quit);
    standby.promote();
    let history = standby.data_dir().join("pg_wal/00000002.history");
    let runtime = runtime();
    let mut source = source(&standby.dsn("postgres"), "none");
    assert_eq!(runtime.block_on(source.look()).unwrap().system.forks.len(), 1);
    std::fs::write(&history, b"1\t0/\xff\n").unwrap();
    assert_eq!(runtime.block_on(source.look()).unwrap().system.forks, []);
    std::fs::remove_file(&history).unwrap();
    for _ in 0..2 {
        let seen = runtime.block_on(source.look()).unwrap();
        assert_eq!((seen.system.timeline, seen.system.forks), (2, Vec::new()));
    }
}

#[test]
fn a_slot_on_a_standby_is_refused_before_16_and_says_what_to_do() {
    let primary = own_server("");
    if primary.version() >= 160_000 {
        println!("skipped: from Postgres 16 on a standby can be followed");
        return;
    }
    let database = Database::create_on(primary);
    database.run("CREATE PUBLICATION p FOR ALL TABLES");
    let standby = database.server.standby("");
    standby.catch_up(&database.server);
    let error = runtime().block_on(source(&standby.dsn(&database.name), "s").create_slot()).unwrap_err();
    insta::assert_snapshot!(settled_text(&error, &[]), @"Refused: the server is a standby, and Postgres 15 decodes its log on the primary only (standbys can be followed from 16 on): name the primary in dsn, or all servers with target_session_attrs=primary, which finds it");
}

#[test]
fn a_slot_that_is_synchronized_from_the_primary_waits_for_promotion() {
    let server = own_server("");
    if server.version() < 170_000 {
        println!("skipped: failover slots came with Postgres 17");
        return;
    }
    let mut followed = Followed::on(Database::create_on(server), Database::dsn);
    let standby = followed.database.server.standby("");
    let (primary, name) = (followed.database.server.clone(), followed.database.name.clone());
    let dsn = standby.dsn(&name);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let syncing = scope.spawn(|| {
            standby.sync_slot(&primary, &name);
            done.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        while !done.load(std::sync::atomic::Ordering::Relaxed) && !syncing.is_finished() {
            followed.acknowledge_everything();
        }
    });
    let mut source = source(&dsn, &name);
    let runtime = runtime();
    let error = runtime.block_on(source.look()).unwrap_err();
    assert!(error.kind() == ErrorKind::Lost && error.to_string().contains("target_session_attrs=primary"), "{error:?}");
    primary.stop(Signal::Quit);
    standby.promote();
    let seen = runtime.block_on(source.look()).unwrap();
    assert!(matches!(seen.slot, coherd::postgres::SlotSeen::Usable { .. }), "{seen:?}");
    runtime.block_on(source.stream()).unwrap();
}
