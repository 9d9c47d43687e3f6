//! Targets that a gap has halted (`on_gap: halt`), and `coherd flush`, which lets them go on.

use std::collections::BTreeSet;

use super::judging::Asking;
use super::{Pipeline, Stopped};
use crate::rules::config::Rule;
use crate::source::Source;
use crate::table::TableName;

/// The targets that wait for a person.
pub(super) struct Halts {
    /// The tables of each lane's rules.
    tables: Vec<BTreeSet<TableName>>,
    /// For each halted lane, the tables that have still to be flushed by hand.
    left: Vec<Option<BTreeSet<TableName>>>,
    /// Their workers, where they wait for an answer.
    asking: Vec<Asking>,
    /// Lanes whose gap is answered with a flush, because somebody has ordered one.
    pardoned: BTreeSet<usize>,
}

impl Halts {
    pub(super) fn new(rules: &[Rule]) -> Halts {
        let lanes = rules.iter().flat_map(|rule| &rule.lanes).max().map_or(0, |last| last + 1);
        let mut tables = vec![BTreeSet::new(); lanes];
        for rule in rules {
            for &lane in &rule.lanes {
                if let Some(tables) = tables.get_mut(lane) {
                    tables.insert(rule.table.clone());
                }
            }
        }
        Halts { left: vec![None; lanes], tables, asking: Vec::new(), pardoned: BTreeSet::new() }
    }

    /// The lane is halted. What was flushed before does not count.
    pub(super) fn halted(&mut self, lane: usize) {
        if let (Some(left), Some(tables)) = (self.left.get_mut(lane), self.tables.get(lane)) {
            *left = Some(tables.clone());
        }
    }

    /// Its worker waits for an answer.
    pub(super) fn wait(&mut self, asking: Asking) {
        self.asking.retain(|other| other.lane != asking.lane);
        self.asking.push(asking);
    }

    /// Whether a gap of the lane is to be flushed, whatever `on_gap` says.
    pub(super) fn is_pardoned(&self, lane: usize) -> bool {
        self.pardoned.contains(&lane)
    }

    /// The lane was judged and goes on.
    pub(super) fn resolved(&mut self, lane: usize) {
        self.pardoned.remove(&lane);
    }

    /// The table was flushed by hand. Gives the lanes of which that was the last one.
    fn flushed(&mut self, table: &TableName) -> Vec<usize> {
        let mut released = Vec::new();
        for (lane, left) in self.left.iter_mut().enumerate() {
            if let Some(tables) = left
                && tables.remove(table)
                && tables.is_empty()
            {
                *left = None;
                self.pardoned.insert(lane);
                released.push(lane);
            }
        }
        released
    }
}

impl<S: Source + 'static> Pipeline<S> {
    /// Lets halted targets go on of which every rule was flushed by hand: they are judged again, and what they have
    /// missed is flushed.
    pub(super) fn release(&mut self) -> Result<(), Stopped> {
        for table in self.core.take_manual_flushes() {
            for lane in self.halts.flushed(&table) {
                self.recorder.released_target(lane);
                self.core.release(lane);
                match self.halts.asking.iter().position(|asking| asking.lane == lane) {
                    Some(place) => {
                        let asking = self.halts.asking.swap_remove(place);
                        self.recalled(asking)?;
                    }
                    None => self.core.load_records(),
                }
            }
        }
        Ok(())
    }
}
