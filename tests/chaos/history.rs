//! Records what happened to each key and to the whole system, for the report of a stale key.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many events of one key are kept.
const KEY_EVENTS_MAX: usize = 30;
/// How many events that concern every key are kept.
const ALL_EVENTS_MAX: usize = 5000;

type Event = (Duration, Arc<str>);

#[derive(Default)]
struct Told {
    keys: HashMap<String, VecDeque<Event>>,
    /// Events that concern every key: faults, restarts, truncations.
    all: VecDeque<Event>,
    /// Counts by kind, then by detail.
    counts: BTreeMap<String, BTreeMap<String, u64>>,
}

/// A history that every thread writes to.
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

    /// Records an event of these keys.
    pub fn of_keys<K: Into<String>>(&self, keys: impl IntoIterator<Item = K>, what: &str) {
        let (now, what) = (self.began.elapsed(), Arc::<str>::from(what));
        let mut told = self.told();
        for key in keys {
            push(told.keys.entry(key.into()).or_default(), (now, Arc::clone(&what)), KEY_EVENTS_MAX);
        }
    }

    /// Records an event that concerns every key.
    pub fn of_all(&self, what: &str) {
        let event = (self.began.elapsed(), what.into());
        push(&mut self.told().all, event, ALL_EVENTS_MAX);
    }

    /// Counts `what`, of the form `kind: detail`.
    pub fn count(&self, what: &str, more: usize) {
        let (kind, detail) = what.split_once(": ").expect("kind: detail");
        let mut told = self.told();
        let of_kind = told.counts.entry(kind.to_owned()).or_default();
        *of_kind.entry(detail.to_owned()).or_default() += more as u64;
    }

    /// All counts, one line for each kind.
    pub fn figures(&self) -> String {
        let told = self.told();
        told.counts.iter().fold(String::new(), |mut text, (kind, of_kind)| {
            let details: Vec<String> = of_kind.iter().map(|(detail, count)| format!("{detail} {count}")).collect();
            writeln!(text, "  {kind}: {}", details.join(", ")).expect("text");
            text
        })
    }

    /// The events of a key and, from its first event on, those that concern every key.
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

fn push(events: &mut VecDeque<Event>, event: Event, most: usize) {
    if events.len() == most {
        events.pop_front();
    }
    events.push_back(event);
}
