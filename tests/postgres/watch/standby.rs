//! A standby as the source.

use std::process::Command;
use std::sync::Arc;

use super::super::own_server;
use super::Watching;
use crate::support::postgres::postgres_client;
use crate::support::process::Signal;
use crate::support::{Database, Postgres, until};

/// A standby of `primary`, which is stopped for a moment to copy it.
fn standby_of(primary: &Postgres) -> Arc<Postgres> {
    let standby = own_server("");
    standby.stop(Signal::Interrupt);
    primary.stop(Signal::Interrupt);
    std::fs::remove_dir_all(standby.data_dir()).unwrap();
    let copied = Command::new("cp").arg("-a").arg(primary.data_dir()).arg(standby.data_dir()).status().unwrap();
    assert!(copied.success());
    primary.launch();
    let (port, socket, upstream) = (standby.port(), standby.socket_dir(), primary.port());
    standby.append_settings(&format!(
        "port = {port}\nunix_socket_directories = '{socket}'\nhot_standby_feedback = on
         primary_conninfo = 'host=127.0.0.1 port={upstream} user=postgres'"
    ));
    standby.write_file("standby.signal", "");
    standby.launch();
    standby
}

#[test]
fn a_standby_shows_what_its_primary_does() {
    let primary = own_server("");
    let database = Database::create_on(Arc::clone(&primary));
    database.run(
        "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE u (id int); CREATE TABLE p (id int) PARTITION BY RANGE (id);
         CREATE ROLE coherd LOGIN REPLICATION",
    );
    let standby = standby_of(&primary);
    let mut watching = Watching::over(&standby.dsn_as("coherd", &database.name), &database.name, &["p", "u"]);
    let before = watching.look();
    assert!(before.database.is_some_and(|database| database.server.in_recovery));
    assert_eq!(before.wal, None);
    // The snapshot's xmin is right, whatever transactions the snapshot lists.
    let mut writer = database.client();
    writer.run("BEGIN; INSERT INTO t VALUES (1)");
    let running: u64 = writer.one("SELECT pg_current_xact_id()").parse().unwrap();
    let later: u64 = database.client().one("SELECT pg_current_xact_id()").parse().unwrap();
    database.run("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); ALTER TABLE u REPLICA IDENTITY FULL");
    let seen = until("the DDL is replayed", || Some(watching.look()).filter(|seen| !seen.tables[0].leaves.is_empty()));
    assert!(seen.snapshot.xmax > later && seen.snapshot.xmin == running, "{:?} {running}", seen.snapshot);
    // Nothing can be proved about a partition while command numbers are not known.
    assert!(!seen.tables[0].leaves[0].born_here);
    assert_ne!(seen.tables[1].stamp, before.tables[1].stamp);
    writer.run("COMMIT");
    until("the transaction has ended", || (watching.look().snapshot.xmin > running).then_some(()));
    if primary.version() >= 160_000 {
        hold_back(&database, &standby, &mut watching);
    }
    promote(&database, &standby, &mut watching);
}

fn hold_back(database: &Database, standby: &Postgres, watching: &mut Watching) {
    let (dsn, name) = (standby.dsn(&database.name), database.name.clone());
    let creating = std::thread::spawn(move || {
        let create = format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')");
        postgres_client(&dsn).unwrap().run(&create);
    });
    until("the slot is there", || {
        database.run("SELECT pg_log_standby_snapshot()");
        creating.is_finished().then_some(())
    });
    creating.join().unwrap();
    let before = watching.look().wal.unwrap();
    database.run("SELECT pg_logical_emit_message(true, 'x', repeat('x', 1000000))");
    until("more is held back", || (watching.look().wal.unwrap().retained >= before.retained + 1_000_000).then_some(()));
}

/// The session survives, and from now on partitions can be told apart.
fn promote(database: &Database, standby: &Postgres, watching: &mut Watching) {
    let mut dba = postgres_client(&standby.dsn(&database.name)).unwrap();
    dba.run("SELECT pg_promote()");
    watching.look();
    dba.run("CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20)");
    dba.run(
        "CREATE TABLE p3 (LIKE p); INSERT INTO p3 VALUES (21); ALTER TABLE p ATTACH PARTITION p3 FOR VALUES FROM (20) \
         TO (30)",
    );
    let born: Vec<bool> = watching.look().tables[0].leaves.iter().map(|leaf| leaf.born_here).collect();
    assert_eq!(born, [false, true, false]);
}
