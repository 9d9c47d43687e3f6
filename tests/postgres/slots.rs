//! Looking at slots, creating them and losing them.

use coherd::postgres::server::Creation;
use coherd::postgres::{ErrorKind, SlotSeen, Source, SourceError};
use coherd::types::lsn::Lsn;

use super::{Followed, dsn, own_server, runtime, settled_text, source};
use crate::support::{Database, Postgres, until};

fn slot_seen(database: &Database) -> Result<SlotSeen, SourceError> {
    runtime().block_on(source(&database.dsn(), &database.name).look()).map(|seen| seen.slot)
}

#[test]
fn a_look_gives_the_system_and_the_slot_as_sql_gives_them() {
    let database = Database::create();
    database.run("CREATE PUBLICATION p FOR ALL TABLES");
    let mut source = source(&database.dsn(), &database.name);
    let runtime = runtime();
    let seen = runtime.block_on(source.look()).unwrap();
    assert_eq!(seen.slot, SlotSeen::Missing);
    assert_eq!(seen.system.id.to_string(), database.client().one("SELECT system_identifier FROM pg_control_system()"));
    assert_eq!(seen.system.timeline, 1);
    let created = runtime.block_on(source.create_slot()).unwrap();
    let again = runtime.block_on(source.look()).unwrap();
    assert_eq!(again.slot, SlotSeen::Usable { confirmed: created });
    assert!(again.system.wal_end >= created && created > Lsn::ZERO);
}

#[test]
fn names_that_need_quoting_work_everywhere() {
    let database = Database::create();
    database.run("CREATE TABLE t (id int); CREATE PUBLICATION \"p, 'q' \"\"r\"\" \\s\" FOR ALL TABLES");
    let publication = "p, 'q' \"r\" \\s".to_owned();
    let slot = database.name.clone();
    let config = coherd::postgres::server::PostgresConfig {
        dsn: dsn(&database.dsn()),
        slot,
        publication,
        messages: false,
        creation: Creation::default(),
    };
    let mut source = coherd::postgres::server::Postgres::new(config);
    let runtime = runtime();
    runtime.block_on(source.create_slot()).unwrap();
    let (stream, _) = runtime.block_on(source.stream()).unwrap();
    let mut followed = Followed { runtime, database, source, stream };
    followed.database.run("INSERT INTO t VALUES (1)");
    followed.read_until("a row", |got| got.iter().any(|got| matches!(got, super::Got::Data(data) if data[0] == b'I')));
}

#[test]
fn a_dropped_slot_is_a_gap_when_streaming_and_missing_when_looked_at() {
    let followed = Followed::start();
    let Followed { runtime, database, mut source, stream } = followed;
    drop(stream);
    let drop = format!("SELECT pg_drop_replication_slot('{}')", database.name);
    until("the slot is dropped", || database.client().try_run(&drop).ok());
    let error = runtime.block_on(async { source.stream().await.err().unwrap() });
    assert!(error.kind() == ErrorKind::Gap, "{error:?}");
    assert_eq!(slot_seen(&database).unwrap(), SlotSeen::Missing);
}

#[test]
fn a_slot_whose_log_was_removed_is_lost_and_can_be_made_anew() {
    let server = own_server("max_slot_wal_keep_size = 1MB\nmin_wal_size = 32MB\nmax_wal_size = 32MB");
    let Followed { runtime, database, mut source, stream } = Followed::on(Database::create_on(server), Database::dsn);
    drop(stream);
    until("the slot is lost", || {
        database.run(
            "INSERT INTO t SELECT i FROM generate_series(1, 1000) i; TRUNCATE t; SELECT pg_switch_wal(); CHECKPOINT",
        );
        matches!(slot_seen(&database), Ok(SlotSeen::Lost { .. })).then_some(())
    });
    assert_eq!(slot_seen(&database).unwrap(), SlotSeen::Lost { reason: "wal_removed".to_owned() });
    let error = runtime.block_on(async { source.stream().await.err().unwrap() });
    let error = settled_text(&error, &[(&database.name, "NAME")]);
    insta::assert_snapshot!(error, @"Gap: the slot NAME is lost (wal_removed): its log is gone");
    let position = runtime.block_on(source.create_slot()).unwrap();
    assert_eq!(slot_seen(&database).unwrap(), SlotSeen::Usable { confirmed: position });
}

#[test]
fn a_slot_that_idled_too_long_is_lost_with_that_reason_from_18_on() {
    if Postgres::shared().version() < 180_000 {
        return;
    }
    let server = own_server("idle_replication_slot_timeout = 1s");
    let Followed { runtime, database, mut source, stream } = Followed::on(Database::create_on(server), Database::dsn);
    drop(stream);
    until("the slot is lost", || {
        database.run("CHECKPOINT");
        matches!(slot_seen(&database), Ok(SlotSeen::Lost { .. })).then_some(())
    });
    assert_eq!(slot_seen(&database).unwrap(), SlotSeen::Lost { reason: "idle_timeout".to_owned() });
    let error = runtime.block_on(async { source.stream().await.err().unwrap() });
    assert!(error.kind() == ErrorKind::Gap && error.to_string().contains("idle_timeout"), "{error:?}");
}

#[test]
fn a_slot_survives_a_failover_where_the_version_can_do_that() {
    let followed = Followed::start();
    assert_eq!(followed.slot("plugin || temporary"), "pgoutputfalse");
    if followed.database.server.version() >= 170_000 {
        assert_eq!(followed.slot("failover"), "t");
    }
    assert_eq!(followed.slot("two_phase"), "f");
}

#[test]
fn two_processes_that_both_found_no_slot_do_not_drop_each_others() {
    let database = Database::create();
    database.run("CREATE PUBLICATION p FOR ALL TABLES");
    let runtime = runtime();
    let (mut one, mut other) = (source(&database.dsn(), &database.name), source(&database.dsn(), &database.name));
    runtime.block_on(one.look()).unwrap();
    runtime.block_on(other.look()).unwrap();
    let position = runtime.block_on(one.create_slot()).unwrap();
    let error = runtime.block_on(other.create_slot()).unwrap_err();
    assert!(error.kind() == ErrorKind::Busy, "{error:?}");
    assert_eq!(slot_seen(&database).unwrap(), SlotSeen::Usable { confirmed: position });
}

#[test]
fn a_slot_that_is_not_ours_is_refused_with_the_remedy() {
    let database = Database::create();
    let name = database.name.clone();
    let text = |slot: &str| {
        let error = runtime().block_on(source(&database.dsn(), slot).look()).unwrap_err();
        settled_text(&error, &[(&name, "NAME")])
    };
    database.run(&format!("SELECT pg_create_logical_replication_slot('{name}', 'test_decoding')"));
    insta::assert_snapshot!(text(&name), @"Refused: the slot NAME was made with the output plugin test_decoding, and coherd reads pgoutput; it is not coherd's, so choose another name (source.slot)");
    database.run(&format!("SELECT pg_create_physical_replication_slot('{name}_physical')"));
    insta::assert_snapshot!(text(&format!("{name}_physical")), @"Refused: the slot NAME_physical is a physical one, made for a standby or a backup; it is not coherd's, so choose another name (source.slot)");
    database.run(&format!("SELECT pg_drop_replication_slot('{name}_physical')"));
    let elsewhere = Followed::start();
    let error = text(&elsewhere.database.name).replace(&elsewhere.database.name, "OTHER");
    insta::assert_snapshot!(error, @"Refused: the slot OTHER belongs to database OTHER, not to NAME; it is not coherd's, so choose another name (source.slot)");
}

#[test]
fn a_name_that_no_slot_can_have_and_a_missing_publication_are_refused() {
    let database = Database::create();
    let create = |slot: &str| {
        let error = runtime().block_on(source(&database.dsn(), slot).create_slot()).unwrap_err();
        settled_text(&error, &[(&database.name, "NAME")])
    };
    insta::assert_snapshot!(create("x"), @"Refused: the publication p does not exist in the database NAME: run coherd setup, or CREATE PUBLICATION p FOR TABLE …;");
    database.run("CREATE PUBLICATION p FOR ALL TABLES");
    insta::assert_snapshot!(create("No Slot"), @r#"Refused: could not create the slot "No Slot": replication slot name "No Slot" contains invalid character [SQLSTATE 42602]. A slot's name may hold only lower-case letters, digits and _, at most 63 of them."#);
}

#[test]
fn a_server_without_logical_wal_is_refused_with_the_setting() {
    let server = own_server("wal_level = replica");
    let database = Database::create_on(server);
    database.run("CREATE PUBLICATION p FOR ALL TABLES");
    let created = runtime().block_on(source(&database.dsn(), "s").create_slot());
    if database.server.version() >= 190_000 {
        // Creating the slot turns logical decoding on.
        created.unwrap();
        assert_eq!(database.client().one("SHOW effective_wal_level"), "logical");
        return;
    }
    let error = created.unwrap_err();
    insta::assert_snapshot!(settled_text(&error, &[]), @"Refused: could not create the slot s: logical decoding requires wal_level >= logical [SQLSTATE 55000]. Run: ALTER SYSTEM SET wal_level = logical; then restart Postgres.");
}
