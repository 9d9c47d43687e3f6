//! A flush of many scopes in a Redis full of other keys, while small commits on another table go on, one after the
//! other. coherd paces a flush by `limits.flush_keys_per_second`, so the time it takes is that limit's.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::consumer::{Follower, Place};
use crate::large::{OVER, probe};
use crate::live::Stage;
use crate::meter::quantile;
use crate::options::{Options, Transport, number};
use crate::report::Report;

const SCOPES: usize = 40;

/// How many keys each scope covers.
const COVERED: usize = 25;

/// How many keys one `SCAN` of coherd looks at.
const SCAN_KEYS: f64 = 1000.0;

pub(crate) fn run(_options: &Options, report: &mut Report) {
    let foreign: u64 = number("FLUSH_KEYS", 5_000_000);
    let mut stage = Stage::set();
    let mut sql = stage.database.client();
    sql.run("CREATE TABLE wide (id int PRIMARY KEY)");
    sql.run("ALTER PUBLICATION keys ADD TABLE wide (id)");
    sql.run("SELECT pg_create_logical_replication_slot('ours', 'pgoutput')");
    let covered = (0..SCOPES * COVERED).map(|n| format!("wide{}:{n}", n % SCOPES));
    stage.cache.fill((0..foreign).map(|n| format!("foreign:{n}")).chain(covered));
    stage.cache.record(&mut sql, "ours");
    let keys: Vec<String> = (0..SCOPES).map(|n| format!("\"wide{n}:{{id}}\"")).collect();
    let rules = format!(
        "rules:\n  - {{ table: items, keys: [\"item:{{id}}\"] }}\n  - {{ table: wide, keys: [{}] }}\n",
        keys.join(", ")
    );
    let place = Place { database: &stage.database, transport: Transport::Tcp, slot: "ours", publication: "keys" };
    let follower = Follower::coherd(&place, std::slice::from_ref(&stage.cache), &rules, None);
    follower.settled(&sql.one("SELECT pg_current_wal_flush_lsn()"));
    let scans = stage.cache.calls("scan");
    let phase = AtomicU8::new(0);
    let (mut seconds, mut probes) = (0.0, Vec::new());
    std::thread::scope(|scope| {
        let prober = scope.spawn(|| probe(&stage, &phase));
        std::thread::sleep(Duration::from_secs(2)); // the baseline without a flush
        phase.store(1, Ordering::SeqCst);
        sql.run("TRUNCATE wide");
        let committed = Instant::now();
        follower.settled(&sql.one("SELECT pg_current_wal_insert_lsn()"));
        seconds = committed.elapsed().as_secs_f64();
        phase.store(OVER, Ordering::SeqCst);
        probes = prober.join().expect("it probes");
    });
    let looked_at = (stage.cache.calls("scan") - scans) as f64 * SCAN_KEYS;
    // Beside the foreign keys only coherd's record and perhaps the last probe's key are left.
    assert!(stage.cache.size() <= foreign + 2, "every key that a scope covers is gone");
    let mut row = vec![
        ("scopes", json!(SCOPES)),
        ("other keys", json!(foreign)),
        ("commit → settled s", json!(seconds)),
        ("passes over the keyspace", json!(looked_at / foreign as f64)),
        ("peak RSS MiB", json!(follower.usage().peak_rss_kib as f64 / 1024.0)),
    ];
    for (phase, name) in ["commits before it, ms p50, p99", "commits meanwhile, ms p50, p99"].into_iter().enumerate() {
        let of = probes.iter().filter(|probe| usize::from(probe.phase) == phase);
        let mut all: Vec<f64> = of.map(|probe| probe.milliseconds).collect();
        row.push((name, json!([0.5, 0.99].map(|share| quantile(&mut all, share)))));
    }
    report.row("flush", &row);
}
