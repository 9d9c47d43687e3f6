//! Runs the commands and examples in the documents.

mod texts;

use crate::support::daemon::text;
use crate::support::{Daemon, Database, Redis};

const README: &str = include_str!("../../README.md");
pub const READING: &str = include_str!("../../docs/reading.md");
pub const RULES: &str = include_str!("../../docs/rules.md");
pub const INSTALL: &str = include_str!("../../docs/install.md");

/// The README's fenced blocks of `language`, in order.
pub fn blocks(language: &str) -> Vec<&'static str> {
    blocks_of(README, language)
}

pub fn blocks_of(text: &'static str, language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn the_readmes_path_leads_from_nothing_to_a_proved_fix() {
    let database = Database::create();
    let redis = Redis::start();
    database.run(
        "CREATE TABLE users (id bigint PRIMARY KEY, name text, email text NOT NULL);
         CREATE TABLE products (id bigint PRIMARY KEY); INSERT INTO users VALUES (1, 'Ann', 'ann@x');",
    );
    let rules = blocks("yaml")[0].split_once("rules:").unwrap().1;
    let mut daemon = Daemon::configure(&database, &redis.url(), &format!("rules:{rules}"));
    let refused = daemon.command(&["setup", "--dsn", &database.dsn()]);
    assert_eq!(refused.status.code(), Some(1));
    // The README shows the fix that setup prints, and the fix works.
    let repair = blocks("sql")[0];
    for statement in repair.lines() {
        assert!(text(&refused).contains(statement), "{statement}\nis not in\n{}", text(&refused));
        database.run(statement);
    }
    daemon.setup(&database);
    let check = daemon.command(&["check"]);
    assert_eq!(check.status.code(), Some(0), "{}", text(&check));
    daemon.launch();
    let mut client = redis.client();
    let () = redis::cmd("SET").arg("user:1").arg("old").query(&mut client).unwrap();
    let mut sql = database.client();
    let (fix, wait) = blocks("sql")[1].split_once('\n').unwrap();
    sql.run(fix);
    // The README's slot has the default name; this one has the test database's name.
    let wait = wait.trim().replace("wait()", &format!("wait(slot => '{}')", database.name));
    assert_eq!(sql.one(&wait), "t");
    assert!(!redis::cmd("EXISTS").arg("user:1").query::<bool>(&mut client).unwrap());
}

#[test]
fn the_guides_rules_are_configurations() {
    let database = Database::create();
    for rules in blocks_of(READING, "yaml") {
        let daemon = Daemon::configure(&database, "redis://127.0.0.1:1/0", rules);
        let check = daemon.command(&["check"]);
        assert_ne!(check.status.code(), Some(78), "{rules}\n{}", text(&check));
    }
}

#[test]
fn wait_answers_as_the_guide_says() {
    let (database, redis) = (Database::create(), Redis::start());
    database.run("CREATE TABLE users (id bigint PRIMARY KEY)");
    let daemon = Daemon::start(&database, &redis, "rules:\n  - table: users\n    keys: [\"user:{id}\"]\n");
    let request = READING.lines().find_map(|line| line.strip_prefix("GET /wait?token=97500059720")).unwrap();
    let token = database.client().one("SELECT coherd.token()");
    let (reached, never) = (daemon.http(&format!("/wait?token={token}&timeout=30s")), "9000000000000000000");
    assert_eq!(reached.0, 200, "{}", reached.1);
    let late = daemon.http(&format!("/wait?token={never}{request}"));
    assert_eq!(late.0, 504, "{}", late.1);
    let body: serde_json::Value = serde_json::from_str(&late.1).unwrap();
    assert!(body["settled"].is_string() && body.as_object().unwrap().len() == 5, "{body}");
    assert!(body["hint"].as_str().is_some_and(|hint| hint.contains("reported its log only up to")), "{body}");
}
