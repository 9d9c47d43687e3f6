//! What was delivered to a target recently, in bounded memory. coherd sends it again if the target has lost it.

use std::collections::VecDeque;

use super::{Action, Batch, Maker, Scope};
use crate::types::lsn::Lsn;

/// The cost of an item, without the text of its key.
const ITEM_BYTES: usize = size_of::<Item>();
/// The cost of a delivery, without its items.
const DELIVERY_BYTES: usize = size_of::<Delivered>();

/// Confirmed deliveries, oldest first, within a limit in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Recent {
    bytes_max: usize,
    /// Every confirmed invalidation of a commit after this position is in here.
    floor: Lsn,
    deliveries: VecDeque<Delivered>,
    items: VecDeque<Item>,
    /// The keys' text, end to end.
    text: VecDeque<u8>,
    scopes: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Delivered {
    /// The decoded position when the delivery was sent. Its contents belong to commits up to there, or to the next
    /// commit.
    at: Lsn,
    items: usize,
    bytes: usize,
    scopes: Vec<Scope>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Item {
    maker: Maker,
    action: Action,
    bytes: u32,
}

impl Recent {
    /// Empty, with the limit `bytes_max`. The allocator may take up to twice as much.
    pub fn new(bytes_max: usize) -> Self {
        Recent {
            bytes_max,
            floor: Lsn::MAX,
            deliveries: VecDeque::new(),
            items: VecDeque::new(),
            text: VecDeque::new(),
            scopes: 0,
        }
    }

    /// Forgets everything. From now on, the target gets everything after `start`.
    pub fn begin(&mut self, start: Lsn) {
        *self = Recent { floor: start, ..Recent::new(self.bytes_max) };
    }

    /// The earliest position from which a target can be sent again what it has lost. It must have everything up to
    /// there.
    pub fn reaches_back_to(&self) -> Lsn {
        self.floor
    }

    /// Remembers a confirmed delivery. `at` is the decoded position when it was sent.
    pub fn remember(&mut self, at: Lsn, batch: &Batch) {
        if batch.is_empty() || self.floor == Lsn::MAX {
            return;
        }
        let needed = cost(batch.len(), batch.bytes(), batch.scopes().len());
        if needed > self.bytes_max {
            // It does not fit, and older deliveries are of no use without it.
            let Recent { bytes_max, floor, .. } = *self;
            *self = Recent { floor: floor.max(just_after(at)), ..Recent::new(bytes_max) };
            return;
        }
        while self.cost() + needed > self.bytes_max && self.forget_oldest() {}
        for (maker, action, key) in batch.items() {
            // A key is never that long.
            let Ok(bytes) = u32::try_from(key.len()) else { continue };
            self.items.push_back(Item { maker, action, bytes });
            self.text.extend(key);
        }
        let scopes = batch.scopes().to_vec();
        self.scopes += scopes.len();
        self.deliveries.push_back(Delivered { at, items: batch.len(), bytes: batch.bytes(), scopes });
    }

    /// Adds to `into` everything that was delivered for commits after `after`, and possibly more.
    pub fn since(&mut self, after: Lsn, into: &mut Batch) {
        let text = &*self.text.make_contiguous();
        let (mut item, mut byte) = (0, 0);
        for delivered in &self.deliveries {
            if delivered.at >= after {
                let mut start = byte;
                for its in self.items.range(item..item + delivered.items) {
                    let end = start + its.bytes as usize;
                    if let Some(key) = text.get(start..end) {
                        into.push_again(its.maker, its.action, key);
                    }
                    start = end;
                }
                delivered.scopes.iter().for_each(|scope| into.push_scope(scope));
            }
            item += delivered.items;
            byte += delivered.bytes;
        }
    }

    fn cost(&self) -> usize {
        cost(self.items.len(), self.text.len(), self.scopes) + self.deliveries.len() * DELIVERY_BYTES
    }

    fn forget_oldest(&mut self) -> bool {
        let Some(oldest) = self.deliveries.pop_front() else { return false };
        self.items.drain(..oldest.items.min(self.items.len()));
        self.text.drain(..oldest.bytes.min(self.text.len()));
        self.scopes -= oldest.scopes.len();
        self.floor = self.floor.max(just_after(oldest.at));
        true
    }
}

/// A target that has everything up to exactly `at` may still lack a part of the next commit, so the floor lies one byte
/// later.
fn just_after(at: Lsn) -> Lsn {
    Lsn::new(at.as_u64().saturating_add(1))
}

const fn cost(items: usize, text: usize, scopes: usize) -> usize {
    items * ITEM_BYTES + text + scopes * size_of::<Scope>() + DELIVERY_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::invalidation::RuleId;
    use crate::types::pattern::Extent;

    fn batch(keys: &[&str]) -> Batch {
        let mut batch = Batch::default();
        for key in keys {
            batch.push(Action::Delete, RuleId(0), key.as_bytes());
        }
        batch
    }

    fn since(recent: &mut Recent, after: u64) -> Vec<String> {
        let mut again = Batch::default();
        recent.since(Lsn::new(after), &mut again);
        let keys = again.keys(Action::Delete).map(|key| String::from_utf8_lossy(key).into_owned());
        keys.chain(again.scopes().iter().map(|scope| scope.keys.to_string())).collect()
    }

    #[test]
    fn what_was_delivered_after_a_position_comes_again() {
        let mut recent = Recent::new(1 << 20);
        recent.begin(Lsn::new(100));
        recent.remember(Lsn::new(200), &batch(&["a", "bb"]));
        recent.remember(Lsn::new(300), &batch(&["ccc", ""]));
        let mut flush = Batch::default();
        flush.push_scope(&Scope { action: Action::Delete, keys: Extent::read("user:*") });
        recent.remember(Lsn::new(400), &flush);
        assert_eq!(recent.reaches_back_to(), Lsn::new(100));
        assert_eq!(since(&mut recent, 100), ["a", "bb", "ccc", "", "user:*"]);
        assert_eq!(since(&mut recent, 201), ["ccc", "", "user:*"]);
        assert_eq!(since(&mut recent, 300), ["ccc", "", "user:*"], "it may hold a piece of the next commit");
        assert_eq!(since(&mut recent, 401), [""; 0]);
    }

    #[test]
    fn it_never_holds_more_than_it_may_and_says_how_far_it_reaches() {
        let mut recent = Recent::new(2000);
        recent.begin(Lsn::ZERO);
        for n in 1..=1000u64 {
            recent.remember(Lsn::new(n), &batch(&[&format!("user:{n:04}")]));
            assert!(recent.cost() <= 2000, "{}", recent.cost());
        }
        let floor = recent.reaches_back_to().as_u64();
        assert!((900..1000).contains(&floor), "{floor}");
        let again = since(&mut recent, floor);
        assert_eq!(again.first(), Some(&format!("user:{floor:04}")));
        assert_eq!(again.last().map(String::as_str), Some("user:1000"));
    }

    #[test]
    fn a_delivery_larger_than_all_of_it_is_forgotten_and_it_says_so() {
        let mut recent = Recent::new(500);
        recent.begin(Lsn::ZERO);
        recent.remember(Lsn::new(100), &batch(&["small"]));
        let large: Vec<String> = (0..100).map(|n| format!("user:{n}")).collect();
        recent.remember(Lsn::new(200), &batch(&large.iter().map(String::as_str).collect::<Vec<_>>()));
        recent.remember(Lsn::new(300), &batch(&["after"]));
        assert_eq!(recent.reaches_back_to(), Lsn::new(201));
        assert_eq!(since(&mut recent, 201), ["after"]);
    }

    #[test]
    fn before_it_has_begun_it_reaches_nowhere() {
        let mut recent = Recent::new(1000);
        recent.remember(Lsn::new(100), &batch(&["a"]));
        assert_eq!(recent.reaches_back_to(), Lsn::MAX);
        recent.begin(Lsn::new(5));
        assert_eq!(since(&mut recent, 0), [""; 0]);
    }
}
