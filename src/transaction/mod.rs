//! Turns messages into invalidations. Protocol 1 sends committed transactions only, so each row is handled as it
//! arrives, and a transaction of any size takes no more memory than one row.

pub mod manual;

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::pgoutput::{Message, PgTime, Truncated};
use crate::rules::binding::{Binding, Invalidation, Scratch};
use crate::rules::config::Rule;
use crate::rules::heirs::Heirs;
use crate::rules::named::Cover;
use crate::types::change::{Change, Relation, Row, encode_row};
use crate::types::database::Database;
use crate::types::invalidation::{Action, RuleId, Scope};
use crate::types::lsn::{CommitLsn, Lsn};
use crate::types::table::TableName;
use manual::{Manual, ManualKeys, Touched, UnreadableManual};

/// Receives what a transaction invalidates.
pub trait Gather {
    /// A key that a rule made.
    fn key(&mut self, rule: RuleId, action: Action, key: &[u8]);
    /// A scope of a rule.
    fn scope(&mut self, rule: RuleId, scope: &Scope);
    /// A key of a manual invalidation, for these targets; `None` means all targets.
    fn manual(&mut self, key: &[u8], targets: Option<&[usize]>);
}

/// The result of reading a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The transaction continues, or the message does not concern coherd.
    Within,
    /// A transaction ended, and everything that it invalidates has been gathered.
    Committed {
        /// End of the commit record.
        end: CommitLsn,
        /// When it was committed.
        commit_time: PgTime,
        /// What the rules made of it.
        made: Made,
    },
    /// A manual flush: every scope of the rules for this table was gathered.
    Flushed(TableName),
    /// Outside any transaction, a client waits until everything before this position is settled.
    Awaited(Lsn),
    /// A message with coherd's prefix could not be read, so every scope of every rule was gathered instead.
    Unreadable(UnreadableManual),
}

/// What the rules made of a transaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Made {
    /// Number of keys, counting each row that made one; zero if it has manual invalidations only.
    pub keys: u64,
    /// The tables with rows in the transaction, one bit each in the order of [`tables_of`]. The last bit stands for
    /// all further tables.
    pub tables: u64,
}

impl Made {
    /// How many tables have their own bit.
    pub const TABLES_MAX: usize = 63;

    fn wrote(&mut self, table: Option<usize>) {
        if let Some(table) = table {
            self.tables |= 1 << table.min(Self::TABLES_MAX);
        }
    }
}

/// A message that does not fit where it arrived: a row outside a transaction, or a relation that was never described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutOfOrder {
    /// A row change, a commit or a truncation without a Begin before it.
    #[error("the server sent a {0} outside of a transaction")]
    NotBegun(&'static str),
    /// A Begin inside a transaction.
    #[error("the server began a transaction inside another one")]
    BegunTwice,
    /// A change of a relation that no Relation message described.
    #[error("the server sent a change of relation {0} without describing it first")]
    NotDescribed(u32),
}

/// Kinds of change, counted per table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// INSERT.
    Insert,
    /// UPDATE.
    Update,
    /// DELETE.
    Delete,
    /// TRUNCATE.
    Truncate,
}

impl Op {
    /// How a changed row is counted.
    pub const fn of(change: &Change<'_>) -> Op {
        match change {
            Change::Insert { .. } => Op::Insert,
            Change::Update { .. } => Op::Update,
            Change::Delete { .. } => Op::Delete,
        }
    }

    /// The SQL keyword in lower case.
    pub const fn name(self) -> &'static str {
        match self {
            Op::Insert => "insert",
            Op::Update => "update",
            Op::Delete => "delete",
            Op::Truncate => "truncate",
        }
    }
}

/// Reads one stream of messages and turns it into invalidations.
#[derive(Debug)]
pub struct Reader {
    rules: Vec<Rule>,
    keys_max: u64,
    manual: ManualKeys,
    cover: Cover,
    heirs: Heirs,
    /// Manual keys that no rule covers, not yet reported.
    ignored: u64,
    relations: HashMap<u32, Bound, foldhash::fast::FixedState>,
    /// The relation that the previous message described.
    described: Option<u32>,
    /// Rules for which a transaction had too many keys, once per transaction, not yet reported.
    overflowed: Vec<RuleId>,
    open: Option<Open>,
    scratch: Scratch,
    tables: Vec<TableName>,
    counts: Vec<[u64; 4]>,
    /// The indexes with a nonzero count: there may be thousands of tables, and one turn of the pipeline touches few.
    counted: Vec<usize>,
}

#[derive(Debug, Clone)]
struct Bound {
    relation: Relation,
    /// Partitions whose old rows carry fewer columns than the relation promises.
    weak: HashSet<u32>,
    binding: Binding,
    table: Option<usize>,
}

/// The transaction that is being read.
#[derive(Debug, Default)]
struct Open {
    made: Made,
    /// Rules whose scopes replace all their further keys in this transaction.
    coarsened: HashSet<u16>,
}

/// The tables that rules name, each once, in the order of the indexes in [`Reader::take_counts`].
pub fn tables_of(rules: &[Rule]) -> Vec<TableName> {
    let mut tables: Vec<TableName> = rules.iter().map(|rule| rule.table.clone()).collect();
    tables.sort();
    tables.dedup();
    tables
}

impl Reader {
    /// A reader for `rules`. If a transaction makes more than `keys_max` keys, scopes are flushed instead.
    pub fn new(rules: Vec<Rule>, keys_max: u64) -> Self {
        let tables = tables_of(&rules);
        Reader {
            keys_max,
            manual: ManualKeys::default(),
            cover: Cover::new(&rules),
            heirs: Heirs::default(),
            ignored: 0,
            relations: HashMap::default(),
            described: None,
            overflowed: Vec::new(),
            open: None,
            scratch: Scratch::default(),
            counts: vec![[0; 4]; tables.len()],
            counted: Vec::new(),
            tables,
            rules,
        }
    }

    /// Sets which manual keys count. The default is those that a rule covers.
    #[must_use]
    pub fn with_manual(self, manual: ManualKeys) -> Self {
        Reader { manual, ..self }
    }

    /// Sets which tables inherit from the rules' tables when reading begins.
    #[must_use]
    pub fn with_heirs(self, heirs: Heirs) -> Self {
        Reader { heirs, ..self }
    }

    /// Takes in a look at the rules' tables and the tables that inherit from them. Returns the rules whose set of
    /// inheriting tables has changed, each once.
    pub fn looked(&mut self, database: &Database) -> Vec<RuleId> {
        let mut parents = BTreeSet::new();
        for (oid, its_parents) in self.heirs.looked(&database.asked, &database.tables) {
            self.bind(oid);
            parents.extend(its_parents);
        }
        self.rules.iter().filter(|rule| parents.contains(&rule.table)).map(|rule| rule.id).collect()
    }

    /// The number of manual keys since the last call that no rule covers. They are ignored.
    pub fn take_ignored(&mut self) -> u64 {
        std::mem::take(&mut self.ignored)
    }

    /// Whether a transaction is half read. Until its commit, no other position is meaningful.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Starts over after the stream broke: Postgres sends a half-read transaction and every Relation message again.
    pub fn start_over(&mut self) {
        self.open = None;
        self.described = None;
        self.relations.clear();
    }

    /// The rules whose scopes replaced keys of a transaction that was too large, since the last call.
    pub fn take_overflowed(&mut self) -> Vec<RuleId> {
        std::mem::take(&mut self.overflowed)
    }

    /// Reports the changes counted since the last call: index of the table, operation, number.
    pub fn take_counts(&mut self, mut count: impl FnMut(usize, Op, u64)) {
        for table in self.counted.drain(..) {
            let Some(counts) = self.counts.get_mut(table) else { continue };
            for (op, n) in [Op::Insert, Op::Update, Op::Delete, Op::Truncate].into_iter().zip(std::mem::take(counts)) {
                if n > 0 {
                    count(table, op, n);
                }
            }
        }
    }

    /// Reads one message and gathers what it invalidates.
    pub fn read(&mut self, message: Message<'_>, gather: &mut impl Gather) -> Result<Step, OutOfOrder> {
        let described = self.described.take();
        match message {
            Message::Change { relation, change } => {
                if let Some(leaf) = described.filter(|described| *described != relation) {
                    self.written_by(relation, leaf);
                }
                let open = self.open.as_mut().ok_or(OutOfOrder::NotBegun("row change"))?;
                let bound = self.relations.get(&relation).ok_or(OutOfOrder::NotDescribed(relation))?;
                count(&mut self.counts, &mut self.counted, bound.table, Op::of(&change));
                open.made.wrote(bound.table);
                let (keys_max, overflowed) = (self.keys_max, &mut self.overflowed);
                bound.binding.invalidate(&change, &mut self.scratch, &mut |invalidation| {
                    overflowed.extend(open.gather(invalidation, keys_max, &self.rules, gather));
                });
            }
            Message::Begin { .. } => {
                if self.open.replace(Open::default()).is_some() {
                    return Err(OutOfOrder::BegunTwice);
                }
            }
            Message::Commit { end, commit_time } => {
                let Open { made, .. } = self.open.take().ok_or(OutOfOrder::NotBegun("commit"))?;
                return Ok(Step::Committed { end, commit_time, made });
            }
            Message::Relation(relation) => self.describe(relation),
            Message::Truncate(truncated) => self.truncate(truncated, gather)?,
            Message::Logical { prefix: manual::PREFIX, content, .. } => return Ok(self.manual(content, gather)),
            // Inside a transaction, its position says nothing about what came before.
            Message::Logical { prefix: manual::AWAITED, transactional: false, at, .. } if self.open.is_none() => {
                return Ok(Step::Awaited(at));
            }
            Message::Logical { .. } | Message::Origin | Message::Type => {}
        }
        Ok(Step::Within)
    }

    fn describe(&mut self, relation: Relation) {
        let oid = relation.oid;
        let weak = self.relations.remove(&oid).map(|before| before.weak).unwrap_or_default();
        self.relations.insert(oid, Bound { relation, weak, binding: Binding::default(), table: None });
        self.bind(oid);
        self.described = Some(oid);
    }

    /// `leaf` writes for `root`. pgoutput's `maybe_send_schema` describes a partition right after its root, before the
    /// partition's first change and again after each change of its definition. The row change that follows names the
    /// root. Nothing else tells which relations are partitions of which.
    fn written_by(&mut self, root: u32, leaf: u32) {
        let Some(written) = self.relations.get(&leaf).map(|bound| bound.relation.clone()) else { return };
        let Some(bound) = self.relations.get_mut(&root) else { return };
        let promised = bound.relation.columns.iter().filter(|column| bound.relation.carries(column)).count();
        let held = bound.relation.as_written_by(&written);
        let is_weak = held.columns.iter().filter(|column| column.in_identity).count() < promised;
        let differs = if is_weak { bound.weak.insert(leaf) } else { bound.weak.remove(&leaf) };
        // A weak partition may have become weaker.
        if differs || is_weak {
            self.bind(root);
        }
    }

    fn bind(&mut self, oid: u32) {
        let Some(bound) = self.relations.get(&oid) else { return };
        let weak = bound.weak.iter().filter_map(|leaf| self.relations.get(leaf));
        let relation = weak.fold(bound.relation.clone(), |root, leaf| root.as_written_by(&leaf.relation));
        let binding = Binding::new(&self.rules, &relation, &self.heirs);
        let named = |table: &TableName| table.schema == relation.schema && table.name == relation.name;
        let inherited = || self.tables.iter().position(|table| self.heirs.inherits(&relation, table));
        let table = self.tables.iter().position(named).or_else(inherited);
        if let Some(bound) = self.relations.get_mut(&oid) {
            (bound.binding, bound.table) = (binding, table);
        }
    }

    fn truncate(&mut self, truncated: Truncated<'_>, gather: &mut impl Gather) -> Result<(), OutOfOrder> {
        let open = self.open.as_mut().ok_or(OutOfOrder::NotBegun("truncation"))?;
        for relation in truncated.relations() {
            let bound = self.relations.get(&relation).ok_or(OutOfOrder::NotDescribed(relation))?;
            count(&mut self.counts, &mut self.counted, bound.table, Op::Truncate);
            open.made.wrote(bound.table);
            bound.binding.invalidate_scopes(&mut |invalidation| pass_on(invalidation, gather));
        }
        Ok(())
    }

    fn manual(&mut self, content: &[u8], gather: &mut impl Gather) -> Step {
        match manual::read(content) {
            Ok(Manual::Invalidate(keys)) => {
                for key in &keys {
                    self.named(key.as_bytes(), gather);
                }
            }
            Ok(Manual::Flush(table)) => {
                let concerns = |rule: &&Rule| rule.table == table || self.heirs.inherits_by_name(&table, &rule.table);
                let named = self.rules.iter().filter(concerns);
                named.for_each(|rule| all_scopes(rule, gather));
                return Step::Flushed(table);
            }
            Ok(Manual::Touch(touched)) => self.touch(&touched, gather),
            Err(unreadable) => {
                self.rules.iter().for_each(|rule| all_scopes(rule, gather));
                return Step::Unreadable(unreadable);
            }
        }
        Step::Within
    }

    /// Deletes a manual key. If a rule that bumps or publishes could make the key, also does that.
    fn named(&mut self, key: &[u8], gather: &mut impl Gather) {
        let covering = self.cover.rules(&self.rules, key);
        match self.manual {
            ManualKeys::Any => gather.manual(key, None),
            ManualKeys::Rules => {
                let targets: BTreeSet<usize> = covering.flat_map(|rule| rule.targets.iter().copied()).collect();
                if targets.is_empty() {
                    self.ignored += 1;
                    return;
                }
                gather.manual(key, Some(&targets.into_iter().collect::<Vec<_>>()));
            }
        }
        for rule in &self.rules {
            if rule.action != Action::Delete && rule.keys.iter().any(|template| template.could_make(key)) {
                gather.key(rule.id, rule.action, key);
            }
        }
    }

    /// Gathers the keys of rows that nobody wrote, as if they had been inserted.
    pub fn touch(&mut self, touched: &Touched, gather: &mut impl Gather) {
        let binding = Binding::new(&self.rules, &touched.relation, &self.heirs);
        let mut cells = Vec::new();
        for row in &touched.rows {
            let Some(count) = encode_row(row.iter().map(Option::as_ref), &mut cells) else {
                binding.invalidate_scopes(&mut |invalidation| pass_on(invalidation, gather));
                continue;
            };
            let change = Change::Insert { new: Row::new(count, &cells) };
            binding.invalidate(&change, &mut self.scratch, &mut |invalidation| pass_on(invalidation, gather));
        }
    }
}

impl Open {
    /// Passes an invalidation on. Once the transaction has made too many keys, passes on each rule's scopes instead,
    /// and returns the rule the first time.
    fn gather(
        &mut self,
        invalidation: Invalidation<'_>,
        keys_max: u64,
        rules: &[Rule],
        gather: &mut impl Gather,
    ) -> Option<RuleId> {
        let Invalidation::Key { rule, .. } = invalidation else {
            pass_on(invalidation, gather);
            return None;
        };
        self.made.keys += 1;
        if self.made.keys <= keys_max {
            pass_on(invalidation, gather);
            return None;
        }
        if self.coarsened.insert(rule.0)
            && let Some(rule) = rules.get(usize::from(rule.0))
        {
            all_scopes(rule, gather);
            return Some(rule.id);
        }
        None
    }
}

fn pass_on(invalidation: Invalidation<'_>, gather: &mut impl Gather) {
    match invalidation {
        Invalidation::Key { rule, action, key } => gather.key(rule, action, key),
        Invalidation::Scope { rule, scope } => gather.scope(rule, scope),
    }
}

fn all_scopes(rule: &Rule, gather: &mut impl Gather) {
    rule.scopes.iter().for_each(|scope| gather.scope(rule.id, scope));
}

fn count(counts: &mut [[u64; 4]], counted: &mut Vec<usize>, table: Option<usize>, op: Op) {
    let Some((table, counts)) = table.and_then(|table| Some((table, counts.get_mut(table)?))) else { return };
    if *counts == [0; 4] {
        counted.push(table);
    }
    if let Some(slot) = counts.get_mut(op as usize) {
        *slot += 1;
    }
}

#[cfg(test)]
mod tests;
