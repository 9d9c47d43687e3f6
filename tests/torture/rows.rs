//! The writes of each row in the order of the commits. Each value that a reader gets is checked against them.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Few rows, so that each is read and written all the time.
pub const ROWS: usize = 48;

/// The row's version, unique among all writes of all rows. `None` if the row does not exist.
pub type Value = Option<i64>;

/// One write of a row.
#[derive(Debug, Clone, Copy)]
struct Write {
    value: Value,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The outcome is not known yet; readers may see the write.
    Open,
    /// It was rolled back; no reader may ever see it.
    RolledBack,
    /// It is committed, at or before this position.
    Committed(u64),
}

/// The verdict on a value that a reader got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// Nothing newer had settled.
    Fresh,
    /// This many writes are newer, up to and including the latest one that had settled.
    Old(usize),
    /// No writer has ever committed it.
    Unheard,
}

/// An announced write, for its writer.
#[derive(Debug, Clone, Copy)]
pub struct Announced {
    pub row: usize,
    at: usize,
}

/// The writes of every row, in the order of the row's commits.
pub struct Rows(Vec<Mutex<Vec<Write>>>);

impl Rows {
    /// Rows that all exist, with these values.
    pub fn begin(values: impl IntoIterator<Item = i64>) -> Rows {
        let first = |value| Write { value: Some(value), fate: Fate::Committed(0) };
        Rows(values.into_iter().map(|value| Mutex::new(vec![first(value)])).collect())
    }

    fn of(&self, row: usize) -> MutexGuard<'_, Vec<Write>> {
        self.0[row].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a write before its commit. The lock on the row keeps the writes in the order of the commits, and no
    /// reader can see a value before it is announced.
    pub fn announce(&self, row: usize, value: Value) -> Announced {
        let mut writes = self.of(row);
        writes.push(Write { value, fate: Fate::Open });
        Announced { row, at: writes.len() - 1 }
    }

    /// Records that the write will never be committed.
    pub fn rolled_back(&self, write: Announced) {
        self.of(write.row)[write.at].fate = Fate::RolledBack;
    }

    /// Records that the write is committed. `token` is at or past its commit.
    pub fn committed(&self, write: Announced, token: u64) {
        self.of(write.row)[write.at].fate = Fate::Committed(token);
    }

    /// Whether no write of the row is in progress, so that exactly one value is right.
    pub fn is_at_rest(&self, row: usize, settled: u64) -> bool {
        let may_be_seen = |write: &&Write| write.fate != Fate::RolledBack;
        let last = self.of(row).iter().rfind(may_be_seen).map(|write| write.fate);
        matches!(last, Some(Fate::Committed(token)) if token <= settled)
    }

    /// Assesses a value. Its reader had seen before the read that everything up to `settled` is settled.
    pub fn assess(&self, row: usize, settled: u64, value: Value) -> Worth {
        let writes = self.of(row);
        let is_settled = |write: &Write| matches!(write.fate, Fate::Committed(token) if token <= settled);
        let is_it = |write: &Write| write.value == value && write.fate != Fate::RolledBack;
        // A row may have been deleted several times; the last deletion is the most favourable match.
        match (writes.iter().rposition(is_it), writes.iter().rposition(is_settled)) {
            (None, _) => Worth::Unheard,
            (Some(its), Some(least)) if its < least => Worth::Old(least - its),
            (Some(_), _) => Worth::Fresh,
        }
    }
}

/// A value as it is stored in a cache.
pub fn text(value: Value) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

/// Parses a value from a cache, which holds no other text.
pub fn parse(text: &[u8]) -> Value {
    let text = std::str::from_utf8(text).expect("UTF-8");
    (text != "none").then(|| text.parse().expect("a version"))
}

#[test]
fn a_value_is_old_once_a_later_write_of_its_row_has_settled_and_not_before() {
    let rows = Rows::begin([1, 2]);
    let two = rows.announce(0, Some(3));
    assert_eq!([1, 3, 2].map(|value| rows.assess(0, 90, Some(value))), [Worth::Fresh, Worth::Fresh, Worth::Unheard]);
    let gone = rows.announce(0, None);
    let back = rows.announce(0, Some(4));
    rows.committed(two, 100);
    rows.rolled_back(back);
    assert_eq!([Some(1), Some(3)].map(|value| rows.assess(0, 99, value)), [Worth::Fresh, Worth::Fresh]);
    assert_eq!([Some(1), Some(3)].map(|value| rows.assess(0, 100, value)), [Worth::Old(1), Worth::Fresh]);
    rows.committed(gone, 120);
    assert_eq!([Some(1), Some(3)].map(|value| rows.assess(0, 120, value)), [Worth::Old(2), Worth::Old(1)]);
    assert_eq!([None, Some(4)].map(|value| rows.assess(0, 120, value)), [Worth::Fresh, Worth::Unheard]);
}
