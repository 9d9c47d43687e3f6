//! A target whose record another coherd writes as well.

use std::time::Instant;

use super::Pipeline;
use super::judging::Asking;
use crate::continuity::Shared;
use crate::source::Source;

impl<S: Source + 'static> Pipeline<S> {
    /// Whether nobody else writes the target's record, as far as can be seen. Where somebody does, nothing is sent: the
    /// answer is dropped, so that the worker asks again.
    pub(super) fn has_record_alone(&mut self, asking: &Asking, system_id: u64) -> bool {
        let (lane, slot) = (asking.lane, self.recorder.slot());
        let Some(stranger) = self.strangers.get_mut(lane) else { return true };
        match stranger.read(&asking.recollection, system_id, &slot, Instant::now()) {
            Shared::Free => {
                self.recorder.record_is_free(lane);
                true
            }
            Shared::Watch => false,
            Shared::Taken(other) => {
                let text =
                    format!("another coherd writes its record, for {other}; this one follows {system_id}, slot {slot}");
                self.recorder.record_is_taken(lane, text);
                false
            }
        }
    }
}
