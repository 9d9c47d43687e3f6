//! The status as JSON: what `/status` returns and `coherd status` reads.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Event, ReplicaStatus, RuleStatus, SettledCommit, Status, TargetStatus, readiness};
use crate::core::Watermarks;
use crate::transaction::Made;

/// Positions are text as Postgres prints them; times are milliseconds since 1970 or seconds of duration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// The daemon's version.
    pub version: String,
    /// `starting`, `streaming`, `standby`, `reconnecting` or `draining`.
    pub state: String,
    /// The reason, if the state has one.
    pub reason: Option<String>,
    /// When this state began.
    pub since_ms: u64,
    /// Whether `/readyz` says that the daemon is ready.
    pub ready: bool,
    /// Why it is not ready; empty if it is.
    pub not_ready: Vec<String>,
    /// The slot's name.
    pub slot: String,
    /// The publication's name.
    pub publication: String,
    /// The system identifier; text, because it does not fit a JSON number.
    pub system_id: Option<String>,
    /// The timeline.
    pub timeline: Option<u32>,
    /// How far each stage has come.
    pub watermarks: WatermarksView,
    /// The furthest log position that the server has reported.
    pub wal_end: String,
    /// Bytes of log that have not settled.
    pub lag_bytes: u64,
    /// How long settled has been behind the end of the log.
    pub lag_seconds: f64,
    /// How long the server has been silent; null if it never sent anything.
    pub last_message_age_seconds: Option<f64>,
    /// Time since the last look at the slot; null before the first.
    pub last_look_age_seconds: Option<f64>,
    /// Age of what is known about the catalogue. With many tables, or while the log grows fast, coherd looks at the
    /// catalogue less often than at the slot.
    pub catalogue_age_seconds: Option<f64>,
    /// Bytes of log that the slot held back at the last look; null without a slot.
    pub slot_retained_bytes: Option<u64>,
    /// Bytes that could still be written at that look before the slot is lost; null without `max_slot_wal_keep_size`.
    pub safe_wal_size: Option<u64>,
    /// In the order of the configuration.
    pub targets: Vec<TargetView>,
    /// In the order of the configuration.
    pub replicas: Vec<ReplicaView>,
    /// Why coherd cannot check commit visibility; null while it can.
    pub probe_fault: Option<String>,
    /// In the order of the configuration.
    pub rules: Vec<RuleView>,
    /// The last gaps, oldest first.
    pub gaps: Vec<EventView>,
    /// The last flushes, oldest first.
    pub flushes: Vec<EventView>,
    /// The last resends, in which coherd sent a target from memory what it had lost; oldest first.
    pub resends: Vec<EventView>,
    /// The last settled commits with keys, oldest first. Only a sample, if there are many.
    #[serde(default)]
    pub commits: Vec<CommitView>,
}

/// A commit that has settled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommitView {
    /// The end of its commit record.
    pub lsn: String,
    /// The tables of rules that it wrote to; empty for a manual invalidation.
    pub tables: Vec<String>,
    /// Number of keys, each counted as often as a row made it.
    pub keys: u64,
    /// Time from the commit, by the server's clock, until it settled, by the daemon's clock.
    pub seconds: f64,
}

/// The four watermarks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatermarksView {
    /// Read from the log.
    pub decoded: String,
    /// Visible to new snapshots.
    pub visible: String,
    /// Confirmed by every target.
    pub applied: String,
    /// Readers may rely on it.
    pub settled: String,
}

/// One target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "fields of the JSON that people and programs read")]
pub struct TargetView {
    /// Name in the configuration.
    pub name: String,
    /// Kind, e.g. `redis`.
    pub kind: String,
    /// Whether it confirms deliveries.
    pub up: bool,
    /// The last fault; null while the target is up.
    pub fault: Option<String>,
    /// The target may have missed changes and receives nothing until a person decides (`on_gap: halt`).
    pub halted: bool,
    /// Another coherd, which follows another database, writes this target's record, so coherd sends nothing.
    #[serde(default)]
    pub record_taken: bool,
    /// The slot goes on without the target, to keep the log within `wal_budget`; coherd flushes the target when it is
    /// back.
    pub suspended: bool,
    /// When it last came up or went down.
    pub since_ms: u64,
    /// What it has confirmed without a gap.
    pub applied: String,
    /// Keys that wait for the target.
    pub pending_keys: u64,
    /// Deliveries that are sent and not confirmed.
    pub in_flight: u64,
    /// Deliveries that were sent again since the daemon's start.
    pub retries: u64,
}

/// One replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaView {
    /// `user@host:port/database`.
    pub name: String,
    /// Everything before this position is replayed there; null before its first answer, and while it is not a standby.
    pub replayed: Option<String>,
    /// Why coherd cannot query it; null while it can.
    pub fault: Option<String>,
    /// Why settled does not wait for it; null while it does.
    pub left: Option<String>,
    /// Whether readers may fill caches from it.
    pub held: bool,
    /// When coherd last started or stopped waiting for it.
    pub since_ms: u64,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleView {
    /// Its place in the configuration, or its name, and its table: `rules[2] public.users`.
    pub rule: String,
    /// Whether every change that concerns it is in the stream.
    pub covered: bool,
    /// Why it is not covered, and what fixes that; null if it is covered.
    pub reason: Option<String>,
}

/// A gap, a flush or a resend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// When it happened.
    pub at_ms: u64,
    /// The `reason` label of its metric.
    pub reason: String,
    /// What happened.
    pub text: String,
}

impl View {
    /// The status as it is at `now`.
    pub fn of(status: &Status, now: Instant, ready_max_lag: Duration) -> View {
        let not_ready = readiness(status, now, ready_max_lag).err().unwrap_or_default();
        View {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: status.state.name().to_owned(),
            reason: status.state.reason().map(str::to_owned),
            since_ms: millis(status.since),
            ready: not_ready.is_empty(),
            not_ready,
            slot: status.slot.clone(),
            publication: status.publication.clone(),
            system_id: status.system_id.map(|id| id.to_string()),
            timeline: status.timeline,
            watermarks: WatermarksView::of(&status.watermarks),
            wal_end: status.wal_end.to_string(),
            lag_bytes: status.lag_bytes(),
            lag_seconds: status.lag(now).as_secs_f64(),
            last_message_age_seconds: status.silence(now).as_ref().map(Duration::as_secs_f64),
            last_look_age_seconds: status.look_age(now).as_ref().map(Duration::as_secs_f64),
            catalogue_age_seconds: status.catalogue_age(now).as_ref().map(Duration::as_secs_f64),
            slot_retained_bytes: status.held.map(|held| held.retained),
            safe_wal_size: status.held.and_then(|held| held.safe),
            targets: status.targets.iter().map(TargetView::of).collect(),
            replicas: status.replicas.iter().map(ReplicaView::of).collect(),
            probe_fault: status.probe_fault.clone(),
            rules: status.rules.iter().map(RuleView::of).collect(),
            gaps: status.gaps.iter().map(EventView::of).collect(),
            flushes: status.flushes.iter().map(EventView::of).collect(),
            resends: status.resends.iter().map(EventView::of).collect(),
            commits: status.commits.iter().map(|commit| CommitView::of(commit, &status.tables)).collect(),
        }
    }
}

impl WatermarksView {
    /// The watermarks as text.
    pub fn of(watermarks: &Watermarks) -> WatermarksView {
        WatermarksView {
            decoded: watermarks.decoded.to_string(),
            visible: watermarks.visible.to_string(),
            applied: watermarks.applied.to_string(),
            settled: watermarks.settled.to_string(),
        }
    }
}

impl TargetView {
    /// The state as one word, for people.
    pub fn state(&self) -> &'static str {
        match self {
            TargetView { halted: true, .. } => "halted",
            TargetView { record_taken: true, .. } => "refused",
            TargetView { suspended: true, .. } => "suspended",
            TargetView { up: true, .. } => "up",
            TargetView { up: false, .. } => "down",
        }
    }

    fn of(target: &TargetStatus) -> TargetView {
        TargetView {
            name: target.name.clone(),
            kind: target.kind.clone(),
            up: target.up,
            fault: target.fault.clone(),
            halted: target.halted.is_some(),
            record_taken: target.taken.is_some(),
            suspended: target.suspended.is_some(),
            since_ms: millis(target.since),
            applied: target.applied.to_string(),
            pending_keys: target.pending_keys,
            in_flight: target.in_flight,
            retries: target.retries,
        }
    }
}

impl ReplicaView {
    fn of(replica: &ReplicaStatus) -> ReplicaView {
        ReplicaView {
            name: replica.name.to_string(),
            replayed: replica.replayed.map(|at| at.to_string()),
            fault: replica.fault.clone(),
            left: replica.left.clone(),
            held: replica.held,
            since_ms: millis(replica.since),
        }
    }
}

impl RuleView {
    fn of(rule: &RuleStatus) -> RuleView {
        RuleView {
            rule: rule.subject.to_string(),
            covered: rule.uncovered.is_none(),
            reason: rule.uncovered.as_deref().map(str::to_owned),
        }
    }
}

impl CommitView {
    fn of(commit: &SettledCommit, names: &[Arc<str>]) -> CommitView {
        let wrote = |place: &usize| commit.made.tables & (1 << place) != 0;
        let places = (0..=Made::TABLES_MAX).filter(wrote);
        let name = |place: usize| match names.get(place) {
            Some(name) if place < Made::TABLES_MAX => name.to_string(),
            _ => "others".to_owned(),
        };
        CommitView {
            lsn: commit.end.to_string(),
            tables: places.map(name).collect(),
            keys: commit.made.keys,
            seconds: commit.took.as_secs_f64(),
        }
    }
}

impl EventView {
    fn of(event: &Event) -> EventView {
        EventView { at_ms: millis(event.at), reason: event.reason.to_owned(), text: event.text.clone() }
    }
}

fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
