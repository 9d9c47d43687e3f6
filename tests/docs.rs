//! What the documents say is run here.

use std::process::Command;

use crate::support::daemon::{coherd, text};
use crate::support::{Daemon, Database, Redis};

const README: &str = include_str!("../README.md");

/// The fenced blocks of `language`, in order.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    README.split(&fence).skip(1).filter_map(|rest| rest.split("```").next()).collect()
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
