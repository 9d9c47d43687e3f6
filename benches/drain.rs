//! A backlog of single-row transactions, drained alternately by pg_recvlogical into /dev/null and by coherd into Redis
//! with every key cached and really deleted. `make bench`; CHANGES (1000000) and ROUNDS (3) from the environment.
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
use std::time::{Duration, Instant};

use support::daemon::{coherd, http_get};
use support::postgres::Client;
use support::process::{Server, free_port, peak_rss_kib};
use support::wait::until_within;
use support::{Database, Postgres, Redis};

const SETTINGS: &str = "synchronous_commit = off
full_page_writes = off
max_wal_size = 16GB
checkpoint_timeout = 1h
autovacuum = off
shared_buffers = 1GB";

/// One drain.
struct Drain {
    seconds: f64,
    cpu_seconds: Option<f64>,
    peak_rss_mib: Option<u64>,
}

struct Bench {
    database: Database,
    sql: Client,
    redis: Redis,
    changes: u64,
    end: String,
}

fn main() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let (changes, rounds) = (number("CHANGES", 1_000_000), number("ROUNDS", 3));
    let mut bench = Bench::prepare(changes);
    let (mut plain, mut ours) = (Vec::new(), Vec::new());
    println!("{changes} single-row transactions, TCP loopback\n{:<8}{:>24}{:>24}", "round", "pg_recvlogical", "coherd");
    for round in 1..=rounds {
        let its = bench.pg_recvlogical(round);
        let mine = bench.coherd(round);
        let rate = |drain: &Drain| format!("{:.0} changes/s", changes as f64 / drain.seconds);
        println!("{round:<8}{:>24}{:>24}", rate(&its), rate(&mine));
        plain.push(its.seconds);
        ours.push(mine);
    }
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let ratio = median(plain) / median(ours.iter().map(|drain| drain.seconds).collect());
    let per_million = |seconds: f64| seconds * 1e6 / changes as f64;
    let cpu = median(ours.iter().filter_map(|drain| drain.cpu_seconds).map(per_million).collect());
    let rss = ours.iter().filter_map(|drain| drain.peak_rss_mib).max().unwrap_or(0);
    println!("\ncoherd is {ratio:.2} times as fast; {cpu:.2} CPU seconds per million changes; peak RSS {rss} MiB");
    println!("{}", serde_json::json!({ "changes": changes, "ratio": ratio, "cpu_s_per_million": cpu, "rss_mib": rss }));
    assert!(ratio >= 1.0, "slower than pg_recvlogical");
}

impl Bench {
    fn prepare(changes: u64) -> Bench {
        let database = Database::create_on(Postgres::start(SETTINGS).into());
        let mut sql = database.client();
        sql.run(&format!(
            "CREATE TABLE items (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, pad text NOT NULL);
             INSERT INTO items SELECT n, 0, repeat('x', 280) FROM generate_series(1, {changes}) n;
             CREATE PUBLICATION bench FOR TABLE items (id);
             CREATE PROCEDURE change() LANGUAGE plpgsql AS $$ BEGIN
                 FOR i IN 1..{changes} LOOP UPDATE items SET n = n + 1 WHERE id = i; COMMIT; END LOOP; END $$;"
        ));
        sql.run("SELECT pg_create_logical_replication_slot('base', 'pgoutput')");
        sql.run("CALL change()");
        sql.run("SELECT pg_sleep(0.5)"); // the WAL writer's turn: nothing else flushes an asynchronous commit
        let end = sql.one("SELECT pg_current_wal_flush_lsn()");
        Bench { database, sql, redis: Redis::start(), changes, end }
    }

    /// A slot that has the whole backlog before it.
    fn slot(&mut self, name: &str) -> String {
        self.sql.run(&format!("SELECT pg_copy_logical_replication_slot('base', '{name}')"));
        name.to_owned()
    }

    fn pg_recvlogical(&mut self, round: u64) -> Drain {
        let slot = self.slot(&format!("plain_{round}"));
        let begin = Instant::now();
        let status = Command::new("pg_recvlogical")
            .args(["-d", &self.database.dsn(), "--slot", &slot, "--start", "--no-loop", "-f", "/dev/null", "-F", "0"])
            .args(["-o", "proto_version=1", "-o", "publication_names=bench", "--endpos", &self.end])
            .status()
            .expect("pg_recvlogical");
        let seconds = begin.elapsed().as_secs_f64();
        assert!(status.success());
        self.drop_slot(&slot);
        Drain { seconds, cpu_seconds: None, peak_rss_mib: None }
    }

    fn coherd(&mut self, round: u64) -> Drain {
        let slot = self.slot(&format!("ours_{round}"));
        self.fill(&slot);
        let (dir, admin) = (tempfile::tempdir().expect("temp dir"), free_port());
        let config = dir.path().join("coherd.yaml");
        let text = format!(
            "source: {{ dsn: \"{}\", slot: {slot}, publication: bench }}\ntargets: {{ cache: {{ url: \"{}\" }} }}\n\
             rules:\n  - table: items\n    keys: [\"item:{{id}}\"]\nadmin: {{ listen: \"127.0.0.1:{admin}\" }}\n",
            self.database.dsn(),
            self.redis.url()
        );
        std::fs::write(&config, text).expect("configuration");
        let begin = Instant::now();
        let command = [coherd(), "run".into(), "--config".into(), config.display().to_string()];
        let daemon = Server::start(&command, &dir.path().join("coherd.log"));
        let wait = format!("/wait?token={}&timeout=60s", self.end);
        until_within(Duration::from_mins(10), "coherd has drained the backlog", || {
            assert!(!daemon.has_ended(), "{}", daemon.output());
            http_get(admin, &wait).filter(|(code, _)| *code == 200)
        });
        let seconds = begin.elapsed().as_secs_f64();
        let left: u64 = redis::cmd("DBSIZE").query(&mut self.redis.client()).expect("DBSIZE");
        assert!(left == 1, "{} keys are left of {}", left - 1, self.changes);
        let drain = Drain {
            seconds,
            cpu_seconds: Some(cpu_seconds(daemon.pid())),
            peak_rss_mib: Some(peak_rss_kib(daemon.pid()) / 1024),
        };
        drop(daemon);
        self.drop_slot(&slot);
        drain
    }

    /// Every key is cached, and the record says that the target stands where the slot does.
    fn fill(&mut self, slot: &str) {
        let mut client = self.redis.client();
        let () = redis::cmd("FLUSHALL").query(&mut client).expect("FLUSHALL");
        let ids: Vec<u64> = (1..=self.changes).collect();
        for chunk in ids.chunks(1000) {
            let mut set = redis::cmd("MSET");
            chunk.iter().for_each(|id| {
                set.arg(format!("item:{id}")).arg("cached");
            });
            let () = set.query(&mut client).expect("MSET");
        }
        let row = self.sql.rows(&format!(
            "SELECT confirmed_flush_lsn - '0/0', (SELECT system_identifier FROM pg_control_system()),
                    (SELECT timeline_id FROM pg_control_checkpoint())
             FROM pg_replication_slots WHERE slot_name = '{slot}'"
        ));
        let mut record = redis::cmd("HSET");
        record.arg(format!("coherd:{slot}"));
        for (field, value) in ["applied", "system_id", "timeline"].iter().zip(&row[0]) {
            record.arg(field).arg(value);
        }
        let () = record
            .arg("settled")
            .arg(&row[0][0])
            .arg("marks")
            .arg("new")
            .arg("updated_ms")
            .arg(0)
            .query(&mut client)
            .expect("HSET");
    }

    fn drop_slot(&mut self, slot: &str) {
        let drop_it = format!("SELECT pg_drop_replication_slot('{slot}')");
        until_within(Duration::from_secs(30), "the slot is free", || self.sql.try_run(&drop_it).ok());
    }
}

/// User and system time so far (proc(5), fields 14 and 15, in ticks of 10 ms).
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let after = stat.rsplit_once(')').expect("a name").1;
    let ticks: u64 = after.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().expect("ticks")).sum();
    ticks as f64 / 100.0
}
