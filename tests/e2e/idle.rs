//! Streams without changes for the rules.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use super::Shop;
use crate::support::daemon::{coherd, text};
use crate::support::until;

const SCHEMA: &str =
    "CREATE TABLE users (id int PRIMARY KEY); CREATE TABLE logs (id bigserial PRIMARY KEY, line text);";
const RULE: &str = "  - table: users\n    keys: [\"user:{id}\"]\n";

#[test]
fn traffic_on_other_tables_lets_the_slot_advance() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.sql.run("INSERT INTO logs (line) SELECT 'x' FROM generate_series(1, 10000)");
    let written = shop.sql.one("SELECT pg_current_wal_lsn()");
    let passed = format!(
        "SELECT confirmed_flush_lsn >= '{written}' FROM pg_replication_slots WHERE slot_name = '{}'",
        shop.database.name
    );
    until("the slot has passed the unmapped traffic", || (shop.sql.one(&passed) == "t").then_some(()));
}

#[test]
fn changes_are_counted_and_latencies_observed() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.cache(&["user:1"]);
    shop.left_after("INSERT INTO users VALUES (1), (2)");
    let metrics = until("the counters are written", || {
        let text = shop.daemon.http("/metrics").1;
        // A transaction may be sent in more than one delivery.
        let count = |name: &str| {
            let count = text.lines().find_map(|line| line.strip_prefix(name))?;
            count.trim().parse::<u64>().ok()
        };
        let applied = count("coherd_commit_to_applied_seconds_count ")?;
        let settled = count("coherd_commit_to_settled_seconds_count ")?;
        (applied >= 1 && settled >= 1).then_some(text)
    });
    for line in [
        "coherd_changes_total{table=\"public.users\",op=\"insert\"} 2",
        "coherd_keys_hit_total{target=\"cache\"} 1",
        "coherd_target_up{target=\"cache\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    // A commit that is not visible at the probe is invalidated early, and again later.
    let deleted = [2, 4].map(|n| format!("coherd_invalidations_total{{target=\"cache\",action=\"delete\"}} {n}\n"));
    assert!(deleted.iter().any(|line| metrics.contains(line)), "neither 2 nor 4 keys were sent:\n{metrics}");
}

#[test]
fn status_shows_the_last_commits_and_watches() {
    let mut shop = Shop::open(SCHEMA, RULE);
    shop.left_after("INSERT INTO users VALUES (1), (2)");
    let table = until("the commit is told", || {
        let table = text(&shop.daemon.command(&["status"]));
        table.contains("SETTLED COMMIT").then_some(table)
    });
    let commit = table.lines().find(|line| line.ends_with("  public.users")).unwrap_or_else(|| panic!("{table}"));
    assert_eq!(commit.split_whitespace().nth(1), Some("2"), "{table}");

    let config = shop.daemon.config().display().to_string();
    let watch = ["--config", config.as_str(), "status", "--json", "--watch", "100ms"];
    let mut watching = Command::new(coherd()).args(watch).stdout(Stdio::piped()).spawn().unwrap();
    let lines: Vec<String> =
        BufReader::new(watching.stdout.take().unwrap()).lines().take(2).collect::<Result<_, _>>().unwrap();
    watching.kill().unwrap();
    watching.wait().unwrap();
    for line in lines {
        let status: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(status["commits"][0]["keys"], 2, "{status}");
    }
}
