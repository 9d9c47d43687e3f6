//! The data of a Redis changes behind an open connection. The record proves it: a delivery's script writes the record
//! only if its `writer` is this connection and its `sequence` that of the previous delivery. Otherwise the script
//! changes nothing, and coherd reconciles the target at once.

use super::*;

/// How many rows change, and have their keys invalidated, before the old data returns.
const LOST: u32 = 100;

/// A shop whose cache is behind a proxy that fails over and keeps its clients' connections open.
fn behind_proxy() -> (Shop, Proxy) {
    let database = Database::create();
    database.run(SCHEMA);
    let redis = Redis::start();
    let proxy = Proxy::start(redis.port());
    let mut daemon = Daemon::configure(&database, &format!("redis://127.0.0.1:{}/0", proxy.port()), RULES);
    daemon.setup(&database);
    daemon.launch();
    let sql = database.client();
    let mut shop = Shop { daemon, redis, sql, database };
    shop.settle();
    shop.fill_old();
    (shop, proxy)
}

impl Shop {
    /// Caches the present value of every row that will change.
    fn fill_old(&self) {
        old_entries(&mut redis::pipe()).exec(&mut self.redis.client()).unwrap();
    }

    /// Changes those rows, and checks that their keys are gone.
    fn invalidate(&mut self) {
        self.sql.run(&format!("UPDATE users SET n = n + 1 WHERE id <= {LOST}"));
        self.settle();
        // Pointers stay, with a new value.
        let cached: Vec<String> = self.cached().into_iter().filter(|key| key.starts_with("user:")).collect();
        assert!(cached.is_empty(), "{cached:?}");
    }

    /// Makes one more commit, and waits until everything is settled.
    fn commit_and_settle(&mut self) {
        self.sql.run("UPDATE users SET n = n + 1 WHERE id = 300");
        self.settle();
    }

    fn nothing_is_stale(&mut self, when: &str) {
        let stale = self.stale();
        let some = stale.iter().take(3).collect::<Vec<_>>();
        assert!(stale.is_empty(), "{when}, all being settled, {} keys are stale: {some:?}", stale.len());
    }

    fn restart_daemon(&mut self) {
        self.daemon.stop(Signal::Term);
        self.daemon.launch();
        self.settle();
    }

    fn record(&self) -> String {
        format!("coherd:{}", self.database.name)
    }
}

/// Commands that cache the rows' first values.
fn old_entries(pipe: &mut redis::Pipeline) -> &mut redis::Pipeline {
    for id in 1..=LOST {
        pipe.cmd("SET").arg(format!("user:{id}")).arg(0).ignore();
    }
    pipe
}

/// A replica of the shop's cache that has stopped following, and so lacks later changes.
fn lagging_replica(shop: &Shop) -> Redis {
    let replica = Redis::start();
    let mut client = replica.client();
    // Otherwise the primary waits for more replicas.
    let at_once = ["SET", "repl-diskless-sync-delay", "0"];
    let () = redis::cmd("CONFIG").arg(&at_once).query(&mut shop.redis.client()).unwrap();
    let () = redis::cmd("REPLICAOF").arg("127.0.0.1").arg(shop.redis.port()).query(&mut client).unwrap();
    until("the replica has every key", || {
        let keys: usize = redis::cmd("DBSIZE").query(&mut client).ok()?;
        (keys > LOST as usize).then_some(())
    });
    let () = redis::cmd("REPLICAOF").arg("NO").arg("ONE").query(&mut client).unwrap();
    replica
}

/// A shop whose connection from now on leads to the lagging replica.
fn failed_over() -> (Shop, Proxy) {
    let (mut shop, proxy) = behind_proxy();
    let replica = lagging_replica(&shop);
    shop.invalidate();
    proxy.swap_to(replica.port(), || {});
    shop.redis = replica;
    (shop, proxy)
}

#[test]
fn a_failover_behind_the_proxy_is_noticed_by_the_next_delivery() {
    let (mut shop, _proxy) = failed_over();
    shop.commit_and_settle();
    shop.nothing_is_stale("after a failover behind an open connection");
}

#[test]
fn a_failover_behind_the_proxy_is_made_good_by_a_restart_at_the_latest() {
    let (mut shop, _proxy) = failed_over();
    shop.commit_and_settle();
    shop.restart_daemon();
    shop.nothing_is_stale("after a failover behind an open connection and a restart");
}

/// On an idle stream the record moves once a second, which is a delivery like any other.
#[test]
fn a_failover_behind_the_proxy_is_noticed_although_nobody_writes() {
    let (mut shop, _proxy) = failed_over();
    let before = shop.record_sequence();
    until("the record is written again", || (shop.record_sequence() != before).then_some(()));
    let written = Instant::now();
    // Far longer than a flush of a hundred keys takes.
    while written.elapsed() < Duration::from_secs(3) && !shop.stale().is_empty() {
        std::thread::sleep(Duration::from_millis(10));
    }
    shop.nothing_is_stale("3 s after an idle daemon has written the record at the other server");
}

/// Several deliveries are in flight when the failover happens. The check follows the order of sending.
#[test]
fn a_failover_behind_the_proxy_under_load_is_noticed() {
    let (mut shop, proxy) = behind_proxy();
    let replica = lagging_replica(&shop);
    shop.invalidate();
    let mut sql = shop.database.client();
    let writer = std::thread::spawn(move || {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) {
            sql.run(&format!("UPDATE users SET n = n + 1 WHERE id = {}", fastrand::u32(LOST + 1..=300)));
        }
    });
    proxy.swap_to(replica.port(), || {});
    shop.redis = replica;
    writer.join().expect("it writes");
    shop.settle();
    shop.nothing_is_stale("after a failover behind an open connection, under load");
}

#[test]
fn flushall_and_old_entries_over_an_open_connection_are_noticed() {
    let (mut shop, _proxy) = behind_proxy();
    shop.invalidate();
    let mut restore = redis::pipe();
    restore.atomic().cmd("FLUSHALL").ignore();
    old_entries(&mut restore).exec(&mut shop.redis.client()).unwrap();
    shop.commit_and_settle();
    shop.nothing_is_stale("after FLUSHALL and a restore of old entries");
}

/// Another database of the same server has a copy of everything at an earlier time, including the record.
fn swap_databases(shop: &mut Shop) {
    let mut client = shop.redis.client();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut client).unwrap();
    let mut copy = redis::pipe();
    for key in &keys {
        copy.cmd("COPY").arg(key).arg(key).arg("DB").arg(1).ignore();
    }
    copy.exec(&mut client).unwrap();
    shop.invalidate();
    let () = redis::cmd("SWAPDB").arg(0).arg(1).query(&mut client).unwrap();
    shop.commit_and_settle();
}

#[test]
fn swapdb_is_noticed() {
    let (mut shop, _proxy) = behind_proxy();
    swap_databases(&mut shop);
    shop.nothing_is_stale("after SWAPDB");
}

#[test]
fn swapdb_is_made_good_by_a_restart_at_the_latest() {
    let (mut shop, _proxy) = behind_proxy();
    swap_databases(&mut shop);
    shop.restart_daemon();
    shop.nothing_is_stale("after SWAPDB and a restart");
}

/// Restores the earlier record and the entries that belong to it.
fn restore_an_old_record(shop: &mut Shop) {
    let (mut client, record) = (shop.redis.client(), shop.record());
    let old: Vec<u8> = redis::cmd("DUMP").arg(&record).query(&mut client).unwrap();
    shop.invalidate();
    let mut restore = redis::pipe();
    restore.atomic().cmd("RESTORE").arg(&record).arg(0).arg(old).arg("REPLACE").ignore();
    old_entries(&mut restore).exec(&mut client).unwrap();
    shop.commit_and_settle();
}

#[test]
fn an_old_record_that_is_restored_is_noticed() {
    let (mut shop, _proxy) = behind_proxy();
    restore_an_old_record(&mut shop);
    shop.nothing_is_stale("after RESTORE of an old record with its entries");
}

#[test]
fn an_old_record_that_is_restored_is_made_good_by_a_restart_at_the_latest() {
    let (mut shop, _proxy) = behind_proxy();
    restore_an_old_record(&mut shop);
    shop.restart_daemon();
    shop.nothing_is_stale("after RESTORE of an old record with its entries, and a restart");
}

impl Shop {
    fn record_sequence(&self) -> Option<u64> {
        redis::cmd("HGET").arg(self.record()).arg("sequence").query(&mut self.redis.client()).unwrap()
    }
}
