//! The slot goes on without a target that holds it back for too long.

use super::gathering::push_scopes;
use super::pending::{Pending, Stage};
use super::{Core, just_before};
use crate::lsn::Lsn;
use crate::observation::HeldWal;

impl Core {
    /// The targets for which something waits, that have come less far since the last look than the log, and that hold back
    /// at least half of what the slot does: another part of it may be held back by a transaction that runs for long.
    pub(super) fn laggards(&mut self, held: &HeldWal) -> Vec<usize> {
        let end = held.end;
        let grown = self.log_end.replace(end).map(|before| end.bytes_since(before));
        let mut laggards = Vec::new();
        for index in 0..self.targets.len() {
            let held_at = self.held_by(index);
            let Some(target) = self.targets.get_mut(index) else { continue };
            let before = std::mem::replace(&mut target.held_at, held_at);
            if let (Some(grown), Some(before), Some(now)) = (grown, before, held_at)
                && now.bytes_since(before) < grown
                && end.bytes_since(now) >= held.retained / 2
            {
                laggards.push(index);
            }
        }
        laggards
    }

    /// The slot goes on without the target, which therefore misses something. Its scopes stand in for everything that it
    /// was still to be sent, and for everything to come. Its watermarks stay where they are, and its record will prove the
    /// gap: nothing is acknowledged that is not past every record that the target may hold. `found` is the furthest record
    /// that it may have had before this process came.
    pub(super) fn suspend(&mut self, index: usize, found: Lsn) {
        let rules = self.rules_of(index, |_| true);
        let decoded = self.decoded;
        let Some(target) = self.targets.get_mut(index) else { return };
        let since = Some(target.since(decoded));
        let mut all = Pending { since, last: just_before(decoded), repairs: true, ..Pending::default() };
        for pending in target.pendings_mut() {
            // The scopes stand in for all but manual keys.
            let _replaced = pending.batch.coarsen(|_| &[]);
            all.join(&std::mem::take(pending));
        }
        target.awaiting_replay.clear();
        target.repeats.clear();
        push_scopes(&rules, &self.routes, &mut all.batch);
        // How long they waited says nothing of how fast a commit is invalidated.
        all.oldest = None;
        *target.stage(Stage::Ready) = all;
        target.suspended.get_or_insert(target.sent.max(found));
        self.touch(&rules, decoded);
    }
}
