//! Creating a slot waits for every running transaction. The commands name these transactions, time out, and leave
//! nothing behind.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bench::{Bench, Case, run_all};
use crate::support::daemon::{Daemon, coherd};
use crate::support::postgres::Client;
use crate::support::process::Signal;
use crate::support::{Database, Postgres, Redis, until};

const RULES: &str = "rules: [{table: t, keys: ['t:{id}']}]\n";

/// A transaction that has written something and stays open. It is in another database: those count too.
fn hold(server: &Arc<Postgres>) -> (Database, Client) {
    let elsewhere = Database::create_on(server.clone());
    elsewhere.run("CREATE TABLE busy (id int)");
    let mut client = elsewhere.client();
    client.run("BEGIN; INSERT INTO busy VALUES (1)");
    (elsewhere, client)
}

fn slots(database: &Database, which: &str) -> String {
    database.client().one(&format!("SELECT count(*) FROM pg_replication_slots WHERE {which}"))
}

/// Checks that this database has no complete or incomplete slot, while the transaction is still open.
fn nothing_is_left(database: &Database) {
    until("nothing is left of the slot", || {
        (slots(database, &format!("database = '{}'", database.name)) == "0").then_some(())
    });
}

struct Running(Child);

impl Running {
    fn start(config: &std::path::Path, arguments: &[&str]) -> Running {
        let mut command = Command::new(coherd());
        command.args(arguments).arg("--config").arg(config).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(command.spawn().unwrap())
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap().success());
    }

    fn ended(self) -> (Option<i32>, String) {
        let output = self.0.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout) + &text(output.stderr))
    }
}

fn shop(server: &Arc<Postgres>, source: &str) -> (Database, Redis, Daemon) {
    let database = Database::create_on(server.clone());
    database.run("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 0)");
    let redis = Redis::start();
    let daemon = Daemon::configure(&database, &redis.url(), RULES);
    daemon.edit("source:\n", &format!("source:\n{source}"));
    (database, redis, daemon)
}

#[test]
fn setup_names_the_transaction_that_its_slot_waits_for_gives_up_and_leaves_nothing() {
    let server = Arc::new(Postgres::start("max_prepared_transactions = 5"));
    let (database, _redis, daemon) = shop(&server, "  slot_create_timeout: 3s\n");
    let (elsewhere, mut holder) = hold(&server);
    let pid = holder.one("SELECT pg_backend_pid()");
    let begun = Instant::now();
    let setup = Running::start(&daemon.config(), &["setup", "--dsn", &database.dsn()]);
    let (code, text) = setup.ended();
    assert!(code == Some(1) && begun.elapsed() < Duration::from_secs(20), "{text}");
    assert!(
        text.contains(&format!("it waits for the transaction of process {pid} (user postgres, database")),
        "{text}"
    );
    assert!(
        text.contains("gave up creating the slot") && text.contains("after 3 s (source.slot_create_timeout)"),
        "{text}"
    );
    assert!(!text.contains("INSERT INTO busy"), "the text of a query may hold values: {text}");
    nothing_is_left(&database);

    holder.run("PREPARE TRANSACTION 'order 17'");
    let (code, text) = Running::start(&daemon.config(), &["setup", "--dsn", &database.dsn()]).ended();
    assert_eq!(code, Some(1), "{text}");
    let named = format!("the prepared transaction 'order 17' of role postgres in database {}", elsewhere.name);
    assert!(text.contains(&named), "{text}");
    nothing_is_left(&database);
    holder.run("ROLLBACK PREPARED 'order 17'");
    let (code, text) = Running::start(&daemon.config(), &["setup", "--dsn", &database.dsn()]).ended();
    assert!(code == Some(0) && text.contains("made: slot"), "{text}");
}

#[test]
fn what_is_committed_while_a_slot_waits_is_not_in_it_and_setup_says_so() {
    let server = Arc::new(Postgres::start(""));
    let (database, redis, mut daemon) = shop(&server, "");
    let mut cache = redis.client();
    let () = redis::cmd("SET").arg("t:1").arg("old").query(&mut cache).unwrap();
    let (_elsewhere, mut holder) = hold(&server);
    let setup = Running::start(&daemon.config(), &["setup", "--dsn", &database.dsn()]);
    until("the slot is being made", || (slots(&database, "temporary") == "1").then_some(()));
    database.run("UPDATE t SET v = 1 WHERE id = 1");
    std::thread::sleep(Duration::from_secs(1));
    holder.run("COMMIT");
    let (code, text) = setup.ended();
    assert!(code == Some(0) && text.contains("coherd has not seen the commits of that time"), "{text}");
    daemon.launch();
    assert!(redis::cmd("EXISTS").arg("t:1").query::<bool>(&mut cache).unwrap(), "a first start trusts what is there");
    let flush = daemon.command(&["flush", "--yes", "--wait=30s"]);
    assert!(flush.status.success(), "{}", crate::support::daemon::text(&flush));
    assert!(!redis::cmd("EXISTS").arg("t:1").query::<bool>(&mut cache).unwrap());
}

#[test]
fn whom_a_slot_waits_for_is_told_within_two_seconds_by_every_command_that_makes_one() {
    let server = Arc::new(Postgres::start(""));
    let (database, _redis, mut daemon) = shop(&server, "");
    daemon.setup(&database);
    let (_elsewhere, mut holder) = hold(&server);
    let pid = holder.one("SELECT pg_backend_pid()");
    let fix = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(fix.path(), "UPDATE t SET v = 1").unwrap();
    let fix = fix.path().display().to_string();
    for arguments in [&["tail"][..], &["keys", "--dsn", &database.dsn(), "--sql", &fix]] {
        let command = Running::start(&daemon.config(), arguments);
        std::thread::sleep(Duration::from_secs(2));
        command.signal("-TERM");
        let (_, text) = command.ended();
        assert!(text.contains(&format!("waits for the transaction of process {pid} ")), "{arguments:?}: {text}");
    }
    database.run(&format!("SELECT pg_drop_replication_slot('{}')", database.name));
    daemon.launch_unready();
    until("the daemon names the transaction", || {
        daemon.log().contains(&format!("waits for the transaction of process {pid} ")).then_some(())
    });
    daemon.stop(Signal::Interrupt);
    nothing_is_left(&database);
}

/// However the command ends, the next one finds no abandoned slot.
#[test]
fn a_first_start_that_is_interrupted_leaves_no_slot_under_the_name() {
    let server = Arc::new(Postgres::start(""));
    for (command, signal) in
        [("setup", "-INT"), ("setup", "-TERM"), ("setup", "-KILL"), ("run", "-INT"), ("run", "-TERM"), ("run", "-KILL")]
    {
        let (database, redis, mut daemon) = shop(&server, "");
        let name = database.name.clone();
        if command == "run" {
            daemon.setup(&database);
            database.run(&format!("SELECT pg_drop_replication_slot('{name}')"));
            redis::cmd("FLUSHALL").exec(&mut redis.client()).unwrap();
        }
        let (_elsewhere, mut holder) = hold(&server);
        let dsn = database.dsn();
        let arguments: &[&str] = if command == "run" { &["run"] } else { &["setup", "--dsn", &dsn] };
        let first = Running::start(&daemon.config(), arguments);
        until("the slot waits", || (slots(&database, &format!("database = '{name}'")) == "1").then_some(()));
        first.signal(signal);
        first.ended();
        if signal != "-KILL" {
            nothing_is_left(&database);
        }
        assert_eq!(slots(&database, &format!("slot_name = '{name}'")), "0", "{command} {signal}");
        // A reader fills the cache, and the row changes while the next start waits.
        redis::cmd("SET").arg("t:1").arg("old").exec(&mut redis.client()).unwrap();
        database.run("UPDATE t SET v = 1");
        daemon.launch_unready();
        until("the next start says whom it waits for", || daemon.log().contains("takes long").then_some(()));
        assert!(!daemon.log().contains("standing by"), "{}", daemon.log());
        holder.run("COMMIT");
        until("the daemon is ready", || (daemon.http("/readyz").0 == 200).then_some(()));
        assert_eq!(slots(&database, &format!("database = '{name}'")), "1", "{command} {signal}");
        daemon.stop(Signal::Interrupt);
    }
}

#[test]
fn a_slot_is_made_where_only_one_is_free() {
    let server = Arc::new(Postgres::start("max_replication_slots = 1"));
    let (database, _redis, daemon) = shop(&server, "");
    daemon.setup(&database);
    assert_eq!(slots(&database, &format!("slot_name = '{}' AND NOT temporary", database.name)), "1");
}

pub const CASES: &[Case] = &[Case {
    codes: &["slot-unfinished"],
    run: || {
        let server = Arc::new(Postgres::start(""));
        let bench = Bench::on(Database::create_on(server.clone()), Redis::start(), &["{table: t, keys: ['t:{id}']}"]);
        bench.sql("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION NAME FOR TABLE t");
        let (_elsewhere, _holder) = hold(&server);
        let (mut dba, name) = (bench.database.client(), bench.database.name.clone());
        let making = std::thread::spawn(move || {
            dba.try_run(&format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")).is_err()
        });
        bench.repairs("slot-unfinished");
        assert!(making.join().unwrap());
    },
}];

#[test]
fn a_slot_that_nobody_waits_for_is_told_and_taken_back_as_printed() {
    run_all(CASES);
}
