//! What the documents say is run here.

use std::process::Command;

use crate::support::daemon::{coherd, text};
use crate::support::{Daemon, Database, Redis};

const README: &str = include_str!("../README.md");
pub const READING: &str = include_str!("../docs/reading.md");
pub const INSTALL: &str = include_str!("../docs/install.md");

/// The README's fenced blocks of `language`, in order.
pub fn blocks(language: &str) -> Vec<&'static str> {
    blocks_of(README, language)
}

pub fn blocks_of(text: &'static str, language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn the_readmes_configuration_is_the_minimal_one() {
    assert_eq!(blocks("yaml"), [include_str!("../config/minimal.yaml")]);
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
    // What setup prints as mending is what the README shows, and it mends.
    let mending = blocks("sql")[0];
    for statement in mending.lines() {
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
    // The README's slot has the default name; this one is named like the test's database.
    let wait = wait.trim().replace("wait()", &format!("wait(slot => '{}')", database.name));
    assert_eq!(sql.one(&wait), "t");
    assert!(!redis::cmd("EXISTS").arg("user:1").query::<bool>(&mut client).unwrap());
}

#[test]
fn every_command_that_the_readme_names_exists() {
    let help = text(&Command::new(coherd()).arg("--help").output().unwrap());
    for part in README.split("`coherd ").skip(1) {
        let command = part.split([' ', '`']).next().unwrap();
        assert!(help.contains(&format!("  {command} ")), "coherd {command}: not in\n{help}");
    }
    let makefile = include_str!("../Makefile");
    for part in README.split("\nmake ").skip(1) {
        let target = part.split_whitespace().next().unwrap();
        assert!(makefile.contains(&format!("\n{target}:")), "make {target}");
    }
}

#[test]
fn the_readme_lists_every_metric() {
    let source = include_str!("../src/metrics.rs");
    let names = source.lines().filter_map(|line| line.strip_prefix("/// `coherd_")?.split(['{', '`']).next());
    let names: Vec<&str> = names.collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        assert!(README.contains(&format!("`{name}`")), "coherd_{name} is missing in the README");
    }
}

#[test]
fn architecture_names_files_and_modules_that_are_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = include_str!("../ARCHITECTURE.md");
    for name in text.split('`').skip(1).step_by(2).filter(|name| name.starts_with("tests/") || name.starts_with("src/"))
    {
        assert!(root.join(name).exists(), "{name} is in ARCHITECTURE.md and not there");
    }
    let modules =
        include_str!("../src/lib.rs").lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    for module in modules {
        assert!(text.contains(&format!("`{module}`")), "{module} is missing in ARCHITECTURE.md's house");
    }
}

#[test]
fn the_promises_stand_in_the_readme_in_the_same_words() {
    let architecture = include_str!("../ARCHITECTURE.md");
    let is_promise =
        |line: &&str| ["1. **", "2. **", "3. **", "4. **", "5. **", "6. **"].iter().any(|n| line.starts_with(n));
    let promises: Vec<&str> = architecture.lines().filter(is_promise).collect();
    assert_eq!(promises.len(), 6);
    for promise in promises {
        assert!(README.contains(promise), "{promise}");
    }
}

#[test]
fn every_file_and_heading_that_a_document_links_to_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut links = 0;
    let fixes = include_str!("../docs/manual-fixes.md");
    let rules = include_str!("../docs/rules.md");
    let changes = include_str!("../CHANGELOG.md");
    let guides = [READING, INSTALL, fixes, rules].map(|text| ("docs", text));
    for (folder, text) in guides.into_iter().chain([("", README), ("", changes)]) {
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            links += 1;
            let Some(heading) = link.strip_prefix('#') else {
                assert!(root.join(folder).join(link).exists(), "{link} is not there");
                continue;
            };
            let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| {
                let words = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
                words.replace(|c: char| !c.is_alphanumeric() && c != '-', "")
            });
            assert!(headings.into_iter().any(|it| it == heading), "no heading {heading}");
        }
    }
    assert!(links > 10, "{links}");
}

#[test]
fn the_guides_code_is_the_examples() {
    let example = include_str!("../docs/examples/python/reader.py");
    let blocks = blocks_of(READING, "python");
    assert_eq!(blocks.len(), 3);
    for block in blocks {
        assert!(example.contains(block), "{block}\nis not in docs/examples/python/reader.py");
    }
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
    assert!(body["hint"].as_str().is_some_and(|hint| hint.contains("told of its log only up to")), "{body}");
}
