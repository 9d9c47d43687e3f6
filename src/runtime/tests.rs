//! Tests of the loop, with a scripted source and a scripted target.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};

mod cache;
mod hot_path;
mod overload;
mod pacing;
mod probing;
mod reconciling;
mod synchronous;

use super::draining::DRAIN_TIME;
use super::*;
use crate::admin::metrics::Metrics;
use crate::admin::status::Board;
use crate::core::{AckLsn, OnGap, Policy};
use crate::postgres::{ErrorKind, Question, Seen, SlotSeen};
use crate::rules::config::{RawRule, resolve};
use crate::targets::{Delivered, Delivery, Early, Fault, FaultKind, Pending, Target, delivery};
use crate::transaction::manual::ManualKeys;
use crate::types::invalidation::Action;
use crate::types::lsn::Lsn;
use crate::types::observation::{Horizon, Observation, TableSeen};
use crate::types::record::{Record, StoredRecord};
use crate::types::server::System;
use crate::types::snapshot::Snapshot;
use cache::Cache;

/// One thing that the source sends or does on the stream.
enum Say {
    Data(Vec<u8>),
    Position(u64),
    Break,
}

#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is something that the test has happen")]
struct Shared {
    said: VecDeque<Say>,
    /// Messages sent since the last acknowledged commit; a new stream sends them again.
    sent: Vec<Vec<u8>>,
    acknowledged: Vec<u64>,
    opened: usize,
    /// How long a look at the source takes.
    look_takes: Duration,
    /// Another instance streams from the slot.
    busy: bool,
    /// Writers would wait for the stream.
    synchronous: bool,
    finished: bool,
    /// Number of streams that were dropped without being finished.
    let_go: usize,
    watching: Option<mpsc::Sender<Watched>>,
    /// The result of a look at the source; `None` for the usual one.
    shows: Option<Seen>,
    /// `pg_current_snapshot()` on the source, or [`NO_ANSWER`]; `None` if every commit is visible.
    snapshot: Option<&'static str>,
    /// The number of replicas in the configuration.
    replicas: usize,
    /// Which run of the replicas' servers it is.
    run: i64,
    /// A backlog is being read.
    behind: bool,
    /// The tables that inherit, as known before the first look. If set, the test itself sends the first look.
    heirs: Option<Heirs>,
    answers: Option<mpsc::Sender<Probed>>,
}

#[derive(Clone, Default)]
struct Script {
    shared: Arc<Mutex<Shared>>,
    news: Arc<Notify>,
}

impl Script {
    fn say(&self, say: impl IntoIterator<Item = Say>) {
        self.shared.lock().unwrap().said.extend(say);
        self.news.notify_one();
    }

    fn seen(&self) -> Seen {
        let confirmed = Lsn::new(self.acknowledged().unwrap_or(100));
        let usual = Seen {
            system: System { id: 7, timeline: 1, wal_end: Lsn::new(10_000), forks: Vec::new() },
            slot: SlotSeen::Usable { confirmed },
        };
        self.shared.lock().unwrap().shows.clone().unwrap_or(usual)
    }

    fn acknowledged(&self) -> Option<u64> {
        self.shared.lock().unwrap().acknowledged.last().copied()
    }
}

/// Stands for a source that does not answer a probe.
const NO_ANSWER: &str = "";

impl Script {
    /// Answers probes of the source. Tests answer for the replicas.
    fn readers(&self) -> (Probes, Replicas) {
        let (answers, probed) = mpsc::channel(64);
        let (questions, mut asked) = watch::channel(Question::default());
        let mut shared = self.shared.lock().unwrap();
        shared.answers = Some(answers.clone());
        let script = self.clone();
        tokio::task::spawn_local(async move {
            while asked.changed().await.is_ok() {
                let Question { walsender: Some(walsender), .. } = *asked.borrow_and_update() else { continue };
                while script.snapshot() == NO_ANSWER {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                let snapshot = Snapshot::Primary(script.snapshot().parse().unwrap());
                let _ = answers.send(Probed::Source { walsender, snapshot }).await;
            }
        });
        let replicas = Replicas::new(shared.replicas, MAX_LAG, Instant::now().into_std());
        (Probes { probed, questions, wanted: watch::channel(Lsn::ZERO).0 }, replicas)
    }

    fn snapshot(&self) -> &'static str {
        self.shared.lock().unwrap().snapshot.unwrap_or("1000:1000:")
    }

    fn readers_see(&self, snapshot: &'static str) {
        self.shared.lock().unwrap().snapshot = Some(snapshot);
    }
}

/// The allowed replication lag of a replica.
const MAX_LAG: Duration = Duration::from_secs(30);

struct FakeStream {
    script: Script,
    current: Vec<u8>,
    ended: bool,
}

impl Source for Script {
    type Stream = FakeStream;

    async fn look(&mut self) -> Result<Seen, SourceError> {
        let takes = self.shared.lock().unwrap().look_takes;
        tokio::time::sleep(takes).await;
        Ok(self.seen())
    }

    async fn create_slot(&mut self) -> Result<Lsn, SourceError> {
        Ok(Lsn::new(100))
    }

    async fn stream(&mut self) -> Result<(FakeStream, Lsn), SourceError> {
        let confirmed = match self.seen().slot {
            SlotSeen::Usable { confirmed } => confirmed,
            // The slot was just created.
            SlotSeen::Missing | SlotSeen::Lost { .. } => Lsn::new(100),
        };
        if self.shared.lock().unwrap().busy {
            return Err(SourceError::new(ErrorKind::Busy, "another instance has the slot"));
        }
        if self.shared.lock().unwrap().synchronous {
            return Err(SourceError::new(ErrorKind::Synchronous, "writers would wait"));
        }
        let mut shared = self.shared.lock().unwrap();
        shared.opened += 1;
        for bytes in std::mem::take(&mut shared.sent).into_iter().rev() {
            shared.said.push_front(Say::Data(bytes));
        }
        Ok((FakeStream { script: self.clone(), current: Vec::new(), ended: false }, confirmed))
    }
}

impl Stream for FakeStream {
    async fn ready(&mut self, intake: Intake) -> Result<(), SourceError> {
        loop {
            let news = self.script.news.notified();
            if intake == Intake::Open && !self.script.shared.lock().unwrap().said.is_empty() {
                return Ok(());
            }
            news.await;
        }
    }

    fn next(&mut self) -> Result<Option<Frame<'_>>, SourceError> {
        let said = self.script.shared.lock().unwrap().said.pop_front();
        match said {
            None => Ok(None),
            Some(Say::Break) => Err(SourceError::lost("the server went away")),
            Some(Say::Position(position)) => Ok(Some(Frame::Position(Lsn::new(position)))),
            Some(Say::Data(bytes)) => {
                self.script.shared.lock().unwrap().sent.push(bytes.clone());
                self.current = bytes;
                Ok(Some(Frame::Data(&self.current)))
            }
        }
    }

    fn acknowledge(&mut self, at: AckLsn) {
        let mut shared = self.script.shared.lock().unwrap();
        shared.acknowledged.push(at.lsn().as_u64());
        let passed = |bytes: &Vec<u8>| match pgoutput::decode(bytes) {
            Ok(Message::Commit { end, .. }) => end.end() <= at.lsn(),
            _ => false,
        };
        if let Some(last) = shared.sent.iter().rposition(passed) {
            shared.sent.drain(..=last);
        }
    }

    fn is_behind(&self) -> bool {
        self.script.shared.lock().unwrap().behind
    }

    fn walsender(&self) -> u32 {
        4711
    }

    async fn finish(mut self) -> Result<(), SourceError> {
        self.ended = true;
        self.script.shared.lock().unwrap().finished = true;
        Ok(())
    }
}

impl Drop for FakeStream {
    fn drop(&mut self) {
        if !self.ended {
            self.script.shared.lock().unwrap().let_go += 1;
        }
    }
}

struct Bench {
    script: Script,
    cache: Arc<Cache>,
    stop: oneshot::Sender<()>,
    running: Running,
}

const POLICY: Policy = Policy { pending_keys: 1000, decoding_timeout: Duration::from_mins(1), ..Policy::patient() };

pub(in crate::runtime) const SETTINGS: Settings =
    Settings { policy: POLICY, transaction_keys_max: 1000, manual_keys: ManualKeys::Any, is_resumed: false };

fn start(cache: Cache, settings: Settings) -> Bench {
    start_following(Script::default(), cache, settings)
}

fn start_following(script: Script, cache: Cache, settings: Settings) -> Bench {
    let cache = Arc::new(cache);
    let (_, stop, running) = launch(&script, std::slice::from_ref(&cache), settings);
    Bench { script, cache, stop, running }
}

type Running = tokio::task::JoinHandle<Result<(), Stopped>>;

fn launch(script: &Script, caches: &[Arc<Cache>], settings: Settings) -> (Board, oneshot::Sender<()>, Running) {
    let names: Vec<String> = (0..caches.len()).map(|n| format!("cache-{n}")).collect();
    let rules = resolve(&[RawRule::of("users", &["user:{id}"])], &names).unwrap();
    let (stop, stopped) = oneshot::channel();
    let (sender, reports) = mpsc::channel(64);
    let spawn = |(target, cache): (usize, &Arc<Cache>)| delivery::spawn(target, Arc::clone(cache) as _, sender.clone());
    let workers = caches.iter().enumerate().map(spawn).collect();
    let board = Board::new("s", "p", names.iter().map(|name| (name.as_str(), "redis")));
    let metrics = Metrics::new(&board);
    let names: Vec<Arc<str>> = names.iter().map(|name| name.as_str().into()).collect();
    let observer = Observer::new(board.clone(), metrics, &names, &rules);
    let (watching, watched) = mpsc::channel(64);
    let heirs = script.shared.lock().unwrap().heirs.take();
    if heirs.is_none() {
        watching.try_send(Watched::Seen(look(&rules, "as it was"))).unwrap();
    }
    script.shared.lock().unwrap().watching = Some(watching.clone());
    let (attest, mut wanted) = watch::channel(None);
    tokio::task::spawn_local(async move {
        while wanted.changed().await.is_ok() {
            let attested = *wanted.borrow_and_update();
            let _ = watching.send(Watched::Attested(attested)).await;
        }
    });
    let probes = script.readers();
    let pipeline =
        Pipeline::new(script.clone(), rules, (workers, reports), (watched, attest), probes, settings, observer);
    let local = async move { pipeline.with_heirs(heirs.unwrap_or_default()).run(async { drop(stopped.await) }).await };
    (board, stop, tokio::task::spawn_local(local))
}

/// An observation in which every rule's table has this stamp.
fn look(rules: &[Rule], stamp: &str) -> Observation {
    let table =
        |rule: &Rule| TableSeen { name: rule.table.clone(), stamp: Some(stamp.to_owned()), ..TableSeen::default() };
    let snapshot = Horizon { xmin: 9, xmax: 9 };
    Observation {
        wal: None,
        log_end: Lsn::ZERO,
        catalogue_at: std::time::Instant::now(),
        snapshot,
        tables: rules.iter().map(table).collect(),
        database: None,
        holder: None,
        synchronous: None,
    }
}

/// A transaction that inserts users with these ids, committed at `end`.
fn transaction(ids: &[u8], end: u64) -> Vec<Say> {
    transaction_of(ids.chunks(1), end)
}

fn transaction_of<'i>(ids: impl Iterator<Item = &'i [u8]>, end: u64) -> Vec<Say> {
    transaction_by(9, ids, end)
}

fn transaction_by<'i>(xid: u32, ids: impl Iterator<Item = &'i [u8]>, end: u64) -> Vec<Say> {
    let begin = [b"B".as_slice(), &end.to_be_bytes(), &[0; 8], &xid.to_be_bytes()].concat();
    let commit = [b"C\0".as_slice(), &end.to_be_bytes(), &end.to_be_bytes(), &[0; 8]].concat();
    let insert =
        |id: &[u8]| [b"I\0\0\0\x01N\0\x01t".as_slice(), &u32::try_from(id.len()).unwrap().to_be_bytes(), id].concat();
    let relation = b"R\0\0\0\x01public\0users\0d\0\x01\x01id\0\0\0\0\x17\xFF\xFF\xFF\xFF".to_vec();
    let mut said = vec![begin, relation];
    said.extend(ids.map(insert));
    said.push(commit);
    said.into_iter().map(Say::Data).collect()
}

/// Lets all other tasks run until `condition` holds. The clock is paused, so waiting costs no time.
async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it never came true that {what}");
}

fn on_paused_time(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

#[test]
fn a_commit_is_acknowledged_after_its_keys_are_confirmed_and_not_before() {
    on_paused_time(async {
        let Bench { script, cache, stop: _stop, .. } = start(Cache::default(), SETTINGS);
        *cache.closed.lock().unwrap() = true;
        script.say(transaction(b"12", 200));
        script.say([Say::Position(300)]);
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(script.acknowledged(), Some(100), "nothing is confirmed");
        *cache.closed.lock().unwrap() = false;
        eventually("the position after the commit is acknowledged", || script.acknowledged() == Some(300)).await;
        assert_eq!(*cache.keys.lock().unwrap(), ["user:1", "user:2"]);
    });
}

#[test]
fn positions_of_an_idle_stream_are_acknowledged_after_the_record_has_moved() {
    on_paused_time(async {
        let Bench { script, cache, stop: _stop, .. } = start(Cache::default(), SETTINGS);
        script.say([Say::Position(500)]);
        eventually("the idle position is acknowledged", || script.acknowledged() == Some(500)).await;
        let record = cache.record.lock().unwrap().clone().unwrap();
        assert_eq!(record.applied, Lsn::new(500));
    });
}

#[test]
fn the_record_of_an_unmapped_stream_moves_once_a_second_or_at_once_where_somebody_waits() {
    on_paused_time(async {
        let Bench { script, cache, stop: _stop, .. } = start(Cache::default(), SETTINGS);
        let records = || cache.records.lock().unwrap().len();
        // One position each millisecond, until the saved-up allowance is spent.
        for position in 0..10_000 {
            script.say([Say::Position(1000 + position)]);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let spent = records();
        for position in 0..10_000 {
            script.say([Say::Position(20_000 + position)]);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let moves = records() - spent;
        assert!((9..=11).contains(&moves), "{moves} moves in ten seconds");
        for at in 0..1000 {
            let at = 40_000 + at;
            script.say([awaited(at)]);
            tokio::time::sleep(Duration::from_millis(2)).await;
            assert_eq!(script.acknowledged(), Some(at));
        }
        script.say([Say::Position(50_000)]);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(script.acknowledged(), Some(50_000), "the next one comes in time");
    });
}

/// The message that `coherd.wait()` writes.
fn awaited(at: u64) -> Say {
    Say::Data([b"M\0".as_slice(), &at.to_be_bytes(), b"coherd.wait\0\0\0\0\0"].concat())
}

#[test]
fn a_position_inside_a_transaction_means_nothing() {
    on_paused_time(async {
        let Bench { script, stop: _stop, .. } = start(Cache::default(), SETTINGS);
        let mut said = transaction(b"1", 200);
        let commit = said.pop().unwrap();
        script.say(said);
        script.say([Say::Position(900)]);
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(script.acknowledged(), Some(100));
        script.say([commit]);
        eventually("the commit is acknowledged", || script.acknowledged() == Some(200)).await;
    });
}

#[test]
fn a_stream_that_breaks_inside_a_transaction_is_opened_again() {
    on_paused_time(async {
        let Bench { script, cache, stop: _stop, .. } = start(Cache::default(), SETTINGS);
        let mut half = transaction(b"12", 200);
        let commit = half.pop();
        script.say(half);
        script.say([Say::Break]);
        script.say(commit);
        eventually("the commit is acknowledged", || script.acknowledged() == Some(200)).await;
        assert_eq!(script.shared.lock().unwrap().opened, 2);
        assert!(cache.keys.lock().unwrap().ends_with(&["user:1".into(), "user:2".into()]));
    });
}

#[test]
fn the_record_says_settled_soon_after_it_is() {
    on_paused_time(async {
        let Bench { script, cache, stop: _stop, .. } = start(Cache::default(), SETTINGS);
        script.say(transaction(b"1", 200));
        let settled = || cache.record.lock().unwrap().as_ref().map(|record| record.settled);
        eventually("readers see it settled", || settled() == Some(Lsn::new(200))).await;
    });
}

#[test]
fn no_record_is_written_before_the_source_was_seen_and_none_moves_back() {
    on_paused_time(async {
        let script = Script::default();
        script.shared.lock().unwrap().look_takes = Duration::from_secs(5);
        let record = Record {
            applied: Lsn::new(400),
            confirmed: Lsn::new(400),
            settled: Lsn::new(400),
            system_id: 7,
            timeline: 1,
            sequence: 0,
            commit: None,
            rules: None,
        };
        let cache = Cache { record: Mutex::new(Some(record)), ..Cache::default() };
        let Bench { script, cache, stop: _stop, .. } = start_following(script, cache, SETTINGS);
        script.say(transaction(b"1", 200));
        script.say([Say::Position(900)]);
        eventually("all is acknowledged", || script.acknowledged() == Some(900)).await;
        let records = cache.records.lock().unwrap();
        assert!(records.iter().all(|its| its.system_id == 7 && its.applied >= Lsn::new(400)), "{records:?}");
    });
}

#[test]
fn a_target_that_lost_its_record_is_flushed_before_anything_counts_as_settled() {
    on_paused_time(async {
        let cache = Cache { not_empty: true, ..Cache::default() };
        let Bench { script, cache, stop: _stop, .. } = start(cache, SETTINGS);
        script.say([Say::Position(500)]);
        eventually("the position is acknowledged", || script.acknowledged() == Some(500)).await;
        assert_eq!(*cache.keys.lock().unwrap(), ["SCOPE user:*"]);
    });
}
