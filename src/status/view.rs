//! The status as JSON: what `/status` gives and `coherd status` reads.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Event, Status, TargetStatus, readiness};
use crate::ledger::Watermarks;

/// Positions are text as Postgres prints them; times are milliseconds since 1970 or seconds of duration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// The daemon's version.
    pub version: String,
    /// `starting`, `streaming`, `standby`, `reconnecting`, `halted` or `draining`.
    pub state: String,
    /// Why, where the state has a reason.
    pub reason: Option<String>,
    /// Since when it has been in this state.
    pub since_ms: u64,
    /// What `/readyz` says.
    pub ready: bool,
    /// Why it is not ready.
    pub not_ready: Vec<String>,
    /// The slot's name.
    pub slot: String,
    /// The publication's name.
    pub publication: String,
    /// A text, because it does not fit a JSON number.
    pub system_id: Option<String>,
    /// The timeline.
    pub timeline: Option<u32>,
    /// How far each stage has come.
    pub watermarks: WatermarksView,
    /// The furthest position that the server has told.
    pub wal_end: String,
    /// Bytes of log that are not settled.
    pub lag_bytes: u64,
    /// How long settled has been behind.
    pub lag_seconds: f64,
    /// How long the server has been silent; nothing where it never spoke.
    pub last_message_age_seconds: Option<f64>,
    /// In the order of the configuration.
    pub targets: Vec<TargetView>,
    /// The last gaps, oldest first.
    pub gaps: Vec<EventView>,
    /// The last flushes, oldest first.
    pub flushes: Vec<EventView>,
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
pub struct TargetView {
    /// Name in the configuration.
    pub name: String,
    /// Kind.
    pub kind: String,
    /// Whether it confirms deliveries.
    pub up: bool,
    /// The last fault, while it is not up.
    pub fault: Option<String>,
    /// Since when it has been up, or not.
    pub since_ms: u64,
    /// What it has confirmed without a gap.
    pub applied: String,
    /// Keys that wait for it.
    pub pending_keys: u64,
    /// Deliveries on their way to it.
    pub in_flight: u64,
    /// Deliveries sent again since the start.
    pub retries: u64,
}

/// A gap or a flush.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    /// When.
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
            last_message_age_seconds: status.last_message.map(|at| now.saturating_duration_since(at).as_secs_f64()),
            targets: status.targets.iter().map(TargetView::of).collect(),
            gaps: status.gaps.iter().map(EventView::of).collect(),
            flushes: status.flushes.iter().map(EventView::of).collect(),
        }
    }
}

impl WatermarksView {
    /// As text.
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
    fn of(target: &TargetStatus) -> TargetView {
        TargetView {
            name: target.name.clone(),
            kind: target.kind.clone(),
            up: target.up,
            fault: target.fault.clone(),
            since_ms: millis(target.since),
            applied: target.applied.to_string(),
            pending_keys: target.pending_keys,
            in_flight: target.in_flight,
            retries: target.retries,
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
