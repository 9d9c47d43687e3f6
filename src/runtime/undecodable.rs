//! Turns a failure to decode the log that `core::continuity::stuck` calls permanent into a gap: only a new slot gets past
//! it.

use tokio::time::Instant;

use super::Pipeline;
use crate::core::OnGap;
use crate::core::continuity::Failed;
use crate::postgres::{ErrorKind, Source, SourceError};

/// The `reason` of the gap that a new slot leaves: it begins after the log that cannot be decoded.
const LOG_NOT_DECODABLE: &str = "log_not_decodable";

impl<S: Source + 'static> Pipeline<S> {
    /// Turns `error` into a gap if decoding has failed at the same position for too long: only a new slot gets past it.
    /// A protocol error counts too, because a server with a fault would send the same message again.
    pub(super) fn failed_for_good(&mut self, error: SourceError) -> SourceError {
        let at = match error.kind() {
            ErrorKind::NotDecodable { at } => at,
            ErrorKind::Protocol => None,
            ErrorKind::Lost
            | ErrorKind::Busy
            | ErrorKind::Gap
            | ErrorKind::Refused
            | ErrorKind::Pooler
            | ErrorKind::Synchronous => return error,
        };
        let what_then = match self.settings.policy.on_gap {
            OnGap::Flush => "coherd creates a new slot and flushes every scope",
            OnGap::Halt => "coherd creates a new slot and halts every target (on_gap: halt)",
        };
        match self.core.decoding_failed(at, Instant::now().into_std()) {
            (at, Failed::TryAgain(patience)) => {
                let kind = ErrorKind::NotDecodable { at: Some(at) };
                let then = format!("coherd retries for {} s; then {what_then}", patience.as_secs());
                SourceError::new(kind, format!("cannot decode the log at {at}")).caused_by(error).remedy(then)
            }
            (at, Failed::ForGood { times, lasted }) => {
                let lasted = lasted.as_secs();
                let gap = format!("cannot decode the log at {at}, in {times} attempts over {lasted} s");
                let gap = SourceError::gap(gap).caused_by(error).remedy(format!("Now {what_then}"));
                self.observer.source.gap(LOG_NOT_DECODABLE, &gap.to_string());
                gap
            }
        }
    }
}
