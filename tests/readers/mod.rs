//! The examples in `docs/examples`, each in its own language. All must pass the same checks on real servers.

mod driver;
mod runtime;

use driver::Reader;
use runtime::Language;

use crate::e2e::Shop;
use crate::support::process::Signal;
use crate::support::{Daemon, Database, Redis, until};

/// Readers' sessions find the views before the tables. A view shows the table as of the start of the statement, but
/// returns only after the lock is free. So a test can make a reader slow.
const SCHEMA: &str = "
    CREATE TABLE users (id bigint PRIMARY KEY, name text);
    CREATE TABLE products (id bigint PRIMARY KEY, name text);
    INSERT INTO users VALUES (1, 'Ann');
    INSERT INTO products VALUES (1, 'Pen');
    CREATE SCHEMA slow;
    CREATE VIEW slow.users AS SELECT * FROM public.users WHERE pg_advisory_xact_lock_shared(1) IS NOT NULL;
    CREATE VIEW slow.products AS SELECT * FROM public.products WHERE pg_advisory_xact_lock_shared(1) IS NOT NULL;";

const RULES: &str = "rules:
  - table: public.users
    keys: [\"user:{id}\"]
  - table: public.products
    keys: [\"product:{id}\"]
    action: bump
";

const ANN: &str = r#"{"id":1,"name":"Ann"}"#;
const PEN: &str = r#"{"id":1,"name":"Pen"}"#;

fn open() -> Shop {
    let (database, redis) = (Database::create(), Redis::start());
    database.run(SCHEMA);
    let mut daemon = Daemon::configure(&database, &redis.url(), RULES);
    daemon.edit("admin:\n", "    leases: true\nadmin:\n");
    daemon.setup(&database);
    daemon.launch();
    let sql = database.client();
    database.run(&format!("ALTER DATABASE {} SET search_path = slow, public", database.name));
    Shop { daemon, redis, sql, database }
}

fn row(name: &str) -> String {
    ANN.replace("Ann", name)
}

impl Shop {
    fn get(&self, key: &str) -> Option<String> {
        redis::cmd("GET").arg(key).query(&mut self.redis.client()).unwrap()
    }

    /// Stores a value that no reader can have read from the database.
    fn plant(&self, key: &str) {
        let () = redis::cmd("SET").arg(key).arg("planted").query(&mut self.redis.client()).unwrap();
    }

    fn forget_user(&self) {
        let () = redis::cmd("DEL").arg("user:1").arg("{user:1}:lease").query(&mut self.redis.client()).unwrap();
    }

    fn rename(&mut self, table: &str, name: &str) {
        self.sql.run(&format!("UPDATE public.{table} SET name = '{name}' WHERE id = 1"));
        self.settle();
    }

    /// Sends a request, and runs `meanwhile` after the reader has read the database and before it stores the value.
    fn while_reading(&mut self, reader: &mut Reader, request: &str, meanwhile: impl Fn(&mut Shop)) -> String {
        let mut holder = self.database.client();
        holder.run("SELECT pg_advisory_lock(1)");
        reader.send(request);
        let held = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND wait_event = 'advisory'",
            self.database.name
        );
        until("the reader reads the database", || (self.sql.one(&held) == "1").then_some(()));
        meanwhile(self);
        holder.run("SELECT pg_advisory_unlock(1)");
        reader.answer()
    }
}

/// The token of a lease that another reader got as the first.
fn be_first(shop: &Shop) -> String {
    shop.forget_user();
    let nonce = format!("{:032x}", fastrand::u128(..));
    let mut get = redis::cmd("FCALL");
    get.arg("coherd_get").arg(2).arg("user:1").arg("{user:1}:lease").arg(60_000).arg(nonce);
    let (found, token, first): (u8, String, u8) = get.query(&mut shop.redis.client()).unwrap();
    assert_eq!((found, first), (0, 1));
    token
}

fn calls(shop: &Shop) -> u64 {
    let info: String = redis::cmd("INFO").arg("commandstats").query(&mut shop.redis.client()).unwrap();
    let calls = info.lines().find_map(|line| line.strip_prefix("cmdstat_fcall:calls=")?.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

fn misses_fill_and_hits_do_not(shop: &mut Shop, reader: &mut Reader) {
    // Repeated until the connection exists: some clients connect in parallel with the first request.
    until("the first answer is stored", || {
        assert_eq!(reader.ask("user 1"), ANN);
        shop.get("user:1")
    });
    assert_eq!(shop.get("user:1").as_deref(), Some(ANN));
    shop.plant("user:1");
    assert_eq!(reader.ask("user 1"), "planted");
    shop.rename("users", "Anne");
    assert_eq!(reader.ask("user 1"), row("Anne"));
    assert_eq!(reader.ask("user 9"), "null");
    assert_eq!(shop.get("user:9").as_deref(), Some("null"), "what is not there is cached too");
    shop.sql.run("INSERT INTO public.users VALUES (9, 'Zoe')");
    shop.settle();
    assert_eq!(reader.ask("user 9"), r#"{"id":9,"name":"Zoe"}"#);
}

fn a_fill_whose_lease_was_invalidated_is_refused(shop: &mut Shop, reader: &mut Reader) {
    shop.rename("users", "Ann");
    let read = shop.while_reading(reader, "user 1", |shop| shop.rename("users", "Bea"));
    assert_eq!(read, ANN, "the caller has its value all the same");
    assert_eq!(shop.get("user:1"), None, "and nobody else has");
    assert_eq!(reader.ask("user 1"), row("Bea"));
    assert_eq!(shop.get("user:1"), Some(row("Bea")));
}

fn a_change_moves_the_version(shop: &mut Shop, reader: &mut Reader) {
    let entry = |shop: &Shop| format!("product:1:v{}", shop.get("product:1:version").unwrap());
    assert_eq!(reader.ask("product 1"), PEN);
    let before = entry(shop);
    assert_eq!(shop.get(&before).as_deref(), Some(PEN));
    shop.plant(&before);
    assert_eq!(reader.ask("product 1"), "planted");
    shop.rename("products", "Ink");
    assert_eq!(reader.ask("product 1"), row("Ink"));
    assert_ne!(entry(shop), before);
    shop.rename("products", "Pen");
    let read = shop.while_reading(reader, "product 1", |shop| shop.rename("products", "Cup"));
    assert_eq!(read, PEN);
    assert_eq!(reader.ask("product 1"), row("Cup"), "what was read before is under the number before");
}

fn who_has_written_reads_it(shop: &mut Shop, reader: &mut Reader) {
    let token = reader.ask("rename 1 Cleo");
    assert_eq!(reader.ask(&format!("own 1 {token}")), row("Cleo"));
    shop.settle();
    assert_eq!(reader.ask("user 1"), row("Cleo"));
    shop.daemon.signal(Signal::Stop);
    let token = reader.ask("rename 1 Dora");
    assert_eq!(reader.ask("user 1"), row("Cleo"), "nobody is there to invalidate it");
    assert_eq!(reader.ask(&format!("own 1 {token}")), row("Dora"));
    shop.daemon.signal(Signal::Continue);
    until("the record says that the write is settled", || {
        let mut get = redis::cmd("HGET");
        get.arg(format!("coherd:{}", shop.database.name)).arg("settled");
        let settled: u64 = get.query(&mut shop.redis.client()).unwrap();
        (settled >= token.parse().unwrap()).then_some(())
    });
    assert_eq!(reader.ask(&format!("own 1 {token}")), row("Dora"));
    shop.plant("user:1");
    assert_eq!(reader.ask(&format!("own 1 {token}")), "planted", "the cache is used again");
}

fn followers_get_what_the_first_has_read(shop: &mut Shop, reader: &mut Reader) {
    until("a follower gets it", || {
        let token = be_first(shop);
        let before = calls(shop);
        reader.send("user 1");
        until("the follower has asked", || (calls(shop) > before).then_some(()));
        let mut fill = redis::cmd("FCALL");
        fill.arg("coherd_fill").arg(2).arg("user:1").arg("{user:1}:lease").arg(token).arg(60_000).arg("the first's");
        // Refused if the machine was so slow that the later reader has stopped waiting.
        let _: u8 = fill.query(&mut shop.redis.client()).unwrap();
        (reader.answer() == "the first's").then_some(())
    });
    be_first(shop);
    assert_eq!(reader.ask("user 1"), row("Dora"), "the first never comes");
    assert_eq!(shop.get("user:1"), Some(row("Dora")), "a follower fills with the same token");
}

fn without_the_cache_the_database_is_read(shop: &mut Shop, reader: &mut Reader) {
    let everything = |reader: &mut Reader, why: &str| {
        assert_eq!(reader.ask("user 1"), row("Dora"), "{why}");
        assert_eq!(reader.ask("product 1"), row("Cup"), "{why}");
        assert_eq!(reader.ask("own 1 1"), row("Dora"), "{why}");
    };
    shop.plant("user:1");
    let () = redis::cmd("FUNCTION").arg("FLUSH").query(&mut shop.redis.client()).unwrap();
    everything(reader, "without the functions");
    shop.redis.signal(Signal::Stop);
    everything(reader, "while it hangs");
    shop.redis.signal(Signal::Continue);
    shop.redis.kill();
    everything(reader, "while it is away");
    shop.redis.restart();
    until("it is used again", || {
        assert_eq!(reader.ask("user 1"), row("Dora"));
        shop.get("user:1")
    });
}

/// The README's function, with the definitions that it assumes.
const README_PROGRAM: &str = r#"
import os, secrets, redis
cache = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True)
reads = []
def read_user(id):
    reads.append(id)
    return "Ann"
{}
assert [user(1), user(1)] == ["Ann", "Ann"] and reads == [1], reads
"#;

#[test]
fn the_readmes_reader_fills_and_hits() {
    let mut python = match runtime::python() {
        Ok(python) => python,
        Err(reason) => return runtime::skip(Language::Python, &reason),
    };
    let shop = open();
    let program = README_PROGRAM.replace("{}", crate::docs::blocks("python")[0]);
    let output = python.args(["-c", &program]).env("REDIS_URL", shop.redis.url()).output().unwrap();
    assert!(output.status.success(), "{}", crate::support::daemon::text(&output));
}

fn check(language: Language) {
    let command = match language.command() {
        Ok(command) => command,
        Err(reason) => return runtime::skip(language, &reason),
    };
    let mut shop = open();
    let mut reader = Reader::start(command, &shop, language);
    misses_fill_and_hits_do_not(&mut shop, &mut reader);
    a_fill_whose_lease_was_invalidated_is_refused(&mut shop, &mut reader);
    a_change_moves_the_version(&mut shop, &mut reader);
    who_has_written_reads_it(&mut shop, &mut reader);
    followers_get_what_the_first_has_read(&mut shop, &mut reader);
    without_the_cache_the_database_is_read(&mut shop, &mut reader);
}

#[test]
fn the_python_example_keeps_what_the_guide_says() {
    check(Language::Python);
}

#[test]
fn the_node_example_keeps_what_the_guide_says() {
    check(Language::Node);
}

#[test]
fn the_go_example_keeps_what_the_guide_says() {
    check(Language::Go);
}

#[test]
fn the_java_example_keeps_what_the_guide_says() {
    check(Language::Java);
}

#[test]
fn the_ruby_example_keeps_what_the_guide_says() {
    check(Language::Ruby);
}

#[test]
fn the_rust_example_keeps_what_the_guide_says() {
    check(Language::Rust);
}
