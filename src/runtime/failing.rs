//! What a failure of the stream means.

use tokio::time::Instant;

use super::Pipeline;
use crate::core::OnGap;
use crate::core::continuity::Failed;
use crate::postgres::{ErrorKind, Source, SourceError};

/// The `reason` of the gap that a new slot leaves, which begins after what cannot be decoded.
const LOG_NOT_DECODABLE: &str = "log_not_decodable";

impl<S: Source + 'static> Pipeline<S> {
    /// Where decoding has failed at one position for long, that is a gap: only a new slot gets past it. What this process
    /// cannot make sense of at one position counts as well: the server may have a fault, and it would send the same again.
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
