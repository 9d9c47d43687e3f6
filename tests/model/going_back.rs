//! The cache goes back to an earlier state.

use super::setup::{Broken, Setup};
use super::system::State;
use super::world::{Cache, Writer, position};

impl Setup {
    /// Replaces the cache with its earlier state. Readers may then know only what its record says.
    pub(super) fn roll_back(&self, state: &mut State) -> Option<()> {
        state.cache = Cache { writer: Writer::Earlier, ..state.snapshot.clone()? };
        state.rolls_back_left -= 1;
        if state.rolls_back_left == 0 {
            state.snapshot = None;
        }
        state.is_swapped = true;
        state.strays.clear();
        state.is_attested_wrongly = true;
        state.promised = position(state.cache.record.settled);
        if self.is(Broken::NoRepair) {
            (state.is_swapped, state.is_attested_wrongly) = (false, false);
        } else if !self.silently {
            state.daemon.fails(self, true);
        }
        Some(())
    }
}
