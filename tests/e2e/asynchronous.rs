//! Commits with `synchronous_commit = off`. Other sessions can see them before the log is flushed.

use std::time::{Duration, Instant};

use super::Shop;
use crate::support::daemon::text;
use crate::support::postgres::{Client, postgres_client};

const SCHEMA: &str = "CREATE TABLE users (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);
    INSERT INTO users SELECT generate_series(1, 100); CREATE TABLE logs (line text);";
const RULE: &str = "  - table: users\n    keys: [\"user:{id}\"]\n";

/// The WAL writer takes longer than any wait here, so that a flush happens only on request.
const NO_WAL_WRITER: &str = "wal_writer_delay = 10s\nautovacuum = off";

/// Far below the WAL writer's delay.
const PROMPT: Duration = Duration::from_secs(5);

/// A shop, and a session whose commits do not wait for the flush.
fn shop() -> (Shop, Client) {
    let shop = Shop::alone(NO_WAL_WRITER, SCHEMA, RULE);
    let mut hasty = shop.database.client();
    hasty.run("SET synchronous_commit = off");
    (shop, hasty)
}

/// Changes a row and calls `wait`, `times` times. Returns how often the key was still cached afterwards.
fn stale(shop: &mut Shop, hasty: &mut Client, times: u32, mut wait: impl FnMut(&mut Shop)) -> u32 {
    let waits = |_| {
        shop.cache(&["user:7"]);
        hasty.run("UPDATE users SET n = n + 1 WHERE id = 7");
        let began = Instant::now();
        wait(shop);
        assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
        u32::from(!shop.cached().is_empty())
    };
    (0..times).map(waits).sum()
}

#[test]
fn a_wait_covers_what_another_session_has_committed_and_not_flushed() {
    let (mut shop, mut hasty) = shop();
    assert_eq!(stale(&mut shop, &mut hasty, 50, Shop::settle), 0, "of 50 waits were true with the key cached");
}

#[test]
fn a_token_covers_what_another_session_has_committed_and_not_flushed() {
    let (mut shop, mut hasty) = shop();
    let stale_in_sql = stale(&mut shop, &mut hasty, 20, |shop| {
        let token = shop.sql.one("SELECT coherd.token()");
        let wait = format!("SELECT coherd.wait({token}, timeout => '30s', slot => '{}')", shop.database.name);
        assert_eq!(shop.sql.one(&wait), "t");
    });
    let stale_over_http = stale(&mut shop, &mut hasty, 20, |shop| {
        let token = shop.sql.one("SELECT coherd.token()");
        assert_eq!(shop.daemon.http(&format!("/wait?token={token}&timeout=30s")).0, 200);
    });
    let stale_on_the_command_line = stale(&mut shop, &mut hasty, 5, |shop| {
        let done = shop.daemon.command(&["wait", "--timeout", "30s"]);
        assert!(done.status.success(), "{}", text(&done));
    });
    assert_eq!((stale_in_sql, stale_over_http, stale_on_the_command_line), (0, 0, 0));
}

#[test]
fn what_is_written_and_not_committed_keeps_nobody_waiting() {
    let (mut shop, mut hasty) = shop();
    // While its transaction is open, nothing flushes what it has written.
    for end in ["ROLLBACK", "COMMIT"] {
        hasty.run("BEGIN; INSERT INTO logs VALUES ('x')");
        let began = Instant::now();
        shop.settle();
        let token = shop.sql.one("SELECT coherd.token()");
        hasty.run("INSERT INTO logs VALUES ('y')");
        assert_eq!(shop.daemon.http(&format!("/wait?token={token}&timeout=30s")).0, 200);
        hasty.run(end);
        shop.settle();
        assert!(began.elapsed() < PROMPT, "{:?}", began.elapsed());
    }
}

#[test]
fn who_may_send_no_messages_waits_for_what_is_not_flushed_all_the_same() {
    let mut shop = Shop::alone("wal_writer_delay = 100ms", SCHEMA, RULE);
    shop.sql.run(
        "DO $$ DECLARE f regprocedure; BEGIN
             FOR f IN SELECT oid FROM pg_proc WHERE proname = 'pg_logical_emit_message' LOOP
                 EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
             END LOOP;
         END $$; CREATE ROLE app LOGIN; GRANT ALL ON users TO app",
    );
    let [mut hasty, app] = [0, 1].map(|_| postgres_client(&shop.database.dsn_as("app")).unwrap());
    hasty.run("SET synchronous_commit = off");
    shop.sql = app;
    assert_eq!(stale(&mut shop, &mut hasty, 20, Shop::settle), 0);
}
