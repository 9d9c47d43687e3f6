//! What the pipeline tells people: log, status board, metrics. Nothing here decides anything.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::histogram::Histogram;
use tracing::{debug, error, info, warn};

use super::lanes::Lanes;
use crate::by_hand::UnreadableOrder;
use crate::continuity::Anew;
use crate::invalidation::{Action, Batch, RuleId};
use crate::ledger::Watermarks;
use crate::lsn::Lsn;
use crate::metrics::{Metrics, TableCounters, TargetMetrics};
use crate::observation::Observation;
use crate::pgoutput::PgTime;
use crate::rules::config::Rule;
use crate::source::{Seen, SourceError};
use crate::status::{Board, State};
use crate::table::TableName;
use crate::target::{Delivered, Fault};
use crate::transaction::{Op, Reader, tables_of};

/// How often the board hears of targets whose watermark stands still.
const TELL_PACE: Duration = Duration::from_millis(100);

/// Tells what happens.
pub struct Recorder {
    board: Board,
    metrics: Metrics,
    targets: Vec<(Arc<str>, TargetMetrics)>,
    tables: Vec<TableCounters>,
    subjects: Vec<String>,
    commit_to_applied: Histogram,
    told: Watermarks,
    told_at: Instant,
}

impl Recorder {
    /// For `targets`, in the order of their lanes, and the tables that `rules` name.
    pub fn new(board: Board, metrics: Metrics, targets: &[Arc<str>], rules: &[Rule]) -> Self {
        let tables: Vec<TableName> = tables_of(rules);
        Recorder {
            targets: targets.iter().map(|name| (Arc::clone(name), metrics.target(name))).collect(),
            tables: tables.iter().map(|table| metrics.table(table)).collect(),
            subjects: rules.iter().map(Rule::subject).collect(),
            commit_to_applied: metrics.commit_to_applied(),
            board,
            metrics,
            told: Watermarks::default(),
            told_at: Instant::now(),
        }
    }

    fn name(&self, lane: usize) -> &str {
        self.targets.get(lane).map_or("?", |(name, _)| name)
    }

    /// The loop has turned once.
    pub(super) fn turned(&mut self, reader: &mut Reader, lanes: &Lanes) {
        reader.take_counts(|table, op, n| {
            let Some(counters) = self.tables.get(table) else { return };
            let counter = match op {
                Op::Insert => &counters.insert,
                Op::Update => &counters.update,
                Op::Delete => &counters.delete,
                Op::Truncate => &counters.truncate,
            };
            counter.inc_by(n);
        });
        let watermarks = lanes.ledger.watermarks();
        if watermarks == self.told && self.told_at.elapsed() < TELL_PACE {
            return self.board.turned();
        }
        (self.told, self.told_at) = (watermarks, Instant::now());
        self.board.moved(watermarks);
        for lane in 0..lanes.len() {
            let (pending, in_flight) = lanes.waiting(lane);
            self.board.target(lane, |target| {
                target.applied = lanes.ledger.applied(lane);
                target.pending_keys = pending;
                target.in_flight = in_flight;
            });
        }
    }

    /// The server says that its log reaches `position`.
    pub(super) fn heard(&mut self, position: Lsn) {
        self.board.heard(position);
    }

    pub(super) fn streaming(&mut self, seen: &Seen, start: Lsn) {
        info!(%start, wal_end = %seen.wal_end, timeline = seen.timeline, "following the log");
        self.board.seen(seen.system_id, seen.timeline, seen.wal_end);
        self.board.enter(State::Streaming);
    }

    pub(super) fn source_away(&mut self, error: &SourceError, pause: Duration) {
        let reason = error.to_string();
        if let SourceError::Busy(_) = error {
            if self.board.status().state.name() != "standby" {
                info!("{reason}: standing by, to take over when it goes");
            }
            self.board.enter(State::Standby { reason });
        } else {
            warn!("{reason}; trying again in {} ms", pause.as_millis());
            self.board.enter(State::Reconnecting { reason });
        }
    }

    pub(super) fn parked(&mut self) {
        let reason = "every target is behind; Postgres keeps the log until one of them has room".to_owned();
        warn!("{reason}");
        self.board.enter(State::Reconnecting { reason });
    }

    pub(super) fn delivered(&mut self, lane: usize, batch: &Batch, delivered: Delivered) {
        let Some((_, metrics)) = self.targets.get(lane) else { return };
        let counters =
            [(Action::Delete, &metrics.delete), (Action::Bump, &metrics.bump), (Action::Publish, &metrics.publish)];
        for ((_, counter), n) in counters.iter().zip(batch.counts(counters.map(|(action, _)| action))) {
            counter.inc_by(n);
        }
        metrics.hit.inc_by(delivered.hit);
    }

    /// Every delivery counts once, by the oldest commit in it.
    pub(super) fn applied(&mut self, oldest_commit: Option<PgTime>) {
        let Some(committed) = oldest_commit.and_then(|time| u64::try_from(time.unix_micros()).ok()) else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let took = now.saturating_sub(Duration::from_micros(committed));
        self.commit_to_applied.observe(took.as_secs_f64());
    }

    pub(super) fn target_down(&mut self, lane: usize, fault: &Fault, attempts: u32) {
        if let Some((_, metrics)) = self.targets.get(lane) {
            metrics.retries(fault.kind.reason()).inc();
        }
        self.board.target(lane, |target| {
            target.is_down(&fault.message);
            target.retries += 1;
        });
        // Every attempt would flood the log; the doubling ones still show that it goes on.
        if attempts.is_power_of_two() {
            warn!(to = self.name(lane), attempts, "{fault}; nothing is lost, it is tried again");
        } else {
            debug!(to = self.name(lane), attempts, "{fault}");
        }
    }

    pub(super) fn target_up(&mut self, lane: usize) {
        info!(to = self.name(lane), "the target is up");
        self.board.target(lane, crate::status::TargetStatus::is_up);
    }

    /// Why nothing can go on.
    pub(super) fn worker_ended(&self, lane: usize) -> String {
        format!(
            "the worker of target {} has ended, which is a bug in coherd; start it again: nothing is lost, and what is \
             not confirmed is sent again",
            self.name(lane)
        )
    }

    pub(super) fn first_start(&mut self, lane: usize) {
        info!(to = self.name(lane), "first start: what is in the target is trusted (on_first_start: keep)");
    }

    pub(super) fn gap(&mut self, lane: usize, reason: &'static str, text: &str) {
        let text = format!("{}: {text}", self.name(lane));
        self.metrics.gap(reason);
        self.board.gap(reason, text);
    }

    pub(super) fn flushing(&mut self, lane: usize, reason: &'static str, text: &str) {
        warn!(to = self.name(lane), reason, "{text}; flushing every scope of its rules");
        self.metrics.flushed(reason);
        self.board.flushed(reason, format!("{}: {text}", self.name(lane)));
    }

    pub(super) fn halted_target(&mut self, lane: usize, text: &str) {
        let subject = format!("target {}", self.name(lane));
        self.halted(&subject, text);
    }

    pub(super) fn halted(&mut self, subject: &str, text: &str) {
        let advice = "on_gap is halt: set it to flush and start coherd again, and the caches are flushed";
        let reason = format!("{subject}: {text}; {advice}");
        error!("{reason}");
        self.board.enter(State::Halted { reason });
    }

    pub(super) fn unreadable(&mut self, unreadable: &UnreadableOrder) {
        error!("{unreadable} Every scope of every rule is flushed in its place");
        self.metrics.flushed("unreadable_order");
        self.board.flushed("unreadable_order", unreadable.to_string());
    }

    pub(super) fn draining(&mut self) {
        info!("shutting down: delivering what has been read");
        self.board.enter(State::Draining);
    }

    pub(super) fn drained(&mut self, all: bool) {
        self.board.turned();
        if all {
            info!("everything that was read is confirmed");
        } else {
            warn!("not everything is confirmed; it is sent again at the next start");
        }
    }

    /// The server was watched.
    pub(super) fn observed(&mut self, observation: &Observation) {
        self.board.turned();
        debug!(held = ?observation.wal, "watched");
    }

    /// Changes that concern the rule may not be in the stream; `text` says why and what mends it.
    pub(super) fn uncovered(&mut self, rule: RuleId, text: &str) {
        self.board.turned();
        error!(rule = rule.0, "{text}");
    }

    /// Every change that concerns the rule is in the stream again.
    pub(super) fn covered(&mut self, rule: RuleId) {
        self.board.turned();
        info!(rule = rule.0, "covered again");
    }

    /// The slot goes on without the target, to keep the server's disk from filling up.
    pub(super) fn given_up(&mut self, lane: usize, text: &str) {
        self.gap(lane, "wal_budget", text);
    }

    /// A target that was given up is brought along again.
    pub(super) fn taken_back(&mut self, lane: usize) {
        info!(to = self.name(lane), "taken back");
    }

    /// A target that went back in time is sent again, from memory, what it has lost.
    pub(super) fn resent(&mut self, lane: usize, reason: &'static str, text: &str) {
        warn!(to = self.name(lane), reason, "{text}; sent again from memory");
    }

    /// The server could not be watched.
    pub(super) fn unwatched(&mut self, error: &SourceError) {
        self.board.turned();
        warn!("the server's catalogue and slot cannot be watched: {error}");
    }

    /// Nothing that this process knows counts any more.
    pub(super) fn anew(&mut self, why: Anew) {
        self.board.turned();
        warn!("{why}; every target is compared with the server anew");
    }

    /// Keys named by hand went with a target that is given up.
    pub(super) fn lost_by_hand(&mut self, keys: u64) {
        self.board.turned();
        error!(
            keys,
            "more keys were named by hand than fit in memory for a target that is given up (source.wal_budget): those \
             outside of the rules' scopes have to be named again when it is back"
        );
    }

    /// How findings and logs call a rule.
    pub(super) fn subject(&self, rule: RuleId) -> String {
        self.subjects.get(usize::from(rule.0)).cloned().unwrap_or_default()
    }
}
