//! Locks on keys. A writer holds the keys that it changes until it knows the outcome of its transaction; a reader holds
//! those that it reads and caches. So no reader can cache a value older than the database has, and every stale value at
//! the end is coherd's fault.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::tables::TABLES;

/// How long a TRUNCATE waits for the holders of keys of its table.
const TABLE_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Default)]
struct State {
    keys: HashSet<(usize, u32)>,
    /// The number of held keys of each table.
    counts: [usize; TABLES.len()],
    whole: [bool; TABLES.len()],
}

/// All keys of all tables, each free or held.
#[derive(Default)]
pub struct Holds {
    state: Mutex<State>,
    changed: Condvar,
}

/// Keys that are held until this is dropped.
pub struct Held {
    holds: Arc<Holds>,
    pub table: usize,
    pub numbers: Vec<u32>,
    whole: bool,
}

impl Holds {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds those of `numbers` that are free.
    pub fn free_of(self: &Arc<Self>, table: usize, numbers: impl IntoIterator<Item = u32>) -> Held {
        let mut state = self.state();
        let mut numbers: Vec<u32> = numbers.into_iter().collect();
        numbers.retain(|&number| !state.whole[table] && state.keys.insert((table, number)));
        state.counts[table] += numbers.len();
        Held { holds: Arc::clone(self), table, numbers, whole: false }
    }

    /// Holds every key of a table. Returns `None` if they stay busy.
    pub fn table(self: &Arc<Self>, table: usize) -> Option<Held> {
        let mut state = self.state();
        if std::mem::replace(&mut state.whole[table], true) {
            return None;
        }
        let held = Held { holds: Arc::clone(self), table, numbers: Vec::new(), whole: true };
        let busy = |state: &mut State| state.counts[table] > 0;
        let waited = self.changed.wait_timeout_while(state, TABLE_PATIENCE, busy);
        let (state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        drop(state);
        (!waited.timed_out()).then_some(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.holds.state();
        for &number in &self.numbers {
            state.keys.remove(&(self.table, number));
        }
        state.counts[self.table] -= self.numbers.len();
        if self.whole {
            state.whole[self.table] = false;
        }
        drop(state);
        self.holds.changed.notify_all();
    }
}
