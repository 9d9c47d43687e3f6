//! Metrics in the `OpenMetrics` text format. Every name and label is a constant here.
//!
//! Each counter is created once and kept by the code that counts, so counting is one atomic addition. Gauges are read
//! from the [`Board`] at each scrape, so that each value exists only once.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric};
use prometheus_client::metrics::MetricType;
#[cfg(feature = "count-allocations")]
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::admin::status::{Board, ReplicaStatus, RuleStatus, TargetStatus};
use crate::types::table::TableName;

/// The prefix of every name.
pub const PREFIX: &str = "coherd";
/// `coherd_changes_total{table,op}`: rows read from the log. The format appends `_total` to a counter's name.
pub const CHANGES: &str = "changes";
/// `coherd_invalidations_total{target,action}`: keys that a target confirmed.
pub const INVALIDATIONS: &str = "invalidations";
/// `coherd_keys_hit_total{target}`: keys that existed in the cache.
pub const KEYS_HIT: &str = "keys_hit";
/// `coherd_early_keys_total{target}`: keys sent early, ahead of the invalidation that counts.
pub const EARLY_KEYS: &str = "early_keys";
/// `coherd_commit_to_applied_seconds`: from the commit's timestamp until every target has confirmed.
pub const COMMIT_TO_APPLIED: &str = "commit_to_applied_seconds";
/// `coherd_commit_to_settled_seconds`: from the commit's timestamp until readers may rely on it. While commits wait for
/// a target, only a sample of them is measured.
pub const COMMIT_TO_SETTLED: &str = "commit_to_settled_seconds";
/// `coherd_delivery_retries_total{target,reason}`: deliveries that were sent again.
pub const DELIVERY_RETRIES: &str = "delivery_retries";
/// `coherd_gaps_total{reason}`: how often continuity was broken.
pub const GAPS: &str = "gaps";
/// `coherd_flushes_total{reason}`: how often scopes were flushed.
pub const FLUSHES: &str = "flushes";
/// `coherd_resends_total{reason}`: how often coherd sent a target from memory what it had lost.
pub const RESENDS: &str = "resends";
/// `coherd_overflows_total{target,limit}`: how often too many keys were replaced by flushes.
pub const OVERFLOWS: &str = "overflows";
/// `coherd_manual_keys_ignored_total`: manual keys that no rule covers.
pub const MANUAL_KEYS_IGNORED: &str = "manual_keys_ignored";
/// `coherd_build_info{version}`: always 1.
pub const BUILD: &str = "build";
/// `coherd_watermark_lsn{stage}`: the watermarks, as byte positions.
pub const WATERMARK_LSN: &str = "watermark_lsn";
/// `coherd_slot_lag_bytes`: log that has not settled.
pub const SLOT_LAG_BYTES: &str = "slot_lag_bytes";
/// `coherd_slot_retained_bytes`: log that the slot holds back, up to the end of the log; absent until the first look at
/// the slot.
pub const SLOT_RETAINED_BYTES: &str = "slot_retained_bytes";
/// `coherd_rule_covered{rule}`: 1 while every change that concerns the rule is in the stream, otherwise 0.
pub const RULE_COVERED: &str = "rule_covered";
/// `coherd_replica_lag_bytes{replica}`: log that is decoded but not replayed there; absent until the replica answers,
/// and while it is not a standby.
pub const REPLICA_LAG_BYTES: &str = "replica_lag_bytes";
/// `coherd_replica_held{replica}`: 1 while readers may fill caches from the replica, otherwise 0.
pub const REPLICA_HELD: &str = "replica_held";
/// `coherd_target_up{target}`: 1 while the target confirms deliveries, otherwise 0.
pub const TARGET_UP: &str = "target_up";
/// `coherd_pending_keys{target}`: keys that wait for the target.
pub const PENDING_KEYS: &str = "pending_keys";
/// `coherd_last_message_age_seconds`: how long the server has been silent; absent until it sends something.
pub const LAST_MESSAGE_AGE: &str = "last_message_age_seconds";
/// `coherd_allocations_total`: allocator calls that returned memory, since the start. Only in a build with the feature
/// `count-allocations`.
#[cfg(feature = "count-allocations")]
pub const ALLOCATIONS: &str = "allocations";

/// Label: a table's name, quoted where SQL needs it.
pub const TABLE: &str = "table";
/// Label: `insert`, `update`, `delete` or `truncate`.
pub const OP: &str = "op";
/// Label: a replica, `user@host:port/database`.
pub const REPLICA: &str = "replica";
/// Label: a target's name.
pub const TARGET: &str = "target";
/// Label: a rule's place in the configuration, or its name, and its table: `rules[2] public.users`.
pub const RULE: &str = "rule";
/// Label: `delete`, `bump` or `publish`.
pub const ACTION: &str = "action";
/// Label: `max_keys_per_transaction` or `max_pending_keys`.
pub const LIMIT: &str = "limit";
/// Label: the reason for the event.
pub const REASON: &str = "reason";
/// Label: `decoded`, `visible`, `applied` or `settled`.
pub const STAGE: &str = "stage";
/// Label: coherd's version.
pub const VERSION: &str = "version";

/// The content type of the text that [`Metrics::encode`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The upper bound of the first bucket of the latency histograms, in seconds; each further bound is twice as large, up
/// to about 105 s.
const FIRST_BUCKET_SECONDS: f64 = 0.0001;
const BUCKETS: u16 = 21;

type Labels<const N: usize> = [(&'static str, String); N];

/// The counters of one table.
#[derive(Debug, Clone)]
pub struct TableCounters {
    /// Rows inserted.
    pub insert: Counter,
    /// Rows updated.
    pub update: Counter,
    /// Rows deleted.
    pub delete: Counter,
    /// TRUNCATEs.
    pub truncate: Counter,
}

/// The counters of one target.
#[derive(Debug, Clone)]
pub struct TargetMetrics {
    /// Keys deleted, or reported as deleted.
    pub delete: Counter,
    /// Version pointers incremented.
    pub bump: Counter,
    /// Keys published on a channel.
    pub publish: Counter,
    /// Keys that existed in the cache.
    pub hit: Counter,
    /// Keys sent early.
    pub early: Counter,
    name: String,
    retries: Family<Labels<2>, Counter>,
}

impl TargetMetrics {
    /// The counter of deliveries that were sent again for `reason`. Looked up at each call, because retries are rare.
    pub fn retries(&self, reason: &'static str) -> Counter {
        self.retries.get_or_create_owned(&[(TARGET, self.name.clone()), (REASON, reason.to_owned())])
    }
}

/// Every metric. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    changes: Family<Labels<2>, Counter>,
    invalidations: Family<Labels<2>, Counter>,
    keys_hit: Family<Labels<1>, Counter>,
    early_keys: Family<Labels<1>, Counter>,
    retries: Family<Labels<2>, Counter>,
    gaps: Family<Labels<1>, Counter>,
    flushes: Family<Labels<1>, Counter>,
    resends: Family<Labels<1>, Counter>,
    overflows: Family<Labels<2>, Counter>,
    ignored: Counter,
    commit_to_applied: Histogram,
    commit_to_settled: Histogram,
}

impl Metrics {
    /// Metrics whose gauges are read from `board`.
    pub fn new(board: &Board) -> Metrics {
        let mut registry = Registry::with_prefix(PREFIX);
        let latencies = || Histogram::new(exponential_buckets(FIRST_BUCKET_SECONDS, 2.0, BUCKETS));
        let mut inner = Inner {
            registry: Registry::default(),
            changes: Family::default(),
            invalidations: Family::default(),
            keys_hit: Family::default(),
            early_keys: Family::default(),
            retries: Family::default(),
            gaps: Family::default(),
            flushes: Family::default(),
            resends: Family::default(),
            overflows: Family::default(),
            ignored: Counter::default(),
            commit_to_applied: latencies(),
            commit_to_settled: latencies(),
        };
        registry.register(CHANGES, "Rows read from the log", inner.changes.clone());
        registry.register(INVALIDATIONS, "Keys that a target confirmed", inner.invalidations.clone());
        registry.register(KEYS_HIT, "Keys that were really in the cache", inner.keys_hit.clone());
        registry.register(
            EARLY_KEYS,
            "Keys sent early, ahead of the invalidation that counts",
            inner.early_keys.clone(),
        );
        registry.register(DELIVERY_RETRIES, "Deliveries sent again", inner.retries.clone());
        registry.register(GAPS, "Times that continuity was broken", inner.gaps.clone());
        registry.register(FLUSHES, "Times that scopes were flushed", inner.flushes.clone());
        registry.register(RESENDS, "Times that a target was sent again what it had lost", inner.resends.clone());
        registry.register(OVERFLOWS, "Times that keys became flushes", inner.overflows.clone());
        let about = "Manual keys that no rule covers";
        registry.register(MANUAL_KEYS_IGNORED, about, inner.ignored.clone());
        registry.register(
            COMMIT_TO_APPLIED,
            "From the commit until every target confirmed",
            inner.commit_to_applied.clone(),
        );
        registry.register(
            COMMIT_TO_SETTLED,
            "From the commit until readers may rely on it",
            inner.commit_to_settled.clone(),
        );
        registry.register(BUILD, "The version that runs", Info::new([(VERSION, env!("CARGO_PKG_VERSION"))]));
        registry.register_collector(Box::new(Gauges(board.clone())));
        inner.registry = registry;
        Metrics(Arc::new(inner))
    }

    /// The counters of a table; the caller keeps them.
    pub fn table(&self, table: &TableName) -> TableCounters {
        let table = table.to_string();
        let op = |op: &str| self.0.changes.get_or_create_owned(&[(TABLE, table.clone()), (OP, op.to_owned())]);
        TableCounters { insert: op("insert"), update: op("update"), delete: op("delete"), truncate: op("truncate") }
    }

    /// The counters of a target; the caller keeps them.
    pub fn target(&self, name: &str) -> TargetMetrics {
        let target = || (TARGET, name.to_owned());
        let action = |action: &str| self.0.invalidations.get_or_create_owned(&[target(), (ACTION, action.to_owned())]);
        TargetMetrics {
            delete: action("delete"),
            bump: action("bump"),
            publish: action("publish"),
            hit: self.0.keys_hit.get_or_create_owned(&[target()]),
            early: self.0.early_keys.get_or_create_owned(&[target()]),
            name: name.to_owned(),
            retries: self.0.retries.clone(),
        }
    }

    /// The histogram of seconds from commit to applied; the caller keeps it.
    pub fn commit_to_applied(&self) -> Histogram {
        self.0.commit_to_applied.clone()
    }

    /// The histogram of seconds from commit to settled; the caller keeps it.
    pub fn commit_to_settled(&self) -> Histogram {
        self.0.commit_to_settled.clone()
    }

    /// Counts a gap.
    pub fn gap(&self, reason: &'static str) {
        self.0.gaps.get_or_create_owned(&[(REASON, reason.to_owned())]).inc();
    }

    /// Counts a flush of scopes.
    pub fn flushed(&self, reason: &'static str) {
        self.0.flushes.get_or_create_owned(&[(REASON, reason.to_owned())]).inc();
    }

    /// Counts keys of a target that `limit` turned into flushes.
    pub fn overflowed(&self, target: &str, limit: &'static str) {
        let labels = [(TARGET, target.to_owned()), (LIMIT, limit.to_owned())];
        self.0.overflows.get_or_create_owned(&labels).inc();
    }

    /// Counts that coherd sent a target from memory what it had lost.
    pub fn resent(&self, reason: &'static str) {
        self.0.resends.get_or_create_owned(&[(REASON, reason.to_owned())]).inc();
    }

    /// Counts manual keys that no rule covers.
    pub fn ignored(&self, keys: u64) {
        self.0.ignored.inc_by(keys);
    }

    /// The text for a scrape.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.0.registry)?;
        Ok(text)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

#[derive(Debug)]
struct Gauges(Board);

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let status = self.0.status();
        let stages = [
            ("decoded", status.watermarks.decoded),
            ("visible", status.watermarks.visible),
            ("applied", status.watermarks.applied),
            ("settled", status.watermarks.settled),
        ];
        let marks = stages.map(|(stage, lsn)| ([(STAGE, stage.to_owned())], lsn.as_u64()));
        labelled(&mut encoder, WATERMARK_LSN, "How far each stage has come, as a byte position", marks)?;
        let targets = |of: fn(&TargetStatus) -> u64| {
            status.targets.iter().map(move |target| ([(TARGET, target.name.clone())], of(target)))
        };
        labelled(&mut encoder, TARGET_UP, "Whether the target confirms deliveries", targets(|t| u64::from(t.up)))?;
        labelled(&mut encoder, PENDING_KEYS, "Keys that wait for the target", targets(|t| t.pending_keys))?;
        plain(&mut encoder, SLOT_LAG_BYTES, "Bytes of log that are not settled", status.lag_bytes())?;
        if let Some(held) = status.held {
            plain(&mut encoder, SLOT_RETAINED_BYTES, "Bytes of log that the slot holds back", held.retained)?;
        }
        let covered = |rule: &RuleStatus| ([(RULE, rule.subject.to_string())], u64::from(rule.uncovered.is_none()));
        let rules = status.rules.iter().map(covered);
        labelled(&mut encoder, RULE_COVERED, "Whether every change that concerns the rule is in the stream", rules)?;
        let replica = |replica: &ReplicaStatus| [(REPLICA, replica.name.to_string())];
        let behind = status
            .replicas
            .iter()
            .filter_map(|its| Some((replica(its), status.watermarks.decoded.bytes_since(its.replayed?))));
        labelled(&mut encoder, REPLICA_LAG_BYTES, "Bytes of log that are decoded and not replayed there", behind)?;
        let held = status.replicas.iter().map(|its| (replica(its), u64::from(its.held)));
        labelled(&mut encoder, REPLICA_HELD, "Whether readers may fill caches from the replica", held)?;
        if let Some(age) = status.silence(Instant::now()) {
            plain(&mut encoder, LAST_MESSAGE_AGE, "How long the server has been silent", age.as_secs_f64())?;
        }
        #[cfg(feature = "count-allocations")]
        allocations(&mut encoder)?;
        Ok(())
    }
}

fn labelled(
    encoder: &mut DescriptorEncoder,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (Labels<1>, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn plain<N: EncodeGaugeValue>(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: N) -> fmt::Result {
    let gauge = ConstGauge::new(value);
    let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
    gauge.encode(metric)
}

#[cfg(feature = "count-allocations")]
fn allocations(encoder: &mut DescriptorEncoder) -> fmt::Result {
    let stats = stats_alloc::INSTRUMENTED_SYSTEM.stats();
    let count = ConstCounter::new((stats.allocations + stats.reallocations) as u64);
    count.encode(encoder.encode_descriptor(ALLOCATIONS, "Calls that gave memory", None, count.metric_type())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::Watermarks;
    use crate::types::lsn::Lsn;
    use crate::types::observation::HeldWal;

    #[test]
    fn every_metric_stands_under_its_name_with_its_labels() {
        let board = Board::new("coherd", "coherd", [("cache", "redis")]);
        let metrics = Metrics::new(&board);
        let users = metrics.table(&TableName { schema: "public".into(), name: "users".into() });
        users.insert.inc_by(3);
        let cache = metrics.target("cache");
        cache.delete.inc_by(5);
        cache.hit.inc_by(2);
        cache.retries("timeout").inc();
        metrics.gap("slot_missing");
        metrics.flushed("gap");
        metrics.resent("target_went_back");
        metrics.overflowed("cache", "max_pending_keys");
        board.rules(["rules[0] public.users".into(), "rules[1] public.\"Or\\ders\"".into()]);
        board.uncover(1, "it is not in the publication");
        board.observed(
            Some(HeldWal { end: Lsn::new(9000), retained: 4096, safe: None, segment: 1 << 24 }),
            Instant::now(),
        );
        metrics.commit_to_applied().observe(0.0003);
        metrics.commit_to_settled().observe(0.0004);
        board.target(0, |target| {
            target.is_up();
            target.pending_keys = 7;
        });
        board.moved(Watermarks { decoded: Lsn::new(1000), settled: Lsn::new(400), ..Watermarks::default() });
        board.heard(Lsn::new(900));
        let text = metrics.encode().unwrap();
        for line in [
            "coherd_changes_total{table=\"public.users\",op=\"insert\"} 3",
            "coherd_changes_total{table=\"public.users\",op=\"truncate\"} 0",
            "coherd_invalidations_total{target=\"cache\",action=\"delete\"} 5",
            "coherd_keys_hit_total{target=\"cache\"} 2",
            "coherd_delivery_retries_total{target=\"cache\",reason=\"timeout\"} 1",
            "coherd_gaps_total{reason=\"slot_missing\"} 1",
            "coherd_flushes_total{reason=\"gap\"} 1",
            "coherd_commit_to_applied_seconds_count 1",
            "coherd_commit_to_settled_seconds_count 1",
            "coherd_watermark_lsn{stage=\"decoded\"} 1000",
            "coherd_watermark_lsn{stage=\"settled\"} 400",
            "coherd_slot_lag_bytes 600",
            "coherd_resends_total{reason=\"target_went_back\"} 1",
            "coherd_overflows_total{target=\"cache\",limit=\"max_pending_keys\"} 1",
            "coherd_slot_retained_bytes 4096",
            "coherd_rule_covered{rule=\"rules[0] public.users\"} 1",
            "coherd_rule_covered{rule=\"rules[1] public.\\\"Or\\\\ders\\\"\"} 0",
            "coherd_target_up{target=\"cache\"} 1",
            "coherd_pending_keys{target=\"cache\"} 7",
            concat!("coherd_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
            "# EOF",
        ] {
            assert!(text.lines().any(|its| its == line), "{line} is missing in\n{text}");
        }
        assert!(text.contains("\ncoherd_last_message_age_seconds "), "{text}");
    }

    #[test]
    fn a_handle_taken_twice_counts_in_one_place() {
        let metrics = Metrics::new(&Board::new("s", "p", [("cache", "redis")]));
        metrics.target("cache").delete.inc();
        metrics.target("cache").delete.inc();
        assert_eq!(metrics.target("cache").delete.get(), 2);
    }
}
