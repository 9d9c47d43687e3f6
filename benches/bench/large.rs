//! One transaction of many rows, each with a key, while small commits on another table go on, one after the other. Keys
//! beyond `limits.max_keys_per_transaction` become a flush of their rule's scope. This bounds memory, and takes as long
//! as `limits.flush_keys_per_second` allows.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use redis::Connection;
use serde_json::json;

use crate::consumer::{Follower, Place, begun, pg_recvlogical};
use crate::live::Stage;
use crate::meter::{Usage, has_ended, quantile};
use crate::options::{Options, Transport, number};
use crate::report::Report;
use crate::support::postgres::Client;
use crate::support::wait::until_within;

const PATIENCE: Duration = Duration::from_mins(30);

/// The pause between two small commits.
const PROBE_EVERY: Duration = Duration::from_millis(20);

/// A small commit, and the time until its key was gone.
pub(crate) struct Probe {
    pub(crate) phase: u8,
    pub(crate) milliseconds: f64,
}

const PHASES: [&str; 3] = ["before it", "while it is written", "after its commit, until all is settled"];
/// The phase that ends the probes.
pub(crate) const OVER: u8 = 3;

pub(crate) fn run(_options: &Options, report: &mut Report) {
    let rows: u64 = number("ROWS", 10_000_000);
    let cached: u64 = number("LARGE_CACHED", 1_000_000.min(rows));
    let mut stage = Stage::set();
    let mut sql = stage.database.client();
    sql.run("CREATE TABLE big (id int PRIMARY KEY, n int NOT NULL)");
    sql.run("ALTER PUBLICATION keys ADD TABLE big (id)");
    for slot in ["one", "two", "ours"] {
        sql.run(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"));
    }
    stage.cache.fill((1..=cached).map(|id| format!("big:{id}")));
    stage.cache.record(&mut sql, "ours");
    let rules = "rules:\n  - { table: items, keys: [\"item:{id}\"] }\n  - { table: big, keys: [\"big:{id}\"] }\n";
    let place = Place { database: &stage.database, transport: Transport::Tcp, slot: "ours", publication: "keys" };
    let follower = Follower::coherd(&place, std::slice::from_ref(&stage.cache), rules, None);
    follower.settled(&sql.one("SELECT pg_current_wal_flush_lsn()"));
    let before = follower.usage();
    let phase = AtomicU8::new(0);
    let (mut seconds, mut probes) = (0.0, Vec::new());
    std::thread::scope(|scope| {
        let prober = scope.spawn(|| probe(&stage, &phase));
        std::thread::sleep(Duration::from_secs(2)); // the baseline without the large transaction
        phase.store(1, Ordering::SeqCst);
        sql.run(&format!("INSERT INTO big SELECT n, 0 FROM generate_series(1, {rows}) n"));
        phase.store(2, Ordering::SeqCst);
        let committed = Instant::now();
        follower.settled(&sql.one("SELECT pg_current_wal_insert_lsn()"));
        seconds = committed.elapsed().as_secs_f64();
        phase.store(OVER, Ordering::SeqCst);
        probes = prober.join().expect("it probes");
    });
    let usage = follower.usage().since(before);
    report.row(
        "large transaction",
        &[
            ("", json!("the transaction")),
            ("rows", json!(rows)),
            ("keys cached", json!(cached)),
            ("commit → settled s", json!(seconds)),
            ("changes/s", json!((rows as f64 / seconds).round())),
            ("peak RSS MiB", json!(usage.peak_rss_kib as f64 / 1024.0)),
            ("CPU s/million", json!(usage.cpu_seconds / (rows as f64 / 1e6))),
            ("keys sent by name", json!(follower.metric("coherd_invalidations_total"))),
        ],
    );
    tell_probes(report, &probes);
    let end = sql.one("SELECT pg_current_wal_flush_lsn()");
    drop(follower);
    both_protocols(&stage, &mut sql, &end, rows, report);
}

fn tell_probes(report: &mut Report, probes: &[Probe]) {
    for (phase, name) in PHASES.iter().enumerate() {
        let of = probes.iter().filter(|probe| usize::from(probe.phase) == phase);
        let mut all: Vec<f64> = of.map(|probe| probe.milliseconds).collect();
        let [middle, most] = [0.5, 1.0].map(|share| quantile(&mut all, share));
        report.row(
            "large transaction",
            &[
                ("", json!(format!("small commits {name}"))),
                ("count", json!(all.len())),
                ("p50 ms", json!(middle)),
                ("longest ms", json!(most)),
            ],
        );
    }
}

/// Makes small commits. Each waits until the key of the previous one is gone.
pub(crate) fn probe(stage: &Stage, phase: &AtomicU8) -> Vec<Probe> {
    let (mut session, mut client, mut cache): (_, Connection, Connection) =
        (stage.session(), stage.cache.client(), stage.cache.client());
    let mut events = client.as_pubsub();
    events.psubscribe("__keyspace@0__:item:*").expect("PSUBSCRIBE");
    events.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let mut probes = Vec::new();
    for id in 1.. {
        if phase.load(Ordering::SeqCst) == OVER {
            break;
        }
        let () = redis::cmd("SET").arg(format!("item:{id}")).arg("cached").query(&mut cache).expect("SET");
        session.run(&format!("UPDATE items SET n = n + 1 WHERE id = {id}"));
        let committed = Instant::now();
        let channel = format!("__keyspace@0__:item:{id}");
        while events.get_message().expect("it goes").get_channel_name() != channel {}
        let milliseconds = committed.elapsed().as_secs_f64() * 1000.0;
        // A probe that was still waiting when the large transaction committed counts as waiting behind it.
        probes.push(Probe { phase: phase.load(Ordering::SeqCst).min(2), milliseconds });
        std::thread::sleep(PROBE_EVERY);
    }
    probes
}

/// What streaming of transactions in progress would change: the walsender then sends, in pieces of
/// `logical_decoding_work_mem`, what it would otherwise write to disk first.
fn both_protocols(stage: &Stage, sql: &mut Client, end: &str, rows: u64, report: &mut Report) {
    for (slot, name, options) in [
        ("one", "protocol 1", &["proto_version=1"][..]),
        ("two", "protocol 2, streaming on", &["proto_version=2", "streaming=on"][..]),
    ] {
        let place = Place { database: &stage.database, transport: Transport::Tcp, slot, publication: "keys" };
        let mut child = pg_recvlogical(&place, end, options);
        let pid = child.id();
        let (walsender, began) = begun(sql, slot, || has_ended(pid)).unwrap_or((0, Instant::now()));
        let mut theirs = Usage::default();
        until_within(PATIENCE, "pg_recvlogical has read the transaction", || {
            theirs = Usage::of(walsender).unwrap_or(theirs);
            has_ended(pid).then_some(())
        });
        let seconds = began.elapsed().as_secs_f64();
        assert!(child.wait().expect("it ended").success(), "pg_recvlogical failed");
        let spilled = sql.one(&format!(
            "SELECT (spill_bytes / 1048576)::text || ' spilled, ' || (stream_bytes / 1048576)::text || ' streamed'
             FROM pg_stat_replication_slots WHERE slot_name = '{slot}'"
        ));
        report.row(
            "large transaction, drained by pg_recvlogical",
            &[
                ("", json!(name)),
                ("s", json!(seconds)),
                ("changes/s", json!((rows as f64 / seconds).round())),
                ("walsender CPU s/million", json!(theirs.cpu_seconds / (rows as f64 / 1e6))),
                ("walsender MiB", json!(spilled)),
            ],
        );
    }
}
