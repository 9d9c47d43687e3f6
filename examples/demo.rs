//! The main use of coherd, step by step, on temporary servers: `make demo`.
#![allow(
    dead_code,
    unused_imports,
    clippy::cast_precision_loss,
    clippy::needless_for_each,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant, SystemTime};

use support::daemon::coherd;
use support::process::{Server, Signal, free_port};
use support::{Database, Postgres, Redis, until};

const SCHEMA: &str = "
CREATE TABLE users    (id bigint PRIMARY KEY, name text NOT NULL, email text NOT NULL);
CREATE TABLE products (id bigint PRIMARY KEY, name text NOT NULL, price numeric NOT NULL);
CREATE UNIQUE INDEX users_identity ON users (id, email);
ALTER TABLE users REPLICA IDENTITY USING INDEX users_identity;
INSERT INTO users    VALUES (1, 'Ann', 'ann@example.com'), (2, 'Bob', 'bob@example.com');
INSERT INTO products VALUES (7, 'teapot', 19.90);
";

const RULES: &str = r#"
rules:
  - table: public.users
    keys: ["user:{id}", "user:by-email:{email|lower}"]
  - table: public.products
    keys: ["product:{id}"]
    action: bump
"#;

/// The servers, the daemon, and the deletions that the demo watches.
struct Shop {
    database: Database,
    redis: Redis,
    daemon: Option<Server>,
    dir: tempfile::TempDir,
    gone: Receiver<(String, SystemTime)>,
}

fn main() {
    let mut shop = Shop::open();
    shop.show_setup();
    shop.fill_cache();
    shop.show_update();
    shop.show_changed_email();
    shop.show_bump();
    shop.show_kill();
    shop.show_wait();
    say("\nThat is the main job. README.md says how to run it on your own servers.");
    if std::env::var("KEEP").is_ok_and(|keep| !keep.is_empty()) {
        shop.keep();
    }
}

impl Shop {
    fn open() -> Shop {
        step("Two throw-away servers: Postgres (wal_level = logical) and Redis, with a small shop in them");
        let database = Database::create_on(Postgres::start("track_commit_timestamp = on").into());
        let redis = Redis::start_with(&["--notify-keyspace-events", "Egx"]);
        let gone = watch(&redis);
        database.run(SCHEMA);
        let shop = Shop { database, redis, daemon: None, dir: tempfile::tempdir().expect("temp dir"), gone };
        let config = format!(
            "source:\n  dsn: {}\ntargets:\n  cache:\n    url: {}\nadmin:\n  listen: 127.0.0.1:{}{RULES}",
            shop.database.dsn(),
            shop.redis.url(),
            free_port()
        );
        std::fs::write(shop.config(), config).expect("configuration");
        show(RULES.trim());
        shop
    }

    fn config(&self) -> String {
        self.dir.path().join("coherd.yaml").display().to_string()
    }

    fn show_setup(&mut self) {
        step("coherd setup: publication, functions, slot; then the daemon");
        let output = Command::new(coherd()).args(["setup", "--config", &self.config()]).output().expect("coherd setup");
        show(String::from_utf8_lossy(&output.stdout).trim());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        self.start_daemon();
    }

    fn start_daemon(&mut self) {
        let command = [coherd(), "run".to_owned(), "--config".to_owned(), self.config()];
        let daemon = Server::start(&command, &self.dir.path().join("coherd.log"));
        let mut sql = self.database.client();
        until("the daemon follows the log", || {
            assert!(!daemon.has_ended(), "the daemon ended: {}", daemon.output());
            (sql.one("SELECT count(*) FROM pg_replication_slots WHERE active") == "1").then_some(())
        });
        self.daemon = Some(daemon);
    }

    fn fill_cache(&mut self) {
        step("The application has filled its cache");
        let entries = [
            ("user:1", "{\"name\":\"Ann\"}"),
            ("user:2", "{\"name\":\"Bob\"}"),
            ("user:by-email:ann@example.com", "1"),
            ("user:by-email:bob@example.com", "2"),
            ("product:7", "{\"price\":19.90}"),
        ];
        for (key, value) in entries {
            let () = redis::cmd("SET").arg(key).arg(value).query(&mut self.redis.client()).expect("SET");
        }
        self.show_keys();
    }

    fn show_update(&mut self) {
        step("A DBA fixes a row by hand, in psql. The application knows nothing of it");
        self.fix("UPDATE users SET name = 'Anne' WHERE id = 1", &["user:1", "user:by-email:ann@example.com"]);
        self.show_keys();
    }

    fn show_changed_email(&mut self) {
        step("A changed e-mail: the keys of the old row and of the new one go");
        let () = redis::cmd("SET")
            .arg("user:by-email:bob@new.example")
            .arg("nobody")
            .query(&mut self.redis.client())
            .expect("SET");
        self.fix(
            "UPDATE users SET email = 'Bob@New.example' WHERE id = 2",
            &["user:2", "user:by-email:bob@example.com", "user:by-email:bob@new.example"],
        );
        self.show_keys();
    }

    fn show_bump(&mut self) {
        step("A product is versioned: its pointer moves on, the entry itself stays");
        let before: Option<u64> = self.pointer();
        self.psql("UPDATE products SET price = 17.90 WHERE id = 7");
        let after = until("the version pointer moves", || self.pointer().filter(|_| self.pointer() != before));
        show(&format!("product:7:version  {} → {after}", before.map_or("(none)".to_owned(), |v| v.to_string())));
    }

    fn pointer(&self) -> Option<u64> {
        redis::cmd("GET").arg("product:7:version").query(&mut self.redis.client()).expect("GET")
    }

    fn show_kill(&mut self) {
        step("kill -9 of the daemon, and a change while it is dead");
        let () =
            redis::cmd("SET").arg("user:1").arg("{\"name\":\"Anne\"}").query(&mut self.redis.client()).expect("SET");
        let daemon = self.daemon.take().expect("it runs");
        show(&format!("kill -9 {}", daemon.pid()));
        daemon.stop(Signal::Kill);
        self.psql("UPDATE users SET name = 'Anna' WHERE id = 1");
        self.show_keys();
        let began = Instant::now();
        self.start_daemon();
        while self.next_gone().0 != "user:1" {}
        show(&format!("started again: user:1 is gone {:.0} ms later", began.elapsed().as_secs_f64() * 1e3));
    }

    fn show_wait(&mut self) {
        step("And the proof: after a fix by hand, wait until every cache has confirmed it");
        self.psql("UPDATE users SET name = 'Robert' WHERE id = 2");
        self.psql("SELECT coherd.wait() AS settled");
    }

    /// Runs a fix in psql and shows which keys were deleted, and when.
    fn fix(&mut self, sql: &str, keys: &[&str]) {
        while self.gone.try_recv().is_ok() {}
        let committed = self.psql(sql);
        let mut left: Vec<&str> = keys.to_vec();
        while !left.is_empty() {
            let (key, at) = self.next_gone();
            left.retain(|wanted| *wanted != key);
            let late = at.duration_since(committed).unwrap_or_default();
            show(&format!("{RED}UNLINK{PLAIN} {key:<34} {:6.2} ms after COMMIT", late.as_secs_f64() * 1e3));
        }
    }

    fn next_gone(&self) -> (String, SystemTime) {
        self.gone.recv_timeout(Duration::from_secs(10)).expect("a key goes within ten seconds")
    }

    /// Runs a statement in psql. Returns the time of the last commit, as recorded by Postgres.
    fn psql(&self, sql: &str) -> SystemTime {
        show(&format!("{BOLD}shop=# {sql};{PLAIN}"));
        let stamp = "SELECT extract(epoch FROM timestamp) FROM pg_last_committed_xact()";
        let output = Command::new("psql")
            .args(["-X", "-d", &self.database.dsn(), "-c", sql, "-qAt", "-c", stamp])
            .output()
            .expect("psql");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines: Vec<&str> = text.lines().collect();
        let epoch: f64 = lines.pop().and_then(|line| line.parse().ok()).expect("a time");
        lines.iter().for_each(|line| show(line));
        SystemTime::UNIX_EPOCH + Duration::from_secs_f64(epoch)
    }

    fn show_keys(&self) {
        let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut self.redis.client()).expect("KEYS");
        keys.retain(|key| !key.starts_with("coherd:"));
        keys.sort();
        show(&format!("in the cache: {GREEN}{}{PLAIN}", keys.join("  ")));
    }

    fn keep(&self) {
        say("\nThe servers stay up until you press Ctrl-C:");
        show(&format!("psql '{}'", self.database.dsn()));
        show(&format!("redis-cli -p {}", self.redis.port()));
        show(&format!("coherd status --config {}", self.config()));
        loop {
            std::thread::park();
        }
    }
}

/// Reports every deleted key, with the time at which Redis reported it.
fn watch(redis: &Redis) -> Receiver<(String, SystemTime)> {
    let (sender, receiver) = channel();
    let mut connection = redis.client();
    let (subscribed, ready) = channel();
    std::thread::spawn(move || {
        let mut subscription = connection.as_pubsub();
        subscription.subscribe("__keyevent@0__:del").expect("SUBSCRIBE");
        subscribed.send(()).expect("main waits");
        while let Ok(message) = subscription.get_message() {
            let key = message.get_payload().unwrap_or_default();
            if sender.send((key, SystemTime::now())).is_err() {
                break;
            }
        }
    });
    ready.recv().expect("subscribed");
    receiver
}

const BOLD: &str = "\x1b[1m";
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const BLUE: &str = "\x1b[1;34m";
const PLAIN: &str = "\x1b[0m";

fn step(text: &str) {
    println!("\n{BLUE}▸ {text}{PLAIN}");
}

fn show(text: &str) {
    text.lines().for_each(|line| println!("    {line}"));
}

fn say(text: &str) {
    println!("{text}");
}
