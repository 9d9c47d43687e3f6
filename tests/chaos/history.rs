//! What happened, to each key and to the whole, for the case that something stale is found.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most that is kept of one key.
const KEY_EVENTS_MAX: usize = 30;

type Event = (Duration, Arc<str>);

#[derive(Default)]
struct Told {
    keys: HashMap<String, VecDeque<Event>>,
    /// Faults, restarts, truncations: what concerns every key.
    all: Vec<Event>,
    counts: BTreeMap<String, u64>,
}

/// Written by every thread.
pub struct History {
    began: Instant,
    told: Mutex<Told>,
}

impl History {
    pub fn begin() -> History {
        History { began: Instant::now(), told: Mutex::default() }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something happened to these keys.
    pub fn of_keys<K: Into<String>>(&self, keys: impl IntoIterator<Item = K>, what: &str) {
        let (now, what) = (self.began.elapsed(), Arc::<str>::from(what));
        let mut told = self.told();
        for key in keys {
            let events = told.keys.entry(key.into()).or_default();
            if events.len() == KEY_EVENTS_MAX {
                events.pop_front();
            }
            events.push_back((now, Arc::clone(&what)));
        }
    }

    /// Something happened to everything.
    pub fn of_all(&self, what: &str) {
        let event = (self.began.elapsed(), what.into());
        self.told().all.push(event);
    }

    /// Counts.
    pub fn count(&self, what: &str, more: usize) {
        *self.told().counts.entry(what.to_owned()).or_default() += more as u64;
    }

    /// All counts, by name.
    pub fn figures(&self) -> String {
        let told = self.told();
        told.counts.iter().fold(String::new(), |mut text, (what, count)| {
            writeln!(text, "  {what}: {count}").expect("text");
            text
        })
    }

    /// What happened to a key and, from its first event on, to everything.
    pub fn of_key(&self, key: &str) -> String {
        let told = self.told();
        let own = told.keys.get(key).into_iter().flatten();
        let first = own.clone().next().map_or(Duration::ZERO, |(at, _)| *at);
        let everything = told.all.iter().filter(|(at, _)| *at >= first);
        let mut events: Vec<(Duration, String)> = own.map(|(at, what)| (*at, format!("  {what}"))).collect();
        events.extend(everything.map(|(at, what)| (*at, what.to_string())));
        events.sort();
        events.iter().fold(String::new(), |mut text, (at, what)| {
            writeln!(text, "  {:>9.3} s  {what}", at.as_secs_f64()).expect("text");
            text
        })
    }
}
