//! Drains backlogs with each consumer in turn.
//!
//! The clock starts when a walsender holds the slot, so a consumer's start does not count. For pg_recvlogical it stops
//! when the program ends at the end of the backlog, for the others when the last key is gone from Redis. CPU time and
//! context switches are measured between these two moments.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::backlog::{Backlog, SETTINGS};
use crate::cache::Cache;
use crate::consumer::{Follower, Place, begun, pg_recvlogical};
use crate::meter::{Usage, has_ended, median};
use crate::options::{Columns, Consumer, Options, Shape, Transport, Word, before};
use crate::report::Report;
use crate::support::Postgres;
use crate::support::wait::until_within;

const PATIENCE: Duration = Duration::from_mins(15);

/// Longer than the walsender takes to read a large transaction before it sends the first row.
const STALL: Duration = Duration::from_mins(1);

/// The result of one drain.
#[derive(Clone, Copy)]
pub(crate) struct Drain {
    pub(crate) seconds: f64,
    pub(crate) usage: Usage,
    /// CPU seconds of the walsender.
    pub(crate) walsender: f64,
}

/// Runs every requested drain.
pub(crate) fn run(options: &Options, report: &mut Report) {
    let server = Arc::new(Postgres::start(SETTINGS));
    let mut caches = [Cache::start()];
    let consumers: Vec<Consumer> = options.consumers.iter().copied().filter(|its| its.drains()).collect();
    for &shape in &options.shapes {
        let mut backlog = Backlog::write(&server, shape, options.changes);
        for &transport in &options.transports {
            for &columns in &options.columns {
                let mut drains: Vec<Vec<Drain>> = vec![Vec::new(); consumers.len()];
                for _round in 0..options.rounds {
                    for (consumer, drains) in consumers.iter().zip(&mut drains) {
                        drains.push(drain(&mut backlog, &mut caches, *consumer, (transport, columns)));
                    }
                }
                let name = (shape, transport, columns);
                let medians: Vec<_> = consumers.iter().copied().zip(drains).collect();
                tell(report, name, options.changes, &medians);
            }
        }
    }
}

/// One drain by one consumer. Panics if a key is left.
pub(crate) fn drain(
    backlog: &mut Backlog,
    caches: &mut [Cache],
    consumer: Consumer,
    (transport, columns): (Transport, Columns),
) -> Drain {
    let slot = backlog.slot();
    let drained = if consumer == Consumer::PgRecvlogical {
        by_pg_recvlogical(backlog, &slot, transport, columns)
    } else {
        let program = before().filter(|_| consumer == Consumer::Before);
        let consumer = if program.is_some() { Consumer::Coherd } else { consumer };
        let how = How { consumer, transport, publication: columns.word(), program: program.as_deref() };
        by_follower(backlog, caches, &slot, &how, |_, _| ())
    };
    backlog.drop_slot(&slot);
    drained
}

fn by_pg_recvlogical(backlog: &mut Backlog, slot: &str, transport: Transport, columns: Columns) -> Drain {
    let place = Place { database: &backlog.database, transport, slot, publication: columns.word() };
    let started = Instant::now();
    let mut child = pg_recvlogical(&place, &backlog.end, &["proto_version=1"]);
    let pid = child.id();
    let (walsender, began) = begun(&mut backlog.sql, slot, || has_ended(pid)).unwrap_or((0, started));
    let before = Usage::of(pid).unwrap_or_default();
    let (mut its, mut theirs) = (before, Usage::default());
    until_within(PATIENCE, "pg_recvlogical has drained the backlog", || {
        if has_ended(pid) {
            return Some(());
        }
        // A process that has ended still reports its CPU time, but not its memory. The walsender ends with it.
        its = Usage::of(pid).unwrap_or(its);
        theirs = Usage::of(walsender).unwrap_or(theirs);
        None
    });
    let seconds = began.elapsed().as_secs_f64();
    let peak_rss_kib = its.peak_rss_kib;
    its = Usage::of(pid).unwrap_or(its);
    assert!(child.wait().expect("it ended").success(), "pg_recvlogical failed");
    Drain { seconds, usage: Usage { peak_rss_kib, ..its.since(before) }, walsender: theirs.cpu_seconds }
}

/// How coherd or the floor drains.
pub(crate) struct How<'a> {
    pub(crate) consumer: Consumer,
    pub(crate) transport: Transport,
    pub(crate) publication: &'a str,
    /// The program of another build of coherd.
    pub(crate) program: Option<&'a Path>,
}

/// Drains `slot` with coherd or the floor. Calls `watch` every few milliseconds with the number of remaining keys.
pub(crate) fn by_follower(
    backlog: &mut Backlog,
    caches: &mut [Cache],
    slot: &str,
    how: &How,
    mut watch: impl FnMut(&Follower, u64),
) -> Drain {
    for cache in &mut *caches {
        cache.fill(backlog.keys());
    }
    let consumer = how.consumer;
    let place = Place { database: &backlog.database, transport: how.transport, slot, publication: how.publication };
    // The record stays, and is coherd's only key.
    let (follower, rest) = if consumer == Consumer::Coherd {
        for cache in &mut *caches {
            cache.record(&mut backlog.sql, slot);
        }
        (Follower::coherd(&place, caches, &backlog.rules(), how.program), caches.len() as u64)
    } else {
        (Follower::bare("floor", &place, &caches[0]), 0)
    };
    let mut size = || caches.iter_mut().map(Cache::size).sum::<u64>();
    let lives = || {
        follower.must_live();
        false
    };
    let (walsender, began) = begun(&mut backlog.sql, slot, lives).expect("it lives");
    let (before, theirs) = (follower.usage(), Usage::of(walsender).unwrap_or_default());
    let mut last = (u64::MAX, Instant::now());
    until_within(PATIENCE, "every key of the backlog is gone", || {
        follower.must_live();
        let left = size().saturating_sub(rest);
        if left < last.0 {
            last = (left, Instant::now());
        }
        assert!(last.1.elapsed() < STALL, "{left} keys are left and none goes: {}", follower.output());
        watch(&follower, left);
        (left == 0).then_some(())
    });
    let seconds = began.elapsed().as_secs_f64();
    let usage = follower.usage().since(before);
    let walsender = Usage::of(walsender).map_or(f64::NAN, |now| now.since(theirs).cpu_seconds);
    assert_eq!(size(), rest, "keys in the cache");
    let keys = backlog.keys_count() * caches.len() as u64;
    must_be_true(backlog, &follower, slot, consumer, keys);
    Drain { seconds, usage, walsender }
}

/// Asserts that every key was deleted by name and the end is acknowledged.
fn must_be_true(backlog: &mut Backlog, follower: &Follower, slot: &str, consumer: Consumer, keys: u64) {
    if consumer == Consumer::Coherd {
        follower.settled(&backlog.end);
        // A flush would delete the keys without naming them.
        for name in ["coherd_keys_hit_total", "coherd_invalidations_total"] {
            assert_eq!(follower.metric(name), Some(keys as f64), "{name}: every key is deleted by its name");
        }
        assert_eq!(follower.metric("coherd_flushes_total"), None, "nothing was flushed");
    } else {
        let confirmed = format!(
            "SELECT confirmed_flush_lsn >= '{}' FROM pg_replication_slots WHERE slot_name = '{slot}'",
            backlog.end
        );
        until_within(Duration::from_secs(10), "the floor has acknowledged", || {
            (backlog.sql.one(&confirmed) == "t").then_some(())
        });
    }
}

fn tell(
    report: &mut Report,
    (shape, transport, columns): (Shape, Transport, Columns),
    changes: u64,
    drains: &[(Consumer, Vec<Drain>)],
) {
    let million = changes as f64 / 1e6;
    let of = |drains: &[Drain], value: &dyn Fn(&Drain) -> f64| median(drains.iter().map(value));
    let rate = |drain: &Drain| changes as f64 / drain.seconds;
    let cpu = |drain: &Drain| drain.usage.cpu_seconds / million;
    let mut rates = Vec::new();
    for (consumer, drains) in drains {
        let (speed, cpu) = (of(drains, &rate), of(drains, &cpu));
        let walsender = of(drains, &|drain| drain.walsender / million);
        let switches = of(drains, &|drain| drain.usage.switches as f64 / changes as f64);
        let rss = drains.iter().map(|drain| drain.usage.peak_rss_kib).max().unwrap_or(0) as f64 / 1024.0;
        rates.push((*consumer, speed, cpu));
        let each: Vec<u64> = drains.iter().map(|drain| rate(drain) as u64).collect();
        report.row(
            "drain",
            &[
                ("shape", json!(shape.word())),
                ("transport", json!(transport.word())),
                ("columns", json!(columns.word())),
                ("consumer", json!(consumer.word())),
                ("changes/s", json!(speed.round())),
                ("CPU s/million", json!(cpu)),
                ("walsender CPU s/million", json!(walsender)),
                ("peak RSS MiB", json!(rss)),
                ("context switches/change", json!(switches)),
                ("rounds, changes/s", json!(each)),
            ],
        );
    }
    let find = |wanted| rates.iter().find(|(consumer, ..)| *consumer == wanted);
    let Some((_, ours, our_cpu)) = find(Consumer::Coherd) else { return };
    let mut cells = vec![
        ("shape", json!(shape.word())),
        ("transport", json!(transport.word())),
        ("columns", json!(columns.word())),
    ];
    if let Some((_, floor, floor_cpu)) = find(Consumer::Floor) {
        cells.push(("speed ÷ floor", json!(ours / floor)));
        cells.push(("CPU ÷ floor", json!(our_cpu / floor_cpu)));
    }
    if let Some((_, before, before_cpu)) = find(Consumer::Before) {
        cells.push(("speed ÷ before", json!(ours / before)));
        cells.push(("CPU ÷ before", json!(our_cpu / before_cpu)));
    }
    if let Some((_, plain, _)) = find(Consumer::PgRecvlogical) {
        cells.push(("speed ÷ pg_recvlogical", json!(ours / plain)));
    }
    report.row("drain, coherd beside the others", &cells);
}
