//! Finds the keys of changes with the daemon's own reader and rules, so that a preview cannot differ from what the
//! daemon does.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::Context as _;

use crate::config::Config;
use crate::pgoutput::Message;
use crate::rules::config::Rule;
use crate::rules::heirs::Heirs;
use crate::transaction::manual::Touched;
use crate::transaction::{Gather, Op, Reader, Step};
use crate::types::invalidation::{Action, BATCH_BYTES_MAX, Batch, RuleId, Scope};
use crate::types::pattern::Extent;
use crate::types::table::TableName;

/// Why a key or a scope is invalidated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// Its row exists; nothing has changed it.
    Row,
    /// Its row was changed.
    Change(Op),
    /// A user named it, with `coherd.invalidate()` or a similar function.
    Manual,
    /// Its table was rewritten, recreated or taken out of the publication.
    Catalogue,
}

impl Cause {
    /// The name in text and JSON.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Cause::Row => "row",
            Cause::Change(op) => op.name(),
            Cause::Manual => "manual",
            Cause::Catalogue => "catalogue",
        }
    }
}

/// Where a key or a scope comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Origin {
    /// The rules that made it; none for a manual key.
    pub(super) rules: BTreeSet<u16>,
    /// Why it is invalidated.
    pub(super) causes: BTreeSet<Cause>,
    /// A user named it for every target.
    everywhere: bool,
    /// A user named it for these targets.
    targets: BTreeSet<usize>,
}

impl Origin {
    fn add(&mut self, rule: Option<RuleId>, cause: Cause) {
        self.rules.extend(rule.map(|rule| rule.0));
        self.everywhere |= rule.is_none();
        self.causes.insert(cause);
    }

    fn add_manual(&mut self, targets: Option<&[usize]>) {
        self.everywhere |= targets.is_none();
        self.targets.extend(targets.unwrap_or_default());
        self.causes.insert(Cause::Manual);
    }

    /// Whether target number `target` gets the invalidation.
    pub(super) fn goes_to(&self, target: usize, rules: &[Rule]) -> bool {
        let mut targets = self.rules.iter().filter_map(|id| rules.get(usize::from(*id)));
        self.everywhere || self.targets.contains(&target) || targets.any(|rule| rule.targets.contains(&target))
    }
}

/// Keys and scopes without duplicates, and the changes that they come from.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    /// What happens to each key.
    pub(super) keys: BTreeMap<(Vec<u8>, Action), Origin>,
    /// The scopes to flush, by pattern.
    pub(super) scopes: BTreeMap<(String, Action), Origin>,
    /// The number of changes per table of the publication and operation.
    pub(super) changes: BTreeMap<(TableName, Op), u64>,
    /// Invalidations of keys beyond the limit. The same key may count more than once.
    pub(super) left_out: u64,
    /// Manual keys that the daemon ignores.
    pub(super) ignored: u64,
    keys_max: usize,
    bytes: usize,
}

impl Found {
    /// An empty collection that holds at most `keys_max` keys.
    pub(super) fn at_most(keys_max: usize) -> Found {
        Found { keys_max, ..Found::default() }
    }

    /// Whether nothing is invalidated.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.scopes.is_empty()
    }

    /// Adds a scope.
    pub(super) fn scope(&mut self, rule: RuleId, scope: &Scope, cause: Cause) {
        self.scopes.entry((scope.keys.to_string(), scope.action)).or_default().add(Some(rule), cause);
    }

    /// Adds a key. Without a rule it goes to every target.
    pub(super) fn key(&mut self, rule: Option<RuleId>, action: Action, key: &[u8], cause: Cause) {
        self.add(action, key, |origin| origin.add(rule, cause));
    }

    /// Adds a manual key for `targets`; `None` means every target.
    fn manual_key(&mut self, key: &[u8], targets: Option<&[usize]>) {
        self.add(Action::Delete, key, |origin| origin.add_manual(targets));
    }

    fn add(&mut self, action: Action, key: &[u8], add: impl FnOnce(&mut Origin)) {
        let full = self.keys.len() >= self.keys_max || self.bytes + key.len() > BATCH_BYTES_MAX;
        let name = (key.to_vec(), action);
        if let Some(origin) = self.keys.get_mut(&name) {
            add(origin);
        } else if full {
            self.left_out += 1;
        } else {
            self.bytes += key.len();
            add(self.keys.entry(name).or_default());
        }
    }

    /// Adds all of `other`, even beyond the limit.
    pub(super) fn append(&mut self, other: Found) {
        let merge = |into: &mut Origin, from: Origin| {
            into.rules.extend(from.rules);
            into.everywhere |= from.everywhere;
            into.targets.extend(from.targets);
            into.causes.extend(from.causes);
        };
        other.keys.into_iter().for_each(|(key, origin)| merge(self.keys.entry(key).or_default(), origin));
        other.scopes.into_iter().for_each(|(scope, origin)| merge(self.scopes.entry(scope).or_default(), origin));
        other.changes.into_iter().for_each(|(change, count)| *self.changes.entry(change).or_default() += count);
        self.left_out += other.left_out;
        self.ignored += other.ignored;
    }

    /// The keys and scopes that target number `target` gets, as a batch to peek with.
    pub(super) fn batch(&self, target: usize, rules: &[Rule]) -> Batch {
        let mut batch = Batch::default();
        for ((key, action), _) in self.keys.iter().filter(|(_, origin)| origin.goes_to(target, rules)) {
            batch.push(*action, RuleId(0), key);
        }
        for ((pattern, action), _) in self.scopes.iter().filter(|(_, origin)| origin.goes_to(target, rules)) {
            batch.push_scope(&Scope { action: *action, keys: Extent::read(pattern) });
        }
        batch
    }
}

/// Reads messages as the daemon does.
pub(super) struct Finder {
    reader: Reader,
    names: HashMap<u32, TableName>,
    /// Whether manual invalidations count (`source.messages`).
    manual: bool,
}

impl Finder {
    /// A finder with the rules and limits of `config`. `heirs` says which tables inherit from the rules' tables.
    pub(super) fn new(config: &Config, heirs: Heirs) -> Finder {
        Finder {
            reader: Reader::new(config.rules.clone(), config.limits.max_keys_per_transaction as u64)
                .with_manual(config.manual_keys)
                .with_heirs(heirs),
            names: HashMap::new(),
            manual: config.source.messages,
        }
    }

    /// Reads one message and adds what it invalidates.
    pub(super) fn read(&mut self, message: Message<'_>, found: &mut Found) -> anyhow::Result<Step> {
        let mut changed = |relation: &u32, op| {
            if let Some(name) = self.names.get(relation) {
                *found.changes.entry((name.clone(), op)).or_default() += 1;
            }
        };
        let cause = match &message {
            Message::Change { relation, change } => {
                changed(relation, Op::of(change));
                Cause::Change(Op::of(change))
            }
            Message::Truncate(truncated) => {
                truncated.relations().for_each(|relation| changed(&relation, Op::Truncate));
                Cause::Change(Op::Truncate)
            }
            Message::Relation(relation) => {
                let name = TableName { schema: relation.schema.clone(), name: relation.name.clone() };
                self.names.insert(relation.oid, name);
                Cause::Catalogue
            }
            Message::Logical { .. } if !self.manual => return Ok(Step::Within),
            _ => Cause::Manual,
        };
        let step =
            self.reader.read(message, &mut Gathering { found, cause }).context("reading what the server sends")?;
        found.ignored += self.reader.take_ignored();
        Ok(step)
    }

    /// Whether it has read only part of a transaction.
    pub(super) fn is_open(&self) -> bool {
        self.reader.is_open()
    }

    /// Adds the keys of rows as they are now.
    pub(super) fn rows(&mut self, rows: &Touched, found: &mut Found) {
        self.reader.touch(rows, &mut Gathering { found, cause: Cause::Row });
    }
}

struct Gathering<'a> {
    found: &'a mut Found,
    cause: Cause,
}

impl Gather for Gathering<'_> {
    fn key(&mut self, rule: RuleId, action: Action, key: &[u8]) {
        self.found.key(Some(rule), action, key, self.cause);
    }

    fn scope(&mut self, rule: RuleId, scope: &Scope) {
        self.found.scope(rule, scope, self.cause);
    }

    fn manual(&mut self, key: &[u8], targets: Option<&[usize]>) {
        self.found.manual_key(key, targets);
    }
}
