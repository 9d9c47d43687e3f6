//! How much log the slot holds back.

use coherd::types::observation::HeldWal;

use super::super::own_server;
use super::Watching;
use crate::support::{Database, until};

fn create_slot(database: &Database) {
    database.run(&format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", database.name));
}

const WRITE: &str = "SELECT pg_logical_emit_message(true, 'x', repeat('x', 1000000))";

#[test]
fn what_the_slot_holds_back_grows_until_it_is_acknowledged() {
    let database = Database::create();
    let mut watching = Watching::start(&database, &["t"]);
    assert_eq!(watching.look().wal, None);
    create_slot(&database);
    let held = |watching: &mut Watching| watching.look().wal.expect("there is a slot");
    let before = held(&mut watching);
    assert_eq!((before.safe, before.segment), (None, 16 << 20));
    for _ in 0..3 {
        database.run(WRITE);
    }
    let after = held(&mut watching);
    assert!(after.retained >= before.retained + 3_000_000, "{before:?} {after:?}");
    until("less is held back", || {
        // The position moves only from one running-transactions record to the next.
        database.run("CHECKPOINT");
        database.run(&format!("SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn())", database.name));
        (held(&mut watching).retained < 3_000_000).then_some(())
    });
    database.run(&format!("SELECT pg_drop_replication_slot('{}')", database.name));
    assert_eq!(watching.look().wal, None);
}

#[test]
fn a_slot_that_may_be_lost_says_how_far_it_is_from_it_and_a_lost_one_holds_nothing() {
    let database =
        Database::create_on(own_server("max_slot_wal_keep_size = 1MB\nmin_wal_size = 32MB\nmax_wal_size = 32MB"));
    create_slot(&database);
    let mut watching = Watching::start(&database, &["t"]);
    let HeldWal { safe: Some(safe), .. } = watching.look().wal.unwrap() else { panic!("nothing is safe for ever") };
    database.run(WRITE);
    let less = watching.look().wal.unwrap().safe.unwrap();
    assert!(less + 1_000_000 <= safe, "{safe} {less}");
    until("the slot is lost", || {
        database.run("SELECT pg_switch_wal(); CHECKPOINT");
        watching.look().wal.is_none().then_some(())
    });
    let status = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = ";
    assert_eq!(database.client().one(&format!("{status}'{}'", database.name)), "lost");
}

#[test]
fn a_slot_that_idled_too_long_holds_nothing_from_18_on() {
    if crate::support::Postgres::shared().version() < 180_000 {
        return;
    }
    let database = Database::create_on(own_server("idle_replication_slot_timeout = 1s"));
    create_slot(&database);
    let mut watching = Watching::start(&database, &["t"]);
    assert!(watching.look().wal.is_some());
    until("the slot is lost", || {
        database.run("CHECKPOINT");
        watching.look().wal.is_none().then_some(())
    });
}

#[test]
fn the_snapshot_says_which_transactions_have_ended() {
    let database = Database::create();
    let mut watching = Watching::start(&database, &["t"]);
    let mut writer = database.client();
    writer.run("BEGIN");
    let running: u64 = writer.one("SELECT pg_current_xact_id()").parse().unwrap();
    let ended: u64 = database.client().one("SELECT pg_current_xact_id()").parse().unwrap();
    let seen = watching.look().snapshot;
    assert!(seen.xmin <= running && seen.xmax > ended, "{seen:?} {running} {ended}");
    writer.run("COMMIT");
    until("nothing older runs", || (watching.look().snapshot.xmin > running).then_some(()));
}
