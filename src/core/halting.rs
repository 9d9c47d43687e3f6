//! Halts targets that have a gap (`on_gap: halt`), and releases them after `coherd flush`.

use std::collections::BTreeSet;
use std::time::Instant;

use super::target::Mode;
use super::{Core, Event, Output, Why, goes_to};
use crate::types::record::StoredRecord;
use crate::types::table::TableName;

/// What a halted target waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Halt {
    /// The tables that still have to be flushed manually; `None` if none is left.
    left: Option<BTreeSet<TableName>>,
    /// Its stored record, while its worker waits for an answer.
    pub(super) stored: Option<StoredRecord>,
    /// Its gap is repaired with a flush, whatever `on_gap` says, because a person requested the flush.
    pub(super) is_pardoned: bool,
}

impl Core {
    /// Sends nothing more to the target until a person decides. Earlier manual flushes do not count.
    pub(super) fn halt(&mut self, index: usize, why: Why) {
        let left = Some(self.catalogue.coverage.tables(goes_to(index)));
        self.with(index, |target, feed| {
            (target.mode, target.halt.left) = (Mode::Halted, left);
            feed.tell(Event::Halted(index, why));
        });
    }

    /// A table was flushed manually.
    pub fn flushed_manually(&mut self, table: &TableName) {
        for target in self.targets.iter_mut().filter(|target| target.mode == Mode::Halted) {
            if let Some(left) = &mut target.halt.left
                && left.remove(table)
                && left.is_empty()
            {
                target.halt.left = None;
            }
        }
    }

    /// Releases halted targets whose tables have all been flushed manually. They are reconciled again, and what they
    /// have missed is flushed.
    pub(super) fn release(&mut self, now: Instant) {
        for index in 0..self.targets.len() {
            let Some(target) = self.targets.get_mut(index) else { continue };
            if target.mode != Mode::Halted || target.halt.left.is_some() {
                continue;
            }
            (target.mode, target.halt.is_pardoned) = (Mode::Unverified, true);
            self.feed.tell(Event::Released(index));
            match target.halt.stored.take() {
                Some(stored) => self.record_loaded(index, stored, now),
                None => self.feed.outputs.push(Output::LoadRecord(index)),
            }
        }
    }
}
