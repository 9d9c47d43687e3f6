//! Reports on the source: whether coherd follows its log, and whether it answers queries outside the stream.

use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::Spell;
use crate::admin::metrics::Metrics;
use crate::admin::status::{Board, State};
use crate::backoff::is_worth_a_line;
use crate::core::Opening;
use crate::postgres::{ErrorKind, SourceError};
use crate::types::lsn::Lsn;
use crate::types::observation::Observation;
use crate::types::server::System;

pub(crate) struct Source {
    board: Board,
    metrics: Metrics,
    /// Why the last attempt to follow the log failed, and how many failed in a row for that reason.
    away: (String, u32),
    standby: Spell,
    unwatched: Spell,
    unprobed: Spell,
}

impl Source {
    pub(crate) fn new(board: &Board, metrics: &Metrics) -> Source {
        let [standby, unwatched, unprobed] = [Spell::default(); 3];
        Source {
            board: board.clone(),
            metrics: metrics.clone(),
            away: Default::default(),
            standby,
            unwatched,
            unprobed,
        }
    }

    /// The server reports that its log reaches `position`.
    pub(crate) fn heard(&self, position: Lsn) {
        self.board.heard(position);
    }

    /// The log cannot be followed; the next attempt comes after `pause`.
    pub(crate) fn away(&mut self, error: &SourceError, pause: Duration) {
        let (reason, pause) = (error.to_string(), pause.as_millis());
        if error.kind() == ErrorKind::Busy {
            if self.standby.begins() {
                info!("standing by, to take over when the other instance ends: {reason}");
            }
            self.away = Default::default();
            return self.board.enter(State::Standby { reason });
        }
        let times = if self.away.0 == reason { self.away.1.saturating_add(1) } else { 1 };
        match error.kind() {
            // Logged once, because `/readyz` reports it for as long as it lasts.
            ErrorKind::Synchronous if times > 1 => {}
            ErrorKind::Synchronous => error!(
                "not following the log, because writers would wait for coherd; checking again every few seconds: {reason}"
            ),
            // The error's text says what coherd does next.
            ErrorKind::NotDecodable { .. } if is_worth_a_line(times) => warn!("{reason}"),
            ErrorKind::NotDecodable { .. } => debug!("{reason}"),
            _ if is_worth_a_line(times) => warn!("cannot follow the log, retrying in {pause} ms: {reason}"),
            _ => debug!("cannot follow the log, retrying in {pause} ms: {reason}"),
        }
        self.reconnecting(reason, times);
    }

    fn reconnecting(&mut self, reason: String, times: u32) {
        self.standby.ends();
        self.away = (reason.clone(), times);
        self.board.enter(State::Reconnecting { reason });
    }

    /// coherd closes a stream that has not failed, and opens it again after `pause`.
    pub(crate) fn reopens(&mut self, reason: String, pause: Duration) {
        warn!("closed the stream, reopening it in {} ms: {reason}", pause.as_millis());
        self.reconnecting(reason, 1);
    }

    pub(crate) fn parked(&mut self) {
        let reason = "every target is behind; closed the stream until one of them has room. The slot keeps the log";
        warn!("{reason}");
        self.reconnecting(reason.to_owned(), 1);
    }

    /// The stream is open. If it failed before (`has_failed`), it counts as followed only when it has passed the
    /// position of the failure.
    pub(crate) fn streaming(&mut self, opening: &Opening, has_failed: bool) {
        let Opening { system: System { id, timeline, wal_end, .. }, start, .. } = *opening;
        self.board.seen(id, timeline, wal_end);
        if !has_failed {
            info!(%start, %wal_end, timeline, "following the log");
            self.followed();
        }
    }

    pub(crate) fn streams_on(&mut self) {
        info!("following the log again, past the position that could not be decoded");
        self.followed();
    }

    fn followed(&mut self) {
        self.standby.ends();
        self.away = Default::default();
        self.board.enter(State::Streaming);
    }

    /// The stream has a gap, which affects every target.
    pub(crate) fn gap(&self, reason: &'static str, text: &str) {
        error!(reason, "{text}");
        self.metrics.gap(reason);
        self.board.gap(reason, text.to_owned());
    }

    pub(crate) fn watched(&mut self, observation: &Observation) {
        self.board.held_by(observation.holder.as_deref());
        self.board.observed(observation.wal, observation.catalogue_at);
        if self.unwatched.ends() {
            info!("the catalogue can be read again");
        }
    }

    /// coherd cannot read the catalogue. The stream may still run.
    pub(crate) fn unwatched(&mut self, error: &SourceError) {
        let fault = error.to_string();
        self.board.unwatched(&fault);
        if self.unwatched.begins() {
            warn!("cannot read the catalogue, retrying every few seconds: {fault}");
        } else {
            debug!("cannot read the catalogue: {fault}");
        }
    }

    pub(crate) fn probed(&mut self) {
        self.board.probed();
        if self.unprobed.ends() {
            info!("commit visibility can be checked again");
        }
    }

    /// coherd cannot check commit visibility. The stream may still run.
    pub(crate) fn unprobed(&mut self, error: &SourceError) {
        let fault = error.to_string();
        self.board.unprobed(&fault);
        if self.unprobed.begins() {
            warn!(
                "cannot check commit visibility, retrying. coherd sends early invalidations and repeats them later. Nothing \
                 settles until it can check again: {fault}"
            );
        } else {
            debug!("cannot check commit visibility: {fault}");
        }
    }

    pub(crate) fn draining(&self) {
        info!("stopping: delivering what has been read");
        self.board.enter(State::Draining);
    }

    /// `unconfirmed` is the number of unconfirmed deliveries; `None` if everything is confirmed.
    pub(crate) fn drained(&self, unconfirmed: Option<u64>) {
        self.board.turned();
        match unconfirmed {
            None => info!("stopped; everything that was read is confirmed"),
            Some(deliveries) => {
                warn!("stopped; unconfirmed deliveries: {deliveries}. coherd sends them again at the next start");
            }
        }
    }
}
