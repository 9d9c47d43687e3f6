//! What is sent to a target: keys, scopes, and batches of both.

mod recent;

use std::hash::{BuildHasher, Hash, Hasher};

use hashbrown::HashTable;

use crate::types::pattern::Extent;

pub use recent::Recent;

/// What happens to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Remove the key.
    Delete,
    /// Increment the key's version pointer; the key itself stays.
    Bump,
    /// Send the key on a channel, for caches inside processes.
    Publish,
}

impl Action {
    /// The name in configuration and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Action::Delete => "delete",
            Action::Bump => "bump",
            Action::Publish => "publish",
        }
    }
}

/// Every key that one template of a rule can make. coherd flushes it when the exact keys cannot be known.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    /// What happens to these keys.
    pub action: Action,
    /// Which keys it covers.
    pub keys: Extent,
}

/// The number of a rule. A batch keeps it with each key, so that the rule's scopes can replace the keys of a batch that
/// is too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RuleId(pub u16);

/// The limit for the key text that one batch holds, in bytes. The code that fills a batch enforces it, whatever the
/// number of keys.
pub const BATCH_BYTES_MAX: usize = 32 << 20;

/// The longest key, in bytes. A longer one comes from a mistake in a rule, and becomes a flush of the rule's scopes.
pub const KEY_BYTES_MAX: usize = 64 << 10;

/// Keys and scopes on their way to one target, each once.
///
/// Keys lie end to end in one arena, so adding a key to a batch that was used before allocates nothing.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    arena: Vec<u8>,
    keys: Vec<Entry>,
    seen: HashTable<u32>,
    hasher: foldhash::fast::FixedState,
    scopes: Vec<Scope>,
    manual: Load,
}

/// A number of keys and the bytes of their text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Load {
    /// Number of keys.
    pub keys: usize,
    /// Bytes of their text.
    pub bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Entry {
    end: u32,
    rule: u16,
    action: Action,
}

/// What made a key: a rule, or a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Maker(u16);

/// Marks a key that no rule made: a manual invalidation named it.
const MANUAL: u16 = u16::MAX;

impl Maker {
    /// The rule; `None` for a manual key.
    pub fn rule(self) -> Option<RuleId> {
        (self.0 != MANUAL).then_some(RuleId(self.0))
    }
}

/// The same keys and scopes, in the same order.
impl PartialEq for Batch {
    fn eq(&self, other: &Batch) -> bool {
        self.items().eq(other.items()) && self.scopes == other.scopes
    }
}

impl Eq for Batch {}

impl Hash for Batch {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.items().for_each(|item| item.hash(state));
        self.scopes.hash(state);
    }
}

impl Batch {
    /// Adds a key made by `rule`. Adding it a second time does nothing.
    pub fn push(&mut self, action: Action, rule: RuleId, key: &[u8]) {
        self.insert(action, rule.0, key);
    }

    /// Adds a manual key. It has no rule, so it is never coarsened.
    pub fn push_manual(&mut self, action: Action, key: &[u8]) {
        if self.insert(action, MANUAL, key) {
            self.manual.keys += 1;
            self.manual.bytes += key.len();
        }
    }

    /// Adds a scope. Adding it a second time does nothing.
    pub fn push_scope(&mut self, scope: &Scope) {
        if !self.scopes.contains(scope) {
            self.scopes.push(scope.clone());
        }
    }

    /// Returns whether the key was not in the batch yet.
    fn insert(&mut self, action: Action, rule: u16, key: &[u8]) -> bool {
        let Batch { arena, keys, seen, hasher, .. } = self;
        // `Some`, because the table hashes the result of `entry` when it grows.
        let hash = hasher.hash_one(Some((action, key)));
        let same = |&index: &u32| entry(arena, keys, index) == Some((action, key));
        if seen.find(hash, same).is_some() {
            return false;
        }
        let (Ok(index), Ok(end)) = (u32::try_from(keys.len()), u32::try_from(arena.len() + key.len())) else {
            // Unreachable, because the code that fills a batch keeps it near BATCH_BYTES_MAX.
            debug_assert!(false, "a batch beyond 4 GiB");
            return false;
        };
        arena.extend_from_slice(key);
        keys.push(Entry { end, rule, action });
        seen.insert_unique(hash, index, |&index| hasher.hash_one(entry(arena, keys, index)));
        true
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is neither key nor scope.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.scopes.is_empty()
    }

    /// Bytes of key text.
    pub fn bytes(&self) -> usize {
        self.arena.len()
    }

    /// The manual keys, which [`Batch::coarsen`] keeps.
    pub fn manual(&self) -> Load {
        self.manual
    }

    /// The keys with `action`, in the order in which they were added.
    pub fn keys(&self, action: Action) -> impl Iterator<Item = &[u8]> {
        (0..self.keys.len())
            .filter_map(move |index| entry(&self.arena, &self.keys, u32::try_from(index).ok()?))
            .filter_map(move |(its, key)| (its == action).then_some(key))
    }

    /// Every key, in the order in which they were added, with what [`Batch::push_again`] needs to add it to another
    /// batch.
    pub fn items(&self) -> impl Iterator<Item = (Maker, Action, &[u8])> {
        (0u32..).zip(&self.keys).filter_map(|(index, its)| {
            let (action, key) = entry(&self.arena, &self.keys, index)?;
            Some((Maker(its.rule), action, key))
        })
    }

    /// Adds a key from [`Batch::items`] of another batch.
    pub fn push_again(&mut self, maker: Maker, action: Action, key: &[u8]) {
        if maker.0 == MANUAL { self.push_manual(action, key) } else { self.push(action, RuleId(maker.0), key) }
    }

    /// Adds everything in `other`.
    pub fn append(&mut self, other: &Batch) {
        for (maker, action, key) in other.items() {
            self.push_again(maker, action, key);
        }
        for scope in &other.scopes {
            self.push_scope(scope);
        }
    }

    /// How many keys there are with each of `actions`.
    pub fn counts<const N: usize>(&self, actions: [Action; N]) -> [u64; N] {
        actions.map(|action| self.keys.iter().filter(|key| key.action == action).count() as u64)
    }

    /// The scopes to flush.
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }

    /// Whether there is at least one key, with or without scopes.
    pub fn has_keys(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Moves the scopes to a new batch.
    #[must_use]
    pub fn take_scopes(&mut self) -> Batch {
        Batch { scopes: std::mem::take(&mut self.scopes), ..Batch::default() }
    }

    /// Replaces the rules' keys by the rules' scopes, and returns those rules. `scopes_of` returns the scopes of a
    /// rule. Manual keys stay.
    pub fn coarsen<'s>(&mut self, scopes_of: impl Fn(RuleId) -> &'s [Scope]) -> Vec<RuleId> {
        let mut manual = Batch::default();
        let mut rules = Vec::new();
        for (index, its) in (0u32..).zip(&self.keys) {
            if its.rule != MANUAL {
                if !rules.contains(&its.rule) {
                    rules.push(its.rule);
                }
            } else if let Some((action, key)) = entry(&self.arena, &self.keys, index) {
                manual.push_manual(action, key);
            }
        }
        manual.scopes = std::mem::take(&mut self.scopes);
        let rules: Vec<RuleId> = rules.into_iter().map(RuleId).collect();
        for scope in rules.iter().flat_map(|rule| scopes_of(*rule)) {
            manual.push_scope(scope);
        }
        *self = manual;
        rules
    }

    /// Empties the batch. Keeps its memory, unless that is much more than a usual batch needs.
    pub fn clear(&mut self) {
        const KEEP_BYTES: usize = 1 << 20;
        if self.arena.capacity() > KEEP_BYTES {
            *self = Batch::default();
        } else {
            self.arena.clear();
            self.keys.clear();
            self.seen.clear();
            self.scopes.clear();
            self.manual = Load::default();
        }
    }
}

fn entry<'a>(arena: &'a [u8], keys: &[Entry], index: u32) -> Option<(Action, &'a [u8])> {
    let index = index as usize;
    let its = keys.get(index)?;
    let start = match index.checked_sub(1) {
        Some(before) => keys.get(before)?.end as usize,
        None => 0,
    };
    Some((its.action, arena.get(start..its.end as usize)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delete(batch: &Batch) -> Vec<&[u8]> {
        batch.keys(Action::Delete).collect()
    }

    #[test]
    fn a_key_is_held_once_for_each_action() {
        let mut batch = Batch::default();
        for key in ["user:1", "user:2", "user:1", ""] {
            batch.push(Action::Delete, RuleId(0), key.as_bytes());
        }
        batch.push(Action::Bump, RuleId(1), b"user:1");
        assert_eq!(delete(&batch), [b"user:1".as_slice(), b"user:2", b""]);
        assert_eq!(batch.keys(Action::Bump).collect::<Vec<_>>(), [b"user:1"]);
        assert_eq!(batch.len(), 4);
    }

    #[test]
    fn coarsening_loses_no_rule_and_no_manual_key() {
        let scope = |pattern: &str| Scope { action: Action::Delete, keys: Extent::read(pattern) };
        let (users, orders) = ([scope("user:*")], [scope("order:*"), scope("cart:*")]);
        let mut batch = Batch::default();
        batch.push(Action::Delete, RuleId(0), b"user:1");
        batch.push(Action::Delete, RuleId(1), b"order:1");
        batch.push_manual(Action::Delete, b"mine");
        batch.push_scope(&users[0]);
        batch.coarsen(|rule| if rule == RuleId(0) { &users } else { &orders });
        assert_eq!(delete(&batch), [b"mine"]);
        assert_eq!(batch.scopes(), [users[0].clone(), orders[0].clone(), orders[1].clone()]);
    }

    #[test]
    fn what_is_appended_is_held_once_and_stays_what_it_was() {
        let (mut batch, mut other) = (Batch::default(), Batch::default());
        batch.push(Action::Delete, RuleId(0), b"user:1");
        other.push(Action::Delete, RuleId(0), b"user:1");
        other.push(Action::Bump, RuleId(0), b"user:2");
        other.push_manual(Action::Delete, b"mine");
        other.push_scope(&Scope { action: Action::Delete, keys: Extent::read("cart:*") });
        batch.append(&other);
        assert_eq!(batch.len(), 3);
        assert_eq!(batch.manual().keys, 1);
        batch.coarsen(|_| &[]);
        assert_eq!((delete(&batch), batch.scopes().len()), (vec![b"mine".as_slice()], 1));
    }

    #[test]
    fn a_cleared_batch_forgets_what_it_had_seen() {
        let mut batch = Batch::default();
        batch.push(Action::Delete, RuleId(0), b"user:1");
        batch.clear();
        assert!(batch.is_empty());
        batch.push(Action::Delete, RuleId(0), b"user:1");
        assert_eq!(delete(&batch), [b"user:1"]);
    }

    #[test]
    fn ten_thousand_keys_are_all_found_again() {
        let mut batch = Batch::default();
        for round in 0..2 {
            for n in 0..10_000 {
                batch.push(Action::Delete, RuleId(0), format!("user:{n}").as_bytes());
            }
            assert_eq!(batch.len(), 10_000, "round {round}");
        }
        assert_eq!(batch.keys(Action::Delete).last(), Some(b"user:9999".as_slice()));
    }
}
