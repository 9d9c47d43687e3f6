//! What the pipeline tells people: log, status board, metrics. Nothing here decides anything.

mod events;
mod ignored;
mod overflow;
mod probes;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus_client::metrics::histogram::Histogram;
use tracing::{debug, error, info, warn};

use super::Settings;
use crate::admin::metrics::{Metrics, TableCounters, TargetMetrics};
use crate::admin::status::{Board, COMMITS_MAX, Sample, SettledCommit, State, Unsettled};
use crate::backoff::{Throttle, is_worth_a_line};
use crate::core::{Core, Watermarks};
use crate::pgoutput::PgTime;
use crate::postgres::{ErrorKind, SourceError};
use crate::rules::config::Rule;
use crate::targets::{Delivered, Fault, Replaced};
use crate::transaction::manual::UnreadableManual;
use crate::transaction::{Made, Op, Reader, tables_of};
use crate::types::invalidation::{Action, Batch, RuleId};
use crate::types::lsn::{CommitLsn, Lsn};
use crate::types::observation::Observation;
use crate::types::table::TableName;
use ignored::Ignored;
use overflow::{Limit, OVERFLOW_PACE};

/// How often the board hears of targets whose watermark stands still.
const TELL_PACE: Duration = Duration::from_millis(100);

/// How often it is told that a message of ours could not be read.
const UNREADABLE_PACE: Duration = Duration::from_secs(10);

/// Tells what happens.
pub struct Observer {
    board: Board,
    metrics: Metrics,
    targets: Vec<(Arc<str>, TargetMetrics)>,
    tables: Vec<TableCounters>,
    /// [`Rule::subject`] of every rule, by its id.
    rules: Vec<Arc<str>>,
    commit_to_applied: Histogram,
    commit_to_settled: Histogram,
    /// The last commit of this turn.
    commit: Option<Sample>,
    unsettled: Unsettled,
    /// The last ones of those that have settled, oldest first, and whether the board knows them.
    settled: (VecDeque<SettledCommit>, bool),
    told: Watermarks,
    told_at: Instant,
    /// Messages that could not be read and were not told.
    unreadable: (Throttle, u64),
    ignored: Ignored,
    /// Attempts to reach the source that have failed in a row for the same reason.
    away: u32,
    /// Keys that became flushes, of all targets together.
    overflow: Throttle,
    /// `limits.max_keys_per_transaction` and `limits.max_pending_keys`.
    transaction_keys_max: u64,
    pending_keys_max: usize,
    /// Of which target and rule it was told that something else stood at its keys. At most all of them.
    told_replaced: HashSet<(usize, String)>,
}

impl Observer {
    /// For `targets`, in the order of their numbers, and the tables that `rules` name.
    pub fn new(board: Board, metrics: Metrics, targets: &[Arc<str>], rules: &[Rule]) -> Self {
        let tables: Vec<TableName> = tables_of(rules);
        let rules: Vec<Arc<str>> = rules.iter().map(|rule| rule.subject().into()).collect();
        board.rules(rules.iter().cloned());
        board.tables(tables.iter().map(|table| table.to_string().into()));
        Observer {
            targets: targets.iter().map(|name| (Arc::clone(name), metrics.target(name))).collect(),
            tables: tables.iter().map(|table| metrics.table(table)).collect(),
            commit_to_applied: metrics.commit_to_applied(),
            commit_to_settled: metrics.commit_to_settled(),
            commit: None,
            unsettled: Unsettled::new(),
            settled: (VecDeque::with_capacity(COMMITS_MAX), true),
            rules,
            board,
            metrics,
            told: Watermarks::default(),
            told_at: Instant::now(),
            unreadable: (Throttle::new(UNREADABLE_PACE), 0),
            ignored: Ignored::default(),
            away: 0,
            overflow: Throttle::new(OVERFLOW_PACE),
            transaction_keys_max: u64::MAX,
            pending_keys_max: usize::MAX,
            told_replaced: HashSet::new(),
        }
    }

    /// With the limits of these settings, which it names where they are reached.
    pub(super) fn with_limits(self, settings: &Settings) -> Self {
        let Settings { transaction_keys_max, policy, .. } = *settings;
        Observer { transaction_keys_max, pending_keys_max: policy.pending_keys, ..self }
    }

    fn name(&self, target: usize) -> &str {
        self.targets.get(target).map_or("?", |(name, _)| name)
    }

    pub(super) fn subject(&self, rule: RuleId) -> &str {
        self.rules.get(usize::from(rule.0)).map_or("?", |subject| subject)
    }

    /// The loop has turned once.
    pub(super) fn turned(&mut self, reader: &mut Reader, core: &Core) {
        let mut rows = false;
        reader.take_counts(|table, op, n| {
            rows = true;
            let Some(counters) = self.tables.get(table) else { return };
            let counter = match op {
                Op::Insert => &counters.insert,
                Op::Update => &counters.update,
                Op::Delete => &counters.delete,
                Op::Truncate => &counters.truncate,
            };
            counter.inc_by(n);
        });
        self.ignored(reader.take_ignored());
        let overflowed = reader.take_overflowed();
        if !overflowed.is_empty() {
            for target in 0..core.target_count() {
                let goes_here = |rule: &&RuleId| core.targets_of(**rule).contains(&target);
                let rules: Vec<RuleId> = overflowed.iter().filter(goes_here).copied().collect();
                self.overflowed(target, Limit::Transaction(self.transaction_keys_max), &rules);
            }
        }
        let watermarks = core.watermarks();
        // A server that sends rows without a break sends no keepalive. One look at the clock for all of this turn's rows.
        if rows || watermarks.decoded != self.told.decoded {
            self.board.read();
        }
        self.settled(&watermarks);
        if watermarks == self.told && self.told_at.elapsed() < TELL_PACE {
            return self.board.turned();
        }
        (self.told, self.told_at) = (watermarks, Instant::now());
        if !std::mem::replace(&mut self.settled.1, true) {
            self.board.settled(&self.settled.0);
        }
        self.board.moved(watermarks);
        for target in 0..core.target_count() {
            let (pending, in_flight) = core.waiting(target);
            self.board.target(target, |its| {
                its.applied = core.applied(target);
                its.pending_keys = pending;
                its.in_flight = in_flight;
                its.is_flushing(core.flushing(target));
            });
        }
    }

    /// A commit was read that has invalidated something.
    pub(super) fn committed(&mut self, end: CommitLsn, committed: PgTime, made: Made) {
        self.commit = Some(Sample { end: end.end(), committed, made });
    }

    /// A commit whose keys left while it was still being read may have settled already.
    fn settled(&mut self, watermarks: &Watermarks) {
        if let Some(sample) = self.commit.take() {
            self.unsettled.add(sample);
        }
        let (last, is_known) = &mut self.settled;
        self.unsettled.settled(watermarks, |sample| {
            let Some(took) = since(sample.committed) else { return };
            self.commit_to_settled.observe(took.as_secs_f64());
            if last.len() == COMMITS_MAX {
                last.pop_front();
            }
            last.push_back(SettledCommit { end: sample.end, made: sample.made, took });
            *is_known = false;
        });
    }

    /// The server says that its log reaches `position`.
    pub(super) fn heard(&mut self, position: Lsn) {
        self.board.heard(position);
    }

    pub(super) fn source_away(&mut self, error: &SourceError, pause: Duration) {
        let reason = error.to_string();
        let before = self.board.status().state;
        if error.kind() == ErrorKind::Busy {
            if before.name() != "standby" {
                info!("standing by, to take over when the other instance ends: {reason}");
            }
            self.board.enter(State::Standby { reason });
        } else {
            let again = matches!(&before, State::Reconnecting { reason: its } if *its == reason);
            self.away = if again { self.away.saturating_add(1) } else { 1 };
            if error.kind() == ErrorKind::Synchronous {
                // Once is enough: readiness says the same for as long as it lasts.
                if self.away == 1 {
                    error!(
                        "not following the log, because writers would wait for coherd; checking again every few seconds: {reason}"
                    );
                }
            } else if matches!(error.kind(), ErrorKind::NotDecodable { .. }) {
                // It says itself what comes next.
                if is_worth_a_line(self.away) {
                    warn!("{reason}");
                }
            } else if is_worth_a_line(self.away) {
                warn!("cannot follow the log, retrying in {} ms: {reason}", pause.as_millis());
            } else {
                debug!("cannot follow the log, retrying in {} ms: {reason}", pause.as_millis());
            }
            self.board.enter(State::Reconnecting { reason });
        }
    }

    /// This process closes the stream itself, and opens it again.
    pub(super) fn reopens(&mut self, reason: String, pause: Duration) {
        warn!("closed the stream, reopening it in {} ms: {reason}", pause.as_millis());
        self.away = 1;
        self.board.enter(State::Reconnecting { reason });
    }

    pub(super) fn parked(&mut self) {
        let reason =
            "every target is behind; closed the stream until one of them has room. The slot keeps the log".to_owned();
        warn!("{reason}");
        self.board.enter(State::Reconnecting { reason });
    }

    pub(super) fn delivered(&mut self, target: usize, batch: &Batch, delivered: &Delivered) {
        self.replaced(target, batch, &delivered.replaced);
        let Some((_, metrics)) = self.targets.get(target) else { return };
        let counters =
            [(Action::Delete, &metrics.delete), (Action::Bump, &metrics.bump), (Action::Publish, &metrics.publish)];
        for ((_, counter), n) in counters.iter().zip(batch.counts(counters.map(|(action, _)| action))) {
            counter.inc_by(n);
        }
        metrics.hit.inc_by(delivered.hit);
    }

    /// Something else stood where version pointers should. Once for each rule, whatever the number of its keys.
    fn replaced(&mut self, target: usize, batch: &Batch, Replaced { keys, scopes }: &Replaced) {
        if keys.is_empty() && scopes.is_empty() {
            return;
        }
        let bumps = batch.items().filter(|(_, action, _)| *action == Action::Bump);
        let makers = bumps.enumerate().filter(|(place, _)| keys.contains(place)).map(|(_, (maker, _, _))| maker.rule());
        let rules = makers.map(|rule| rule.map_or("manual keys".to_owned(), |rule| self.subject(rule).to_owned()));
        let flushed = scopes.iter().filter_map(|place| batch.scopes().get(*place));
        let subjects: Vec<String> = rules.chain(flushed.map(|scope| format!("the scope {}", scope.keys))).collect();
        for subject in subjects {
            let name = self.name(target).to_owned();
            if self.told_replaced.insert((target, subject.clone())) {
                warn!(
                    to = name,
                    "{subject}: replaced values at KEY:version that were not version pointers; something else writes these \
                     keys. Logged once"
                );
            }
        }
    }

    pub(super) fn target_down(&mut self, target: usize, fault: &Fault, attempts: u32) {
        if let Some((_, metrics)) = self.targets.get(target) {
            metrics.retries(fault.kind.reason()).inc();
        }
        self.board.target(target, |target| {
            target.is_down(&fault.message);
            target.retries += 1;
        });
        if is_worth_a_line(attempts) {
            warn!(to = self.name(target), attempts, "delivery failed, retrying; nothing is lost: {fault}");
        } else {
            debug!(to = self.name(target), attempts, "delivery failed, retrying: {fault}");
        }
    }

    pub(super) fn target_up(&mut self, target: usize) {
        info!(to = self.name(target), "the target is up");
        self.board.target(target, crate::admin::status::TargetStatus::is_up);
    }

    /// Why nothing can go on.
    pub(super) fn worker_ended(&self, target: usize) -> String {
        format!(
            "the delivery worker of target {} has ended, which is a bug in coherd. Restart coherd: nothing is lost, it sends \
             again what is not confirmed",
            self.name(target)
        )
    }

    /// A gap in the stream, which concerns every target.
    pub(super) fn source_gap(&mut self, reason: &'static str, text: &str) {
        error!(reason, "{text}");
        self.metrics.gap(reason);
        self.board.gap(reason, text.to_owned());
    }

    pub(super) fn slot(&self) -> String {
        self.board.slot()
    }

    pub(super) fn unreadable(&mut self, unreadable: &UnreadableManual) {
        let (throttle, untold) = &mut self.unreadable;
        // Any role can write as many as it likes.
        if throttle.is_due(Instant::now()) {
            error!(untold, "{unreadable} Flushing every scope of every rule instead");
            *untold = 0;
        } else {
            *untold += 1;
        }
        self.metrics.flushed(unreadable.reason());
        self.board.flushed(unreadable.reason(), unreadable.to_string());
    }

    pub(super) fn draining(&mut self) {
        info!("stopping: delivering what has been read");
        self.board.enter(State::Draining);
    }

    /// `unconfirmed`: so many deliveries; `None` where everything is confirmed.
    pub(super) fn drained(&mut self, unconfirmed: Option<u64>) {
        self.board.turned();
        match unconfirmed {
            None => info!("stopped; everything that was read is confirmed"),
            Some(deliveries) => {
                warn!("stopped; unconfirmed deliveries: {deliveries}. coherd sends them again at the next start");
            }
        }
    }

    /// The server was watched.
    pub(super) fn observed(&mut self, observation: &Observation) {
        self.board.held_by(observation.holder.as_deref());
        if self.board.observed(observation.wal, observation.catalogue_at) {
            info!("the catalogue can be read again");
        }
    }

    /// The server could not be watched, though the stream may run.
    pub(super) fn unwatched(&mut self, error: &SourceError) {
        let fault = error.to_string();
        // It is tried every second: one line for a spell.
        if self.board.unwatched(&fault) {
            warn!("cannot read the catalogue, retrying every few seconds: {fault}");
        } else {
            debug!("cannot read the catalogue: {fault}");
        }
    }

    /// What is said of the target when another instance has written its record.
    pub(super) fn overtaken(&self, target: usize) -> String {
        format!(
            "another instance has written the record of target {}, so that instance may hold the slot now",
            self.name(target)
        )
    }
}

/// The time from a commit until now, by the server's clock and ours, never below zero; `None` where it was before 1970.
fn since(committed: PgTime) -> Option<Duration> {
    let committed = u64::try_from(committed.unix_micros()).ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(now.saturating_sub(Duration::from_micros(committed)))
}

#[cfg(test)]
mod tests;
