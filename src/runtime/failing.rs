//! What a failure of the stream means.

use tokio::time::Instant;

use super::Pipeline;
use crate::core::OnGap;
use crate::core::continuity::Failed;
use crate::postgres::{Source, SourceError};

/// The `reason` of the gap that a new slot leaves, which begins after what cannot be decoded.
const LOG_NOT_DECODABLE: &str = "log_not_decodable";

impl<S: Source + 'static> Pipeline<S> {
    /// Where decoding has failed at one position for long, that is a gap: only a new slot gets past it. What this process
    /// cannot make sense of at one position counts as well: the server may have a fault, and it would send the same again.
    pub(super) fn failed_for_good(&mut self, error: SourceError) -> SourceError {
        let (at, text) = match error {
            SourceError::NotDecodable { at, text } => (at, text),
            SourceError::Protocol(text) => (None, text),
            SourceError::Lost(_)
            | SourceError::Busy(_)
            | SourceError::Gap(_)
            | SourceError::Refused(_)
            | SourceError::Pooler(_)
            | SourceError::Synchronous(_) => return error,
        };
        let what_then = match self.settings.policy.on_gap {
            OnGap::Flush => "coherd creates a new slot and flushes every scope",
            OnGap::Halt => "coherd creates a new slot and halts every target (on_gap: halt)",
        };
        match self.core.decoding_failed(at, Instant::now().into_std()) {
            (at, Failed::TryAgain(patience)) => SourceError::NotDecodable {
                at: Some(at),
                text: format!(
                    "cannot decode the log at {at}: {text} coherd retries for {} s; then {what_then}",
                    patience.as_secs()
                ),
            },
            (at, Failed::ForGood { times, lasted }) => {
                let text = format!(
                    "cannot decode the log at {at}, in {times} attempts over {} s: {text} Now {what_then}",
                    lasted.as_secs()
                );
                self.observer.source_gap(LOG_NOT_DECODABLE, &text);
                SourceError::Gap(text)
            }
        }
    }
}
