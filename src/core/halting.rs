//! Targets that a gap has halted (`on_gap: halt`), and `coherd flush`, which lets them go on.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use super::target::Mode;
use super::uncounted::Uncounted;
use super::{Core, Event, Output, Why};
use crate::record::StoredRecord;
use crate::rules::config::Rule;
use crate::table::TableName;

/// The targets that wait for a person.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Halts {
    /// The tables of each target's rules.
    tables: Uncounted<Arc<[BTreeSet<TableName>]>>,
    /// For each halted target, the tables that have still to be flushed manually.
    left: Vec<Option<BTreeSet<TableName>>>,
    /// What their records say, where their workers wait for an answer.
    waiting: Vec<(usize, StoredRecord)>,
    /// Targets whose gap is answered with a flush, because somebody has ordered one.
    pardoned: BTreeSet<usize>,
    /// Tables that were flushed manually while a target was halted, not looked at yet.
    flushed: BTreeSet<TableName>,
}

impl Halts {
    pub(super) fn new(count: usize, rules: &[Rule]) -> Halts {
        let mut tables = vec![BTreeSet::new(); count];
        for rule in rules {
            for &target in &rule.targets {
                if let Some(tables) = tables.get_mut(target) {
                    tables.insert(rule.table.clone());
                }
            }
        }
        let (waiting, pardoned, flushed) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        Halts { left: vec![None; count], tables: Uncounted(tables.into()), waiting, pardoned, flushed }
    }

    /// What the records of halted targets say.
    pub(super) fn stored_mut(&mut self) -> impl Iterator<Item = &mut StoredRecord> {
        self.waiting.iter_mut().map(|(_, stored)| stored)
    }

    /// Its worker waits for an answer.
    pub(super) fn wait(&mut self, target: usize, stored: StoredRecord) {
        self.waiting.retain(|(other, _)| *other != target);
        self.waiting.push((target, stored));
    }

    /// Whether a gap of the target is to be flushed, whatever `on_gap` says.
    pub(super) fn is_pardoned(&self, target: usize) -> bool {
        self.pardoned.contains(&target)
    }

    /// The target was reconciled and goes on.
    pub(super) fn resolved(&mut self, target: usize) {
        self.pardoned.remove(&target);
    }

    /// The table was flushed manually. Gives the targets of which that was the last one.
    fn flushed(&mut self, table: &TableName) -> Vec<usize> {
        let mut released = Vec::new();
        for (target, left) in self.left.iter_mut().enumerate() {
            if let Some(tables) = left
                && tables.remove(table)
                && tables.is_empty()
            {
                *left = None;
                self.pardoned.insert(target);
                released.push(target);
            }
        }
        released
    }
}

impl Core {
    /// Nothing more is sent to the target until a person decides. What was flushed before does not count.
    pub(super) fn halt(&mut self, index: usize, why: Why) {
        if let Some(target) = self.targets.get_mut(index) {
            target.mode = Mode::Halted;
        }
        if let (Some(left), Some(tables)) = (self.halts.left.get_mut(index), self.halts.tables.get(index)) {
            *left = Some(tables.clone());
        }
        self.tell(Event::Halted(index, why));
    }

    /// A table was flushed manually. Remembered only while a target is halted.
    pub fn flushed_manually(&mut self, table: TableName) {
        if self.targets.iter().any(|target| target.mode == Mode::Halted) {
            self.halts.flushed.insert(table);
        }
    }

    /// Lets halted targets go on of which every table was flushed manually: they are reconciled again, and what they have
    /// missed is flushed.
    pub(super) fn release(&mut self, now: Instant) {
        for table in std::mem::take(&mut self.halts.flushed) {
            for index in self.halts.flushed(&table) {
                self.tell(Event::Released(index));
                if let Some(target) = self.targets.get_mut(index) {
                    target.mode = Mode::Unverified;
                }
                match self.halts.waiting.iter().position(|(target, _)| *target == index) {
                    Some(place) => {
                        let (target, stored) = self.halts.waiting.swap_remove(place);
                        self.record_loaded(target, stored, now);
                    }
                    None => self.outputs.push(Output::LoadRecord(index)),
                }
            }
        }
    }
}
