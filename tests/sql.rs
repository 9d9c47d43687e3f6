//! The SQL that DBAs run: sql/coherd.sql, sql/role.sql, sql/uninstall.sql.

mod attested;
mod position;
mod rights;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::support::postgres::{Client, postgres_client};
use crate::support::process::Signal;
use crate::support::{Daemon, Database, Postgres, Redis, until};

pub const FUNCTIONS: &str = include_str!("../sql/coherd.sql");
pub const ROLE: &str = include_str!("../sql/role.sql");
const UNINSTALL: &str = include_str!("../sql/uninstall.sql");

/// A database with the functions, a publication of every table and a slot. Both have the database's name.
fn database(tables: &str) -> (Database, Client) {
    database_on(Postgres::shared(), tables)
}

fn database_on(server: Arc<Postgres>, tables: &str) -> (Database, Client) {
    let database = Database::create_on(server);
    let mut client = database.client();
    let name = &database.name;
    client.run(FUNCTIONS);
    client.run(tables);
    client.run(&format!("CREATE PUBLICATION {name} FOR ALL TABLES WITH (publish_via_partition_root = true)"));
    client.run(&format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')"));
    (database, client)
}

/// Consumes the slot: the pgoutput messages, as bytes.
fn take(database: &Database) -> Vec<Vec<u8>> {
    let name = &database.name;
    let sql = format!(
        "SET DateStyle = 'ISO'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; SET bytea_output = 'hex';
         SET extra_float_digits = 3;
         SELECT encode(data, 'hex') FROM pg_logical_slot_get_binary_changes('{name}', NULL, NULL,
             'proto_version', '1', 'publication_names', '{name}', 'messages', 'true')"
    );
    let unhex =
        |hex: &str| (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
    database.client().rows(&sql).iter().map(|row| unhex(&row[0])).collect()
}

/// Consumes the slot: the bodies of the logical messages with prefix `coherd`. Each must be transactional.
fn messages(database: &Database) -> Vec<Value> {
    let message = |bytes: Vec<u8>| {
        let body = bytes.strip_prefix(b"M\x01")?[8..].to_owned();
        let content = body.strip_prefix(b"coherd\0").expect("the prefix")[4..].to_owned();
        Some(serde_json::from_slice(&content).expect("JSON"))
    };
    take(database).into_iter().filter_map(message).collect()
}

/// Consumes the slot: the cells of the INSERTs, as text.
fn inserted(database: &Database) -> Vec<Vec<Option<String>>> {
    let cells = |bytes: Vec<u8>| {
        let mut rest = &bytes.strip_prefix(b"I")?[7..];
        let mut cells = Vec::new();
        while let Some((kind, after)) = rest.split_first() {
            rest = after;
            let length = if *kind == b't' { u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize + 4 } else { 0 };
            cells.push((*kind == b't').then(|| String::from_utf8(rest[4..length].to_vec()).unwrap()));
            rest = &rest[length..];
        }
        Some(cells)
    };
    take(database).into_iter().filter_map(cells).collect()
}

/// SQLSTATE, message and hint of the error that `sql` raises.
fn refusal(client: &mut Client, sql: &str) -> String {
    let error = client.try_run(sql).expect_err(sql);
    let _ = client.try_run("ROLLBACK");
    let error = error.as_db_error().expect("the server's word");
    format!("{} {} | {}", error.code().code(), error.message(), error.hint().unwrap_or_default())
}

#[test]
fn a_token_is_a_position_that_the_last_commit_is_not_past() {
    let (_database, mut client) = database("CREATE TABLE t (id int PRIMARY KEY)");
    client.run("INSERT INTO t VALUES (1)");
    let end = client.one("SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn");
    let token = client.one("SELECT coherd.token()");
    assert!(token.parse::<u64>().unwrap() >= end.parse().unwrap(), "{token} < {end}");
}

#[test]
fn a_token_covers_a_commit_that_is_not_flushed_yet() {
    let server = Arc::new(Postgres::start("synchronous_commit = off\nwal_writer_delay = 10s"));
    let database = Database::create_on(server);
    let mut client = database.client();
    client.run(FUNCTIONS);
    client.run("CREATE TABLE t (id int PRIMARY KEY)");
    client.run("INSERT INTO t VALUES (1)");
    // Retried, because the background writer may write between the two reads, or the page may have just begun.
    until("the token is the insert position", || {
        let row = &client.rows("SELECT coherd.token(), pg_current_wal_insert_lsn() - '0/0'::pg_lsn")[0];
        let behind = client.one("SELECT pg_current_wal_insert_lsn() - pg_current_wal_flush_lsn()") != "0";
        (row[0] == row[1] && behind).then_some(())
    });
}

#[test]
fn a_token_at_the_start_of_a_page_stands_before_its_header() {
    let server = Arc::new(Postgres::start("synchronous_commit = off\nautovacuum = off\nwal_writer_delay = 10s"));
    let database = Database::create_on(server);
    let mut client = database.client();
    client.run(FUNCTIONS);
    // Switching to the next segment leaves the insert position just after its long header, unless another session
    // writes meanwhile.
    let sql = "SELECT coherd.token(), pg_current_wal_insert_lsn() - '0/0'::pg_lsn";
    let (token, insert) = until("the log stands at the start of a segment", || {
        client.run("SELECT pg_switch_wal()");
        let row = &client.rows(sql)[0];
        let [token, insert] = [&row[0], &row[1]].map(|n| n.parse::<u64>().unwrap());
        (insert % 8192 == 40).then_some((token, insert))
    });
    assert_eq!(insert - token, 40);
}

#[test]
fn a_transaction_that_has_written_gets_neither_token_nor_wait() {
    let (_database, mut client) = database("CREATE TABLE t (id int PRIMARY KEY)");
    insta::assert_snapshot!(refusal(&mut client, "BEGIN; INSERT INTO t VALUES (1); SELECT coherd.token()"), @"25001 coherd.token(): this transaction has written and is not committed yet, so its position is unknown. This error rolls the transaction back, with the fix in it | Call it after COMMIT, in a transaction of its own: not in a file that psql -1 runs, and not after the fix in the same psql -c.");
    insta::assert_snapshot!(refusal(&mut client, "BEGIN; INSERT INTO t VALUES (1); SELECT coherd.wait('0/1')"), @"25001 coherd.wait(): this transaction has written, and no cache sees its changes before it commits. This error rolls the transaction back, with the fix in it | Call it after COMMIT, in a transaction of its own: not in a file that psql -1 runs, and not after the fix in the same psql -c.");
}

#[test]
fn a_wait_is_true_once_the_slot_is_confirmed_and_attested_and_false_after_the_timeout() {
    let (database, mut client) = database("CREATE TABLE t (id int PRIMARY KEY)");
    let name = &database.name;
    client.run("INSERT INTO t VALUES (1)");
    let token = client.one("SELECT coherd.token()");
    let began = std::time::Instant::now();
    for position in ["NULL::pg_lsn", &token, &format!("'{token}'"), &format!("'0/0'::pg_lsn + {token}")] {
        let sql = format!("SELECT coherd.wait({position}, timeout => '50ms', slot => '{name}')");
        assert_eq!(client.one(&sql), "f", "{position}");
    }
    assert!(began.elapsed().as_millis() >= 200);
    take(&database);
    client.run(&format!("SELECT pg_replication_slot_advance('{name}', pg_current_wal_flush_lsn())"));
    let at_once = format!("SELECT coherd.wait({token}, timeout => '50ms', slot => '{name}')");
    assert_eq!(client.one(&at_once), "f", "nobody is at work");
    let (redis, rule) = (Redis::start(), "rules:\n  - table: t\n    keys: [\"t:{id}\"]\n");
    let mut daemon = Daemon::configure(&database, &redis.url(), rule);
    daemon.launch();
    client.run("INSERT INTO t VALUES (2)");
    assert_eq!(client.one(&format!("SELECT coherd.wait(timeout => '30s', slot => '{name}')")), "t");
    assert_eq!(client.one(&at_once), "t");
    let dsn = database.dsn();
    redis.signal(Signal::Stop);
    client.run("INSERT INTO t VALUES (3)");
    let sql = format!("SELECT coherd.wait(timeout => '30s', slot => '{name}')");
    let waiting = std::thread::spawn(move || postgres_client(&dsn).unwrap().one(&sql));
    until("somebody waits", || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()";
        (client.one(sql) == "1").then_some(())
    });
    redis.signal(Signal::Continue);
    assert_eq!(waiting.join().unwrap(), "t");
    daemon.stop(Signal::Kill);
    // The server notices that its clients are gone the next time it checks their sockets.
    until("nobody is at work any more", || (client.one(&at_once) == "f").then_some(()));
}

#[test]
fn who_waits_for_long_says_so_in_the_log_where_that_is_allowed() {
    let server = Arc::new(Postgres::start(""));
    let (database, mut client) = database_on(server, "CREATE TABLE t (id int PRIMARY KEY)");
    let wait = format!("SELECT coherd.wait(timeout => '100ms', slot => '{}')", database.name);
    let said_after = |client: &mut Client, before: &str| {
        client.run(before);
        assert_eq!(client.one(&wait), "f", "{before}");
        client.run("COMMIT; INSERT INTO t SELECT coalesce(max(id), 0) + 1 FROM t");
        take(&database)
            .iter()
            .filter(|bytes| bytes.starts_with(b"M\0") && bytes.ends_with(b"coherd.wait\0\0\0\0\0"))
            .count()
    };
    for begin in ["BEGIN", "BEGIN READ ONLY", "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY"] {
        // A busy machine may need the whole timeout for the first look.
        until("who waits says so", || (said_after(&mut client, begin) == 1).then_some(()));
    }
    client.run(
        "DO $$ DECLARE f regprocedure; BEGIN
             FOR f IN SELECT oid FROM pg_proc WHERE proname = 'pg_logical_emit_message' LOOP
                 EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
             END LOOP;
         END $$; CREATE ROLE app; GRANT ALL ON t TO app; SET ROLE app",
    );
    assert_eq!(said_after(&mut client, "BEGIN"), 0, "and waits all the same");
}

#[test]
fn a_wait_for_a_slot_that_is_not_there_says_where_slots_are() {
    let (database, mut client) = database("");
    insta::assert_snapshot!(refusal(&mut client, "SELECT coherd.wait(slot => 'nobody')"), @r#"42704 coherd.wait(): there is no replication slot "nobody" on this server | The slot is on the server that coherd follows. If it has another name, add slot => 'name'. "coherd setup" creates it."#);
    let other = Database::create_on(database.server.clone());
    let mut elsewhere = other.client();
    elsewhere.run(FUNCTIONS);
    let told = refusal(&mut elsewhere, &format!("SELECT coherd.wait(slot => '{}')", database.name));
    assert!(told.contains(&format!("follows the database \"{}\", not this database", database.name)), "{told}");
}

#[test]
fn invalidated_keys_arrive_with_the_commit_and_in_order() {
    let (database, mut client) = database("");
    client.run("BEGIN; SELECT coherd.invalidate('a:1', NULL, 'ä:\"2\"'); COMMIT");
    assert_eq!(messages(&database), [json!({"v": 1, "do": "invalidate", "keys": ["a:1", "ä:\"2\""]})]);
    client.run("SELECT coherd.invalidate(VARIADIC array_agg('k' || i)) FROM generate_series(1, 2001) i");
    let sizes: Vec<_> = messages(&database).iter().map(|m| m["keys"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [1000, 1000, 1]);
    client.run("SELECT coherd.invalidate(VARIADIC '{}'), coherd.invalidate(NULL)");
    assert_eq!(messages(&database), Vec::<Value>::new());
}

#[test]
fn a_rollback_undoes_every_message() {
    let (database, mut client) = database("CREATE TABLE t (id int PRIMARY KEY)");
    let name = &database.name;
    client.run(&format!(
        "BEGIN; INSERT INTO t VALUES (1); SELECT coherd.invalidate('a'), coherd.flush('t'), \
         coherd.touch('t', 'true', '{name}'); ROLLBACK"
    ));
    assert_eq!(messages(&database), Vec::<Value>::new());
}

#[test]
fn messages_are_utf8_in_a_database_of_another_encoding() {
    let server = Postgres::shared();
    let mut admin = postgres_client(&server.dsn("postgres")).unwrap();
    let name = format!("latin{}", std::process::id());
    admin.run(&format!("CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"));
    let database = Database { server, name: name.clone() };
    let mut client = database.client();
    client.run(FUNCTIONS);
    client.run(&format!("CREATE PUBLICATION {name}"));
    client.run(&format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')"));
    client.run("SELECT coherd.invalidate('k:ä')");
    assert_eq!(messages(&database)[0]["keys"], json!(["k:ä"]));
}

#[test]
fn touched_rows_are_printed_as_the_stream_prints_them() {
    let (database, mut client) = database(
        r#"CREATE TABLE "Odd" (id int PRIMARY KEY, "Wörd's" text, b bool, f float8, ts timestamptz, i interval, d date,
            raw bytea, c char(4), n numeric, a text[], ages int4range, j json, pair point, gone int,
            g int GENERATED ALWAYS AS (id * 2) STORED);
           ALTER TABLE "Odd" DROP COLUMN gone"#,
    );
    let name = &database.name;
    client.run("SET DateStyle = 'German'; SET TimeZone = 'Asia/Kolkata'; SET IntervalStyle = 'iso_8601'");
    client.run("SET bytea_output = 'escape'; SET extra_float_digits = 0");
    client.run(
        r#"INSERT INTO "Odd" VALUES (1, E'quote '' " \\ \n é', true, 0.1::float8 + 0.2, '2024-03-01 12:00+05', '1 day 2:03',
            '2024-03-01', '\xdeadbeef', 'ab', 1.50, '{x,NULL,"y z"}', '[1,5)', '{"k": 1}', '(1.1,2)')"#,
    );
    client.run(r#"INSERT INTO "Odd" (id) VALUES (2)"#);
    let streamed = inserted(&database);
    // The predicate uses the caller's settings: midnight in Kolkata, day first.
    let predicate = "ts >= ''01.03.2024 12:30:00'' OR id = 2";
    assert_eq!(client.one(&format!("SELECT coherd.touch('\"Odd\"', '{predicate}', '{name}')")), "2");
    let message = &messages(&database)[0];
    assert_eq!((&message["table"], &message["columns"][1]), (&json!("Odd"), &json!("Wörd's")));
    assert_eq!(message["rows"], json!(streamed));
}

#[test]
fn many_touched_rows_come_in_messages_of_a_thousand() {
    let (database, mut client) = database("CREATE TABLE t (id int PRIMARY KEY, v text)");
    let name = &database.name;
    client.run("INSERT INTO t SELECT i FROM generate_series(1, 2000) i");
    messages(&database);
    assert_eq!(client.one(&format!("SELECT coherd.touch('t', 'id > 0', '{name}')")), "2000");
    let sizes: Vec<_> = messages(&database).iter().map(|m| m["rows"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [1000, 1000]);
}

#[test]
fn a_partition_is_touched_and_flushed_under_the_name_of_its_root() {
    let (database, mut client) = database(
        "CREATE SCHEMA s; CREATE TABLE s.p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
         CREATE TABLE leaf (v text, id int NOT NULL); ALTER TABLE s.p ATTACH PARTITION leaf FOR VALUES FROM (0) TO (9)",
    );
    let name = &database.name;
    client.run("INSERT INTO s.p VALUES (1, 'x')");
    messages(&database);
    client.run(&format!("SELECT coherd.touch('leaf', 'true', '{name}'), coherd.touch('s.p', 'id = 1', '{name}')"));
    let touched =
        json!({"v": 1, "do": "touch", "schema": "s", "table": "p", "columns": ["id", "v"], "rows": [["1", "x"]]});
    assert_eq!(messages(&database), [touched.clone(), touched]);
    client.run("SELECT coherd.flush('leaf')");
    assert_eq!(messages(&database), [json!({"v": 1, "do": "flush", "schema": "s", "table": "p"})]);
}

#[test]
fn only_published_columns_are_touched_and_only_published_tables() {
    let database = Database::create();
    let (mut client, name) = (database.client(), &database.name);
    client.run(FUNCTIONS);
    client.run("CREATE TABLE t (id int PRIMARY KEY, secret text, v int); CREATE TABLE u (id int)");
    client.run(&format!("CREATE PUBLICATION {name} FOR TABLE t (v, id)"));
    client.run(&format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')"));
    client.run("INSERT INTO t VALUES (1, 'x')");
    client.run(&format!("SELECT coherd.touch('t', 'secret = ''x''', '{name}')"));
    let message = &messages(&database)[0];
    assert_eq!((&message["columns"], &message["rows"]), (&json!(["id", "v"]), &json!([["1", null]])));
    let told = refusal(&mut client, &format!("SELECT coherd.touch('u', 'true', '{name}')")).replace(name, "P");
    insta::assert_snapshot!(told, @r#"42704 coherd.touch(): u is not in the publication "P" | No rule can apply to it. "coherd setup" adds the tables of all rules. If the publication has another name, add publication => 'name'."#);
}

#[test]
fn a_caller_needs_select_on_what_is_touched() {
    let (database, mut client) = database("CREATE TABLE t (id int PRIMARY KEY)");
    let (name, role) = (&database.name, format!("{}_app", database.name));
    client.run(&format!("CREATE ROLE {role}; GRANT coherd_operator TO {role}; SET ROLE {role}"));
    let told = refusal(&mut client, &format!("SELECT coherd.touch('t', 'true', '{name}')"));
    assert!(told.starts_with("42501 permission denied for table t"), "{told}");
    client.run(&format!("RESET ROLE; DROP ROLE {role}"));
}

#[test]
fn the_status_view_shows_the_slot() {
    let (database, mut client) = database("");
    let sql = format!(
        "SELECT active, lag_bytes >= 0, retained_bytes >= lag_bytes, wal_status FROM coherd.status WHERE slot = '{}'",
        database.name
    );
    assert_eq!(client.rows(&sql), [["f", "t", "t", "reserved"]]);
}

#[test]
fn the_status_view_says_whether_the_slots_position_is_attested() {
    let (database, mut client) = database("CREATE TABLE t (id int PRIMARY KEY)");
    let name = &database.name;
    let sql = format!("SELECT active, attested FROM coherd.status WHERE slot = '{name}'");
    assert_eq!(client.rows(&sql), [["f", "f"]], "nobody streams");
    let elsewhere = Database::create();
    elsewhere.run(FUNCTIONS);
    assert_eq!(elsewhere.client().rows(&format!("SELECT attested IS NULL FROM ({sql}) its")), [["t"]]);
    let redis = Redis::start();
    let mut daemon = Daemon::start(&database, &redis, "rules: [{table: t, keys: ['t:{id}']}]\n");
    until("the daemon attests", || (client.rows(&sql) == [["t", "t"]]).then_some(()));
    daemon.stop(Signal::Kill);
    until("nobody attests", || (client.rows(&sql) == [["f", "f"]]).then_some(()));
}

#[test]
fn the_scripts_run_twice_and_uninstall_leaves_nothing() {
    let server = Arc::new(Postgres::start(""));
    let database = Database::create_on(server.clone());
    let mut client = database.client();
    for script in [FUNCTIONS, FUNCTIONS, ROLE, ROLE] {
        client.run(script);
    }
    client.run("CREATE PUBLICATION coherd");
    client.run("SELECT pg_create_logical_replication_slot('coherd', 'pgoutput')");
    let role = "SELECT rolcanlogin, rolreplication, rolsuper, rolcreatedb FROM pg_roles WHERE rolname = 'coherd'";
    assert_eq!(client.rows(role), [["t", "t", "f", "f"]]);
    let elsewhere = Database::create_on(server);
    elsewhere.run(ROLE);
    client.run(UNINSTALL);
    assert_eq!(client.one("SELECT count(*) FROM pg_roles WHERE rolname = 'coherd'"), "1", "another database needs it");
    elsewhere.run(UNINSTALL);
    client.run(UNINSTALL);
    let left = "SELECT count(*) FROM (SELECT nspname FROM pg_namespace UNION ALL SELECT pubname FROM pg_publication
        UNION ALL SELECT slot_name FROM pg_replication_slots UNION ALL SELECT rolname FROM pg_roles) x (name)
        WHERE name = 'coherd'";
    assert_eq!(client.one(left), "0");
}

#[test]
fn the_role_follows_the_log_without_reading_a_table() {
    let server = Arc::new(Postgres::start(""));
    let database = Database::create_on(server);
    database.run("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION coherd FOR TABLE t");
    database.run(FUNCTIONS);
    database.run(ROLE);
    let mut coherd = postgres_client(&database.dsn_as("coherd")).unwrap();
    coherd.run("SELECT pg_create_logical_replication_slot('coherd', 'pgoutput')");
    database.run("INSERT INTO t VALUES (7)");
    let sql = "SELECT count(*) FROM pg_logical_slot_get_binary_changes('coherd', NULL, NULL, 'proto_version', '1', \
        'publication_names', 'coherd') WHERE get_byte(data, 0) = ascii('I')";
    assert_eq!(coherd.one(sql), "1");
    assert!(refusal(&mut coherd, "SELECT * FROM t").starts_with("42501"));
    coherd.run("SELECT coherd.token(); SELECT coherd.invalidate('a')");
}
