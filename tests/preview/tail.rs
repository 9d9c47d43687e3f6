//! `coherd tail`: live changes, while the daemon runs.

use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;

use super::{no_slot_is_left, refusal};
use crate::e2e::Shop;
use crate::support::daemon::coherd;
use crate::support::process::{Signal, send_signal};
use crate::support::{Database, until};

const SCHEMA: &str =
    "CREATE TABLE users (id int PRIMARY KEY, name text); CREATE TABLE orders (id int PRIMARY KEY, n int);";
const RULES: &str = "  - table: users\n    keys: [\"user:{id}\"]\n  - table: orders\n    keys: [\"order:{id}\"]\n    action: bump\nmanual: {keys: any}\n";

struct Tail {
    child: Child,
    out: BufReader<ChildStdout>,
    err: BufReader<std::process::ChildStderr>,
}

impl Tail {
    /// Starts a tail, and waits until it reports that it follows the log.
    fn start(shop: &Shop, arguments: &[&str]) -> Tail {
        let mut child = Command::new(coherd())
            .arg("tail")
            .args(arguments)
            .arg("--config")
            .arg(shop.daemon.config())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut err = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        err.read_line(&mut line).unwrap();
        // Other tests have transactions on the same server, and the slot waits for those that are running.
        while line.starts_with("creating the slot ") {
            line.clear();
            err.read_line(&mut line).unwrap();
        }
        assert!(line.starts_with("following the log from "), "{line}");
        Tail { child, out, err }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn json(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    fn end(mut self, signal: Option<Signal>) -> (i32, String) {
        if let Some(signal) = signal {
            send_signal(self.child.id(), signal);
        }
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut self.err, &mut rest).unwrap();
        (code, rest)
    }
}

#[test]
fn commits_are_told_as_they_come_with_their_keys_until_it_is_interrupted() {
    let mut shop = Shop::open(SCHEMA, RULES);
    let mut tail = Tail::start(&shop, &[]);
    shop.sql.run("INSERT INTO users VALUES (1, 'a'), (2, 'b')");
    let line = tail.line();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[2..], ["public.users", "insert", "user:1", "user:2"], "{line}");
    words[0].parse::<coherd::types::lsn::Lsn>().unwrap();
    assert!(words[1].starts_with("20") && words[1].ends_with('Z') && words[1].len() == 27, "{line}");
    shop.sql.run("BEGIN; UPDATE users SET name = 'c' WHERE id = 1; INSERT INTO orders VALUES (7, 1); COMMIT");
    assert!(tail.line().ends_with("public.orders  insert  bump(order:7)"));
    assert!(tail.line().ends_with("public.users  update  user:1"));
    shop.sql.run("SELECT coherd.invalidate('by name'), coherd.flush('users')");
    assert!(tail.line().ends_with("-  manual  by name"));
    assert!(tail.line().ends_with("public.users  manual  flush(user:*)"));
    assert_eq!(tail.end(Some(Signal::Interrupt)), (0, String::new()));
    no_slot_is_left(&mut shop);
}

#[test]
fn tables_and_keys_can_be_chosen_and_a_script_ends_by_itself() {
    let mut shop = Shop::open(SCHEMA, RULES);
    let mut users = Tail::start(&shop, &["--table", "users", "--key", "user:[12]*", "--limit", "2", "--json"]);
    shop.sql.run("INSERT INTO orders VALUES (1, 1)");
    shop.sql.run("INSERT INTO users VALUES (3, 'c')");
    shop.sql.run("INSERT INTO users VALUES (1, 'a'), (4, 'd'); ");
    shop.sql.run("TRUNCATE users");
    let inserted = users.json();
    assert_eq!(
        inserted["changes"][0]["keys"],
        serde_json::json!([{ "action": "delete", "name": "user:1" }]),
        "{inserted}"
    );
    assert_eq!(inserted["changes"].as_array().unwrap().len(), 1);
    let emptied = users.json();
    assert_eq!(emptied["changes"][0]["operation"], "truncate");
    assert_eq!(emptied["changes"][0]["scopes"][0]["name"], "user:*");
    assert_eq!(users.end(None).0, 0);
    let mut quiet = Tail::start(&shop, &["--for", "50ms"]);
    assert_eq!(quiet.line(), "");
    assert_eq!(quiet.end(None).0, 0);
}

#[test]
fn what_is_beyond_the_rate_is_counted() {
    let mut shop = Shop::open(SCHEMA, RULES);
    let mut tail = Tail::start(&shop, &["--rate", "5", "--json"]);
    let (mut shown, mut left_out) = (0, 0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sql = &mut shop.sql;
        let writer = scope.spawn(|| {
            let mut commits = 0_u64;
            while !done.load(Ordering::Relaxed) {
                sql.run("INSERT INTO users VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET name = 'y'");
                commits += 1;
            }
            commits
        });
        // The sixth commit comes in the next second, and says how many were left out since the fifth.
        while shown < 6 {
            let commit = tail.json();
            shown += 1;
            left_out += commit["not_shown"].as_u64().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(left_out > 0 && left_out + shown <= writer.join().unwrap(), "{left_out}");
    });
    tail.end(Some(Signal::Term));
}

#[test]
fn a_tail_holds_back_no_log_and_ends_when_nobody_reads_or_the_server_goes() {
    let mut shop = Shop::alone("", SCHEMA, RULES);
    let mut tail = Tail::start(&shop, &[]);
    let behind = "SELECT coalesce(max(pg_current_wal_lsn() - confirmed_flush_lsn), 999999999) < 1000000
        FROM pg_replication_slots WHERE temporary";
    shop.sql.run("INSERT INTO users SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n");
    assert!(tail.line().contains("user:1 "));
    until("the temporary slot goes on", || (shop.sql.one(behind) == "t").then_some(()));
    let closed = Tail::start(&shop, &[]);
    let Tail { mut child, out, err: _err } = closed;
    drop(out);
    until("a tail that nobody reads ends", || {
        shop.sql.run("UPDATE users SET name = 'y' WHERE id = 1");
        child.try_wait().unwrap()
    });
    shop.database.server.signal(Signal::Interrupt);
    let (code, said) = tail.end(None);
    assert_eq!(code, 1);
    assert!(said.contains("the stream ended; what came after is not shown"), "{said}");
    until("the server has ended", || shop.database.server.has_ended().then_some(()));
    shop.database.server.stop(Signal::Interrupt);
    shop.database.server.launch();
}

#[test]
fn what_cannot_be_followed_is_refused_before_anything_is_made() {
    let mut shop = Shop::open(SCHEMA, RULES);
    let said = refusal(&shop.daemon.command(&["tail", "--table", "pets"]), &[]);
    insta::assert_snapshot!(said, @r#"
    exit 1
    coherd: no rule names public.pets, so none of its changes has a key
    "#);
    let elsewhere = Database::create_on(shop.database.server.clone());
    let name = shop.database.name.clone();
    shop.daemon.edit(&format!("/{name}?"), &format!("/{}?", elsewhere.name));
    let said = refusal(&shop.daemon.command(&["tail"]), &[(&name, "app"), (&elsewhere.name, "other")]);
    insta::assert_snapshot!(said, @r#"
    exit 1
    coherd: the publication app does not exist in the database other: run coherd setup, or CREATE PUBLICATION app FOR TABLE …;
    "#);
    no_slot_is_left(&mut shop);
}
