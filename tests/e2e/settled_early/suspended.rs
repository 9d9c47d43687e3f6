//! A suspended target (`wal_budget`) returns while a replica lags. The flush that covers its missed commits must be
//! repeated after the replica has replayed *the last of them*.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::*;
use crate::support::daemon::http_get;

const BUDGET: &str = "  wal_budget: 8MiB\n";
/// How many rows a background reader reads at once.
const AT_ONCE: u32 = 25;

impl Stage {
    /// Cuts the cache off from the daemon with an invalidation pending, until the slot goes on without it.
    pub(super) fn suspend(&mut self) {
        self.cache_is_away(true);
        self.shop.sql.run("UPDATE users SET n = n + 1 WHERE id = 300");
        until("the target is suspended", || {
            self.shop.sql.run("INSERT INTO bulk SELECT repeat('x', 1000) FROM generate_series(1, 1000)");
            (self.shop.daemon.status()["targets"][0]["suspended"] == true).then_some(())
        });
        // Otherwise the daemon would suspend it again as soon as it is back, and flush it again.
        until("the slot lets go of the log", || {
            self.shop.sql.run("CHECKPOINT");
            (self.shop.daemon.status()["slot_retained_bytes"].as_u64()? < 2 << 20).then_some(())
        });
    }

    /// Reconnects the cache, and waits until the flush for everything that it missed has reached it.
    pub(super) fn cache_is_back_and_flushed(&self) {
        self.shop.cache(&["user:299"]);
        self.cache_is_away(false);
        until("the scopes of the rules are flushed", || {
            (!self.shop.cached().contains(&"user:299".to_owned())).then_some(())
        });
    }

    /// Changes row 1 and lets the daemon read it, while the replica is paused and the target is suspended. Returns a
    /// token.
    fn miss_a_commit(&mut self) -> u64 {
        self.pause();
        self.shop.sql.run("UPDATE users SET n = 1 WHERE id = 1");
        let token = self.token();
        self.until_read(token);
        token
    }
}

/// The flush that is sent when the target is back stands for the commit, so it carries the commit's position.
#[test]
fn a_commit_that_a_suspended_target_missed_settles_only_when_the_replica_has_replayed_it() {
    let mut stage = Stage::open(BUDGET);
    stage.suspend();
    let token = stage.miss_a_commit();
    stage.cache_is_back_and_flushed();
    stage.must_not_settle_before_it_is_replayed(token);
}

/// Later commits carry positions of their own. Settled must wait for the oldest batch whose replica pass is due, not
/// for the newest.
#[test]
fn commits_after_the_return_do_not_prove_those_before_it() {
    let mut stage = Stage::open(BUDGET);
    stage.suspend();
    let token = stage.miss_a_commit();
    stage.cache_is_back_and_flushed();
    stage.shop.sql.run("UPDATE users SET n = 1 WHERE id = 2");
    stage.must_not_settle_before_it_is_replayed(token);
}

/// The scopes are flushed once more when the commit is visible, and again carry its position.
#[test]
fn a_commit_that_was_not_visible_when_the_target_came_back_is_waited_for_on_the_replica_too() {
    let mut stage = Stage::open(BUDGET);
    stage.suspend();
    stage.pause();
    let waiting = stage.shop.database.server.wait_for("ghost");
    stage.shop.database.server.until_commits_wait();
    let mut client = stage.shop.database.client();
    let writer = std::thread::spawn(move || client.run("UPDATE users SET n = 1 WHERE id = 1"));
    let in_the_log = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE 'UPDATE users%'";
    until("the commit is in the log and waits", || stage.shop.sql.rows(in_the_log).pop());
    let token = stage.token();
    stage.until_read(token);
    stage.cache_is_back_and_flushed();
    assert_eq!(stage.shop.sql.one("SELECT n FROM users WHERE id = 1"), "0", "nobody sees it yet");
    drop(waiting);
    writer.join().expect("it commits");
    stage.must_not_settle_before_it_is_replayed(token);
}

/// A random load: 200 writes per second, a replica that replays them `delay` later, readers of both servers, and a
/// cache that is suspended and returns in the middle of it.
#[test]
fn under_load_nothing_is_stale_when_a_suspended_target_comes_back_before_a_slow_replica() {
    for delay in ["2s", "500ms"] {
        let mut stage = Stage::open(BUDGET);
        stage.there.run(&format!("ALTER SYSTEM SET recovery_min_apply_delay = '{delay}'"));
        stage.replica.reload();
        let load = Load::begin(&stage);
        stage.suspend();
        let at = stage.shop.sql.one("SELECT pg_current_wal_insert_lsn()");
        until("the replica has replayed what was suspended first", || {
            let replayed = stage.there.one(&format!("SELECT pg_last_wal_replay_lsn() >= '{at}'"));
            (replayed == "t").then_some(())
        });
        stage.cache_is_back_and_flushed();
        let back = Instant::now();
        until("readers have gone on for a while", || (back.elapsed() > Duration::from_secs(2)).then_some(()));
        load.end();
        stage.shop.settle();
        let stale = stage.shop.stale();
        let some = stale.iter().take(3).collect::<Vec<_>>();
        assert!(
            stale.is_empty(),
            "{} keys are stale with a delay of {delay}, all being settled: {some:?}",
            stale.len()
        );
    }
}

/// The background writers and readers.
struct Load {
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn begin(stage: &Stage) -> Load {
        let ends = Arc::new(AtomicBool::new(false));
        let mut sql = stage.shop.database.client();
        let its = Arc::clone(&ends);
        let mut threads = vec![std::thread::spawn(move || {
            while !its.load(Ordering::Relaxed) {
                sql.run(&format!("UPDATE users SET n = n + 1 WHERE id = {}", fastrand::u32(1..=250)));
                std::thread::sleep(Duration::from_millis(5));
            }
        })];
        for _ in 0..2 {
            let mut readers = Readers::of(stage);
            let its = Arc::clone(&ends);
            threads.push(std::thread::spawn(move || {
                while !its.load(Ordering::Relaxed) {
                    let first = fastrand::u32(1..=250 - AT_ONCE);
                    readers.read(first..first + AT_ONCE);
                }
            }));
        }
        Load { ends, threads }
    }

    fn end(self) {
        self.ends.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("no thread of the test fails"));
    }
}

/// A reader with a lease and its own sessions.
struct Readers {
    cache: Reader,
    primary: Client,
    replica: Client,
    admin: u16,
}

impl Readers {
    fn of(stage: &Stage) -> Readers {
        let replica = postgres_client(&stage.replica.dsn(&stage.shop.database.name)).expect("connects");
        let cache = Reader { connection: stage.shop.redis.client(), form: Form::Function };
        Readers { cache, primary: stage.shop.database.client(), replica, admin: stage.shop.daemon.admin() }
    }

    /// The leases come first, then the question whether the replica is held, then the rows.
    fn read(&mut self, ids: std::ops::Range<u32>) {
        let mut leases = HashMap::new();
        for id in ids.clone() {
            if let Got::Lease { token, .. } = self.cache.get(format!("user:{id}").as_bytes()) {
                leases.insert(id.to_string(), token);
            }
        }
        let status = http_get(self.admin, "/status").unwrap_or_default().1;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap_or_default();
        let sql = if status["replicas"][0]["held"] == true { &mut self.replica } else { &mut self.primary };
        let rows = sql.rows(&format!("SELECT id, n FROM users WHERE id >= {} AND id < {}", ids.start, ids.end));
        for row in rows {
            if let Some(token) = leases.get(&row[0]) {
                self.cache.fill(format!("user:{}", row[0]).as_bytes(), token, row[1].as_bytes());
            }
        }
    }
}
