//! A primary fails, and a standby takes over.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Shop;
use crate::support::planted;
use crate::support::postgres::{Client, postgres_client};
use crate::support::process::Signal;
use crate::support::standby::STANDBY_SLOT;
use crate::support::wait::until_within;
use crate::support::{Daemon, Database, Postgres, Redis, until};

const ROWS: u32 = 2000;
const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); INSERT INTO users SELECT generate_series(1, 2000);";
const RULES: &str = "rules:\n  - table: users\n    keys: [\"user:{id}\"]\n";

/// A shop whose daemon knows two servers.
struct Pair {
    shop: Shop,
    standby: Postgres,
}

impl Pair {
    /// `wanted` is `target_session_attrs`. The standby is listed first, as it may be after an earlier failover.
    fn open(standby_settings: &str, wanted: &str) -> Pair {
        let database = Database::create_on(Arc::new(Postgres::start("")));
        database.run(SCHEMA);
        let redis = Redis::start();
        let daemon = Daemon::configure(&database, &redis.url(), RULES);
        let standby = database.server.standby(standby_settings);
        let (one, other) = (standby.port(), database.server.port());
        let both = format!("host=127.0.0.1,127.0.0.1 port={one},{other} user=coherd dbname={}", database.name);
        daemon
            .edit(&database.dsn_as(&planted::role()), &format!("{both} sslmode=disable target_session_attrs={wanted}"));
        daemon.setup(&database);
        let sql = database.client();
        let mut pair = Pair { shop: Shop { daemon, redis, sql, database }, standby };
        pair.shop.daemon.launch();
        pair
    }

    /// Opens a pair with the slot also on the standby. `None` if the version does not support that.
    fn with_failover_slot() -> Option<Pair> {
        if Postgres::shared().version() < 170_000 {
            println!("skipped: failover slots came with Postgres 17");
            return None;
        }
        let pair = Pair::open("sync_replication_slots = on", "primary");
        pair.standby.sync_slot(&pair.shop.database.server, &pair.shop.database.name);
        Some(pair)
    }

    /// Waits until the standby has everything written so far, then cuts it off from the primary.
    fn cut_off_the_standby(&self) {
        self.standby.catch_up(&self.shop.database.server);
        self.standby.cut_off();
    }

    /// Stops the primary at once and promotes the standby.
    fn fail_over(&mut self) {
        self.shop.database.server.stop(Signal::Quit);
        self.standby.promote();
        self.shop.sql = self.new_primary();
    }

    fn new_primary(&self) -> Client {
        postgres_client(&self.standby.dsn(&self.shop.database.name)).unwrap()
    }

    /// Fills the cache as readers of the primary would.
    fn fill(&mut self) {
        let mut pipe = redis::pipe();
        for (id, n) in self.rows() {
            pipe.cmd("SET").arg(format!("user:{id}")).arg(n).ignore();
        }
        pipe.cmd("SET").arg("other").arg("kept").ignore();
        let () = pipe.query(&mut self.shop.redis.client()).unwrap();
    }

    fn rows(&mut self) -> BTreeMap<String, String> {
        let rows = self.shop.sql.rows("SELECT id, n FROM users");
        rows.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect()
    }

    /// Keys whose value differs from the row on the present primary.
    fn stale(&mut self) -> Vec<String> {
        let mut cache = self.shop.redis.client();
        let keys: Vec<String> = self.shop.cached().into_iter().filter(|key| key.starts_with("user:")).collect();
        if keys.is_empty() {
            return keys;
        }
        let values: Vec<Option<String>> = redis::cmd("MGET").arg(&keys).query(&mut cache).unwrap();
        let rows = self.rows();
        let differs = |key: &str, value: &str| rows[&key["user:".len()..]] != value;
        let pairs = keys.into_iter().zip(values);
        pairs.filter_map(|(key, value)| value.filter(|value| differs(&key, value)).map(|_| key)).collect()
    }

    /// Restarts a daemon that has ended, as systemd would.
    fn supervise(&mut self) {
        if self.shop.daemon.has_ended() {
            self.shop.daemon.launch_unready();
        }
    }

    /// Waits until the daemon follows the new primary and no cached key is stale. Then checks the same after changes
    /// there.
    fn comes_to_terms(&mut self) {
        until_within(std::time::Duration::from_mins(1), "the daemon follows the new primary", || {
            self.supervise();
            (self.shop.daemon.http("/readyz").0 == 200 && self.status("timeline") == 2).then_some(())
        });
        until("no key is stale", || {
            self.supervise();
            self.stale().is_empty().then_some(())
        });
        // The admin server treats a flush in progress as unsettled, which SQL cannot do.
        let token = self.shop.sql.one("SELECT coherd.token()");
        let (code, told) = self.shop.daemon.http(&format!("/wait?token={token}&timeout=60s"));
        assert_eq!(code, 200, "{told}\n{}", self.shop.daemon.log());
        self.fill();
        self.shop.sql.run("UPDATE users SET n = n + 1 WHERE id % 10 = 0");
        self.shop.settle();
        assert_eq!(self.stale(), Vec::<String>::new(), "{}", self.shop.daemon.log());
        let left = self.shop.cached().len();
        assert_eq!(left, (ROWS - ROWS / 10 + 1) as usize, "{}", self.shop.daemon.log());
    }

    fn status(&self, field: &str) -> serde_json::Value {
        self.shop.daemon.status()[field].clone()
    }

    /// The gap counters in the metrics: `reason="…"} n`.
    fn gaps(&self) -> Vec<String> {
        let metrics = self.shop.daemon.http("/metrics").1;
        let gaps = metrics.lines().filter_map(|line| line.strip_prefix("coherd_gaps_total{"));
        gaps.filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect()
    }
}

#[test]
fn a_promoted_standby_that_lacks_the_slot_gets_a_new_one_and_the_caches_are_flushed() {
    let mut pair = Pair::open("", "read-write");
    pair.fill();
    pair.standby.catch_up(&pair.shop.database.server);
    pair.fail_over();
    // This may be before or after the new slot exists.
    pair.shop.sql.run("UPDATE users SET n = 1 WHERE id = 1");
    until("every key of the rule is gone", || (pair.shop.cached() == ["other"]).then_some(()));
    pair.comes_to_terms();
    assert_eq!(pair.gaps(), ["reason=\"slot_gone\"} 1"], "{}", pair.shop.daemon.log());
    assert!(!pair.shop.daemon.has_ended());
}

#[test]
fn a_daemon_that_starts_before_the_standby_is_promoted_waits_for_it() {
    let mut pair = Pair::open("", "primary");
    pair.fill();
    pair.standby.catch_up(&pair.shop.database.server);
    pair.shop.daemon.stop(Signal::Kill);
    pair.shop.database.server.stop(Signal::Quit);
    pair.shop.daemon.launch_unready();
    until("it says what it waits for", || {
        let reasons = pair.shop.daemon.http("/readyz").1;
        reasons.contains("target_session_attrs=primary is wanted").then_some(())
    });
    pair.standby.promote();
    pair.shop.sql = pair.new_primary();
    pair.shop.sql.run("UPDATE users SET n = 1 WHERE id = 1");
    pair.comes_to_terms();
}

#[test]
fn with_a_failover_slot_what_was_written_around_the_failover_is_invalidated() {
    let Some(mut pair) = Pair::with_failover_slot() else { return };
    pair.fill();
    pair.shop.sql.run("UPDATE users SET n = 1 WHERE id = 1");
    pair.standby.catch_up(&pair.shop.database.server);
    pair.fail_over();
    pair.shop.sql.run("UPDATE users SET n = 2 WHERE id = 2");
    pair.comes_to_terms();
    assert!(!pair.shop.daemon.has_ended());
    assert!(!pair.shop.daemon.log().contains("creating the slot"), "{}", pair.shop.daemon.log());
}

#[test]
fn with_a_failover_slot_nothing_is_flushed_where_the_standby_had_everything() {
    let Some(mut pair) = Pair::with_failover_slot() else { return };
    pair.shop.settle();
    pair.fill();
    assert_eq!(pair.shop.left_after("UPDATE users SET n = 1 WHERE id = 1").len(), ROWS as usize);
    pair.standby.catch_up(&pair.shop.database.server);
    pair.fail_over();
    pair.shop.sql.run("UPDATE users SET n = 2 WHERE id = 2");
    pair.shop.settle();
    assert_eq!(pair.shop.cached().len(), (ROWS - 1) as usize, "{}", pair.shop.daemon.log());
    assert_eq!(pair.gaps(), Vec::<String>::new());
    pair.comes_to_terms();
}

#[test]
fn commits_that_were_lost_with_the_primary_leave_no_key_behind() {
    let Some(mut pair) = Pair::with_failover_slot() else { return };
    pair.cut_off_the_standby();
    pair.shop.sql.run("UPDATE users SET n = 7");
    pair.shop.settle();
    pair.fill();
    assert_eq!(pair.shop.cached().len(), (ROWS + 1) as usize);
    pair.fail_over();
    until("the keys are sent again", || (pair.shop.cached() == ["other"]).then_some(()));
    let metrics = pair.shop.daemon.http("/metrics").1;
    assert!(metrics.contains("coherd_resends_total{reason=\"new_timeline\"} 1"), "{}", pair.shop.daemon.log());
    assert_eq!(pair.gaps(), Vec::<String>::new());
    pair.comes_to_terms();
}

#[test]
fn commits_that_were_lost_with_the_primary_leave_no_key_behind_when_the_daemon_was_dead_too() {
    let Some(mut pair) = Pair::with_failover_slot() else { return };
    pair.cut_off_the_standby();
    pair.shop.sql.run("UPDATE users SET n = 7");
    pair.shop.settle();
    pair.fill();
    assert_eq!(pair.shop.daemon.stop(Signal::Term), 0);
    pair.fail_over();
    assert_eq!(pair.stale().len(), ROWS as usize, "nothing was lost, so this shows nothing");
    pair.shop.daemon.launch();
    assert_eq!(pair.gaps().len(), 1, "{}", pair.shop.daemon.log());
    pair.comes_to_terms();
}

#[test]
fn a_commit_at_a_position_that_the_old_primary_had_used_is_not_taken_for_done() {
    let Some(mut pair) = Pair::with_failover_slot() else { return };
    pair.cut_off_the_standby();
    // Far past the position at which the new timeline begins.
    for n in 1..=20 {
        pair.shop.sql.run(&format!("UPDATE users SET n = {n}"));
    }
    pair.shop.settle();
    let sent = pair.shop.sql.one("SELECT pg_current_wal_lsn()");
    pair.fail_over();
    pair.comes_to_terms();
    pair.fill();
    pair.shop.redis.signal(Signal::Stop);
    pair.shop.sql.run("UPDATE users SET n = 9 WHERE id = 1");
    let at = pair.shop.sql.one("SELECT pg_current_wal_lsn()");
    assert_eq!(pair.shop.sql.one(&format!("SELECT pg_lsn '{at}' < '{sent}'")), "t", "{at} is not behind {sent}");
    until("the daemon has read the commit", || {
        let decoded = pair.status("watermarks")["decoded"].as_str()?.to_owned();
        (pair.shop.sql.one(&format!("SELECT pg_lsn '{decoded}' >= '{at}'")) == "t").then_some(())
    });
    pair.shop.daemon.stop(Signal::Kill);
    pair.shop.redis.signal(Signal::Continue);
    pair.shop.daemon.launch();
    until("no key is stale", || pair.stale().is_empty().then_some(()));
}

/// A change that the stream holds back, because the standby that it waits for is down.
fn held_back() -> Option<Pair> {
    let mut pair = Pair::with_failover_slot()?;
    pair.shop.settle();
    let server = Arc::clone(&pair.shop.database.server);
    server.append_settings(&format!("synchronized_standby_slots = '{STANDBY_SLOT}'"));
    server.reload();
    pair.fill();
    pair.cut_off_the_standby();
    let walsender = pair.shop.walsender();
    pair.shop.sql.run("UPDATE users SET n = 7 WHERE id = 1");
    let waits = format!("SELECT wait_event FROM pg_stat_activity WHERE pid = {walsender}");
    until("the walsender waits for the standby", || {
        let event = pair.shop.sql.rows(&waits).pop()?.pop()?;
        (event == "WaitForStandbyConfirmation").then_some(())
    });
    assert!(pair.shop.cached().contains(&"user:1".to_owned()), "sent before the standby had it");
    Some(pair)
}

/// The standby is back: the change that was held back is invalidated, and nothing else.
fn let_go(pair: &mut Pair) {
    let server = Arc::clone(&pair.shop.database.server);
    pair.standby.follow(&server);
    pair.shop.settle();
    assert!(!pair.shop.cached().contains(&"user:1".to_owned()));
    assert_eq!(pair.shop.cached().len(), ROWS as usize, "{}", pair.shop.daemon.log());
    assert_eq!(pair.gaps(), Vec::<String>::new());
    let log = pair.shop.daemon.log();
    assert!(!log.contains("dropped the old slot"), "{log}");
}

#[test]
fn with_synchronized_standby_slots_nothing_is_sent_that_the_standby_could_lose() {
    let Some(mut pair) = held_back() else { return };
    let_go(&mut pair);
    let log = pair.shop.daemon.log();
    assert_eq!(
        log.matches("Postgres sends nothing from the slot").count(),
        1,
        "the server says it again and again: {log}"
    );
}

#[test]
fn a_primary_that_stops_while_its_stream_waits_for_a_standby_costs_no_slot() {
    let Some(mut pair) = held_back() else { return };
    pair.shop.database.server.stop(Signal::Interrupt);
    pair.shop.database.server.launch();
    pair.shop.sql = pair.shop.database.client();
    let_go(&mut pair);
}
