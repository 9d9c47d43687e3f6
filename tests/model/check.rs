//! Checks one cell and reports the result.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model};

use super::setup::Setup;
use super::story;
use super::system::{CACHE, DATABASE, OUTRUN, SETTLES};

/// A safe cell with fewer states than this has lost possible behaviour.
const STATES_MIN: usize = 5_000;

/// Asserts that the checker visits every state and no reader gets a value that is too old.
pub fn is_safe(setup: Setup) {
    let (setup, began) = (widened(setup), Instant::now());
    let checker = setup.checker().threads(threads()).spawn_bfs().join();
    let states = checker.unique_state_count();
    let is_wrong = [CACHE, DATABASE].iter().any(|wrong| checker.discovery(wrong).is_some());
    report(if is_wrong { "NOT SAFE" } else { "safe" }, states, checker.max_depth(), began);
    for wrong in [CACHE, DATABASE] {
        if let Some(path) = checker.discovery(wrong) {
            panic!("a cell that is to be safe is not. Not so: {wrong}.\n{}", story::tell(&setup, path));
        }
    }
    for shown in [SETTLES, OUTRUN] {
        assert!(checker.discovery(shown).is_some(), "of {states} states none shows that {shown}");
    }
    assert!(states >= STATES_MIN, "{states} states, of {STATES_MIN} at least: what is it that cannot happen any more?");
}

/// Asserts that the checker finds a way in which the cache serves a value that is too old.
pub fn is_stale(setup: Setup) {
    let began = Instant::now();
    let finish = HasDiscoveries::AllOf([CACHE].into());
    let checker = setup.checker().finish_when(finish).threads(threads()).spawn_bfs().join();
    let path = checker.discovery(CACHE);
    let result = if path.is_some() { "stale" } else { "NOT STALE" };
    report(result, checker.unique_state_count(), checker.max_depth(), began);
    let path = path.expect("a cell that is to be stale is not");
    if std::env::var_os("COHERD_MODEL_STORIES").is_some() {
        eprintln!("{}", story::tell(&setup, path));
    }
}

fn report(result: &str, states: usize, depth: usize, began: Instant) {
    let thread = std::thread::current();
    let cell = thread.name().unwrap_or_default().rsplit("::").next().unwrap_or_default().to_owned();
    eprintln!("model: {cell}: {result}, {states} states, depth {depth}, {:.1} s", began.elapsed().as_secs_f64());
}

/// The setup with higher limits from the environment, for long runs.
fn widened(setup: Setup) -> Setup {
    let at_least = |name: &str, least: u8| {
        let wish = std::env::var(name).ok().map(|text| text.parse::<u8>().expect(name));
        wish.unwrap_or(0).max(least)
    };
    Setup {
        readers: at_least("COHERD_MODEL_READERS", setup.readers),
        commits: at_least("COHERD_MODEL_COMMITS", setup.commits),
        faults: at_least("COHERD_MODEL_FAULTS", setup.faults),
        crashes: at_least("COHERD_MODEL_CRASHES", setup.crashes),
        ..setup
    }
}

/// One by default, because other tests run beside it.
fn threads() -> usize {
    std::env::var("COHERD_MODEL_THREADS").map_or(1, |text| text.parse().expect("COHERD_MODEL_THREADS"))
}
