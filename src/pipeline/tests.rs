//! The loop between a scripted source and a scripted target.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, mpsc, oneshot};

use super::*;
use crate::invalidation::Action;
use crate::ledger::AckLsn;
use crate::metrics::Metrics;
use crate::record::Record;
use crate::rules::config::{MissingOld, RawAction, RawRule, resolve};
use crate::source::SlotSeen;
use crate::status::Board;
use crate::target::{Delivered, Delivery, Fault, FaultKind, Pending, Target, delivery};

/// What the test tells the source to send.
enum Say {
    Data(Vec<u8>),
    Position(u64),
    Break,
}

#[derive(Default)]
struct Shared {
    said: VecDeque<Say>,
    /// What was sent since the last acknowledged commit, which a new stream sends again.
    sent: Vec<Vec<u8>>,
    acknowledged: Vec<u64>,
    opened: usize,
    /// How long a look at the source takes.
    look_takes: Duration,
    /// Another instance streams from the slot.
    busy: bool,
    finished: bool,
    /// Streams dropped without being finished.
    let_go: usize,
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

    fn acknowledged(&self) -> Option<u64> {
        self.shared.lock().unwrap().acknowledged.last().copied()
    }
}

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
        let confirmed = Lsn::new(self.acknowledged().unwrap_or(100));
        Ok(Seen {
            system_id: 7,
            timeline: 1,
            wal_end: Lsn::new(10_000),
            slot: SlotSeen::Usable { confirmed },
            forks: Vec::new(),
        })
    }

    async fn create_slot(&mut self) -> Result<Lsn, SourceError> {
        Ok(Lsn::new(100))
    }

    async fn stream(&mut self) -> Result<FakeStream, SourceError> {
        if self.shared.lock().unwrap().busy {
            return Err(SourceError::Busy("another instance has the slot".into()));
        }
        let mut shared = self.shared.lock().unwrap();
        shared.opened += 1;
        for bytes in std::mem::take(&mut shared.sent).into_iter().rev() {
            shared.said.push_front(Say::Data(bytes));
        }
        Ok(FakeStream { script: self.clone(), current: Vec::new(), ended: false })
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
            Some(Say::Break) => Err(SourceError::Lost("the server went away".into())),
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

/// A cache that remembers what it was told, and confirms nothing while it is closed.
#[derive(Default)]
struct Cache {
    keys: Mutex<Vec<String>>,
    record: Mutex<Option<Record>>,
    records: Mutex<Vec<Record>>,
    closed: Mutex<bool>,
    /// Does not answer any more.
    stalled: Mutex<bool>,
    /// Panics at the next delivery.
    broken: Mutex<bool>,
    not_empty: bool,
}

impl Target for Cache {
    fn deliver<'a>(&'a self, delivery: &'a Delivery) -> Pending<'a, Result<Delivered, Fault>> {
        Box::pin(async move {
            if *self.closed.lock().unwrap() {
                return Err(Fault { kind: FaultKind::OutOfMemory, message: "full".into() });
            }
            if *self.stalled.lock().unwrap() {
                std::future::pending::<()>().await;
            }
            let broken = *self.broken.lock().unwrap();
            assert!(!broken, "a bug in a target");
            self.records.lock().unwrap().push(delivery.record.clone());
            let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
            let mut keys = self.keys.lock().unwrap();
            keys.extend(delivery.batch.keys(Action::Delete).map(text));
            keys.extend(delivery.batch.scopes().iter().map(|scope| format!("SCOPE {}", scope.pattern)));
            *self.record.lock().unwrap() = Some(delivery.record.clone());
            Ok(Delivered::default())
        })
    }

    fn recall(&self) -> Pending<'_, Result<Recollection, Fault>> {
        let record = self.record.lock().unwrap().clone();
        Box::pin(async move { Ok(Recollection { record, empty: !self.not_empty }) })
    }
}

struct Bench {
    script: Script,
    cache: Arc<Cache>,
    stop: oneshot::Sender<()>,
    running: Running,
}

const SETTINGS: Settings = Settings {
    on_gap: OnGap::Flush,
    on_first_start: OnFirstStart::Keep,
    pending_keys_max: 1000,
    transaction_keys_max: 1000,
    wal_budget: None,
};

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
    let raw = RawRule {
        table: "users".into(),
        keys: vec!["user:{id}".into()],
        action: RawAction::Delete,
        when_changed: vec![],
        targets: None,
        on_missing_old: MissingOld::Refuse,
        scope: None,
    };
    let names: Vec<String> = (0..caches.len()).map(|n| format!("cache-{n}")).collect();
    let rules = resolve(&[raw], &names).unwrap();
    let (stop, stopped) = oneshot::channel();
    let (sender, reports) = mpsc::channel(64);
    let spawn = |(lane, cache): (usize, &Arc<Cache>)| delivery::spawn(lane, Arc::clone(cache) as _, sender.clone());
    let workers = caches.iter().enumerate().map(spawn).collect();
    let board = Board::new("s", "p", names.iter().map(|name| (name.as_str(), "redis")));
    let metrics = Metrics::new(&board);
    let names: Vec<Arc<str>> = names.iter().map(|name| name.as_str().into()).collect();
    let recorder = Recorder::new(board.clone(), metrics, &names, &rules);
    let pipeline = Pipeline::new(script.clone(), rules, workers, reports, settings, recorder);
    let local = async move { pipeline.run(async { drop(stopped.await) }).await };
    (board, stop, tokio::task::spawn_local(local))
}

/// A transaction that inserts users with these ids, committed at `end`.
fn transaction(ids: &[u8], end: u64) -> Vec<Say> {
    transaction_of(ids.chunks(1), end)
}

fn transaction_of<'i>(ids: impl Iterator<Item = &'i [u8]>, end: u64) -> Vec<Say> {
    let begin = [b"B".as_slice(), &end.to_be_bytes(), &[0; 8], &[0, 0, 0, 9]].concat();
    let commit = [b"C\0".as_slice(), &end.to_be_bytes(), &end.to_be_bytes(), &[0; 8]].concat();
    let insert =
        |id: &[u8]| [b"I\0\0\0\x01N\0\x01t".as_slice(), &u32::try_from(id.len()).unwrap().to_be_bytes(), id].concat();
    let relation = b"R\0\0\0\x01public\0users\0d\0\x01\x01id\0\0\0\0\x17\xFF\xFF\xFF\xFF".to_vec();
    let mut said = vec![begin, relation];
    said.extend(ids.map(insert));
    said.push(commit);
    said.into_iter().map(Say::Data).collect()
}

/// Lets everything else run until `condition` holds. The clock is paused, so waiting costs nothing.
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
        let record = Record { applied: Lsn::new(400), settled: Lsn::new(400), system_id: 7, timeline: 1 };
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

#[test]
fn with_on_gap_halt_nothing_is_flushed_nor_acknowledged() {
    on_paused_time(async {
        let cache = Cache { not_empty: true, ..Cache::default() };
        let Bench { script, cache, stop: _stop, .. } = start(cache, Settings { on_gap: OnGap::Halt, ..SETTINGS });
        script.say([Say::Position(500)]);
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert_eq!(script.acknowledged(), Some(100));
        assert!(cache.keys.lock().unwrap().is_empty());
    });
}

#[test]
fn a_stream_that_cannot_be_read_is_let_go_and_taken_up_again() {
    on_paused_time(async {
        let settings = Settings { pending_keys_max: 1_000_000, transaction_keys_max: 1_000_000, ..SETTINGS };
        let Bench { script, cache, stop: _stop, .. } = start(Cache::default(), settings);
        *cache.closed.lock().unwrap() = true;
        let ids: Vec<Vec<u8>> = (0..300_000).map(|id| format!("{id:06}").into_bytes()).collect();
        script.say(transaction_of(ids.iter().map(Vec::as_slice), 200));
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert!(!script.shared.lock().unwrap().said.is_empty(), "it was read although nothing has room");
        assert_eq!(script.shared.lock().unwrap().let_go, 0);
        eventually("the stream is let go", || script.shared.lock().unwrap().let_go == 1).await;
        *cache.closed.lock().unwrap() = false;
        eventually("it is opened again", || script.shared.lock().unwrap().opened == 2).await;
        eventually("everything is acknowledged", || script.acknowledged() == Some(200)).await;
        let keys: std::collections::HashSet<String> = cache.keys.lock().unwrap().iter().cloned().collect();
        assert_eq!(keys.len(), 300_000);
    });
}

#[test]
fn a_shutdown_delivers_what_was_read_and_acknowledges_it() {
    on_paused_time(async {
        let Bench { script, cache, stop, running } = start(Cache::default(), SETTINGS);
        script.say(transaction(b"123", 200));
        eventually("it was read", || script.shared.lock().unwrap().said.is_empty()).await;
        stop.send(()).unwrap();
        running.await.unwrap().unwrap();
        assert_eq!(cache.keys.lock().unwrap().len(), 3);
        assert_eq!(script.acknowledged(), Some(200));
        assert!(script.shared.lock().unwrap().finished);
    });
}

#[test]
fn a_standby_that_takes_over_asks_its_targets_anew() {
    on_paused_time(async {
        let script = Script::default();
        script.shared.lock().unwrap().busy = true;
        let at = |applied| Record { applied, settled: applied, system_id: 7, timeline: 1 };
        let record = Mutex::new(Some(at(Lsn::new(100))));
        let cache = Cache { record, not_empty: true, ..Cache::default() };
        let Bench { script, cache, stop: _stop, .. } = start_following(script, cache, SETTINGS);
        tokio::time::sleep(Duration::from_mins(1)).await;
        // Meanwhile the other instance does its work, and then goes.
        *cache.record.lock().unwrap() = Some(at(Lsn::new(5000)));
        script.shared.lock().unwrap().acknowledged.push(5000);
        script.shared.lock().unwrap().busy = false;
        script.say(transaction(b"1", 6000));
        eventually("the commit is acknowledged", || script.acknowledged() == Some(6000)).await;
        assert_eq!(*cache.keys.lock().unwrap(), ["user:1"], "nothing was missed, so nothing is flushed");
    });
}

#[test]
fn a_drain_without_a_source_and_with_a_target_that_stalls_ends_in_time() {
    on_paused_time(async {
        let Bench { script, cache, stop, running } = start(Cache::default(), SETTINGS);
        script.say(transaction(b"1", 200));
        eventually("the target is up", || script.acknowledged() == Some(200)).await;
        *cache.stalled.lock().unwrap() = true;
        script.shared.lock().unwrap().busy = true;
        script.say(transaction(b"2", 300));
        script.say([Say::Break]);
        tokio::time::sleep(Duration::from_secs(3)).await;
        stop.send(()).unwrap();
        let ended = tokio::time::timeout(DRAIN_TIME * 2, running).await;
        ended.expect("it ends").unwrap().unwrap();
    });
}

/// `coherd.invalidate()` of a hundred keys.
fn by_hand(begin: usize) -> Say {
    let keys: Vec<String> = (begin..begin + 100).map(|n| format!("\"by-hand:{n}\"")).collect();
    let content = format!(r#"{{"v":1,"do":"invalidate","keys":[{}]}}"#, keys.join(","));
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    Say::Data([b"M\x01\0\0\0\0\0\0\0\xC8coherd\0".as_slice(), &length, content.as_bytes()].concat())
}

#[test]
fn keys_named_by_hand_wait_in_the_log_for_a_target_that_is_away() {
    on_paused_time(async {
        let script = Script::default();
        let caches = [Arc::new(Cache::default()), Arc::new(Cache::default())];
        let (board, _stop, _running) = launch(&script, &caches, SETTINGS);
        *caches[1].closed.lock().unwrap() = true;
        let mut said = transaction(b"1", 200);
        let commit = said.pop().unwrap();
        said.extend((0..10_000).step_by(100).map(by_hand));
        said.push(commit);
        script.say(said);
        tokio::time::sleep(Duration::from_mins(1)).await;
        let pending = board.status().targets[1].pending_keys;
        assert!(pending <= SETTINGS.pending_keys_max as u64, "{pending} keys wait in memory");
        *caches[1].closed.lock().unwrap() = false;
        eventually("the commit is acknowledged", || script.acknowledged() == Some(200)).await;
        for cache in caches {
            // A stream that was let go meanwhile sends some of them twice.
            let keys: std::collections::HashSet<String> = cache.keys.lock().unwrap().iter().cloned().collect();
            assert_eq!(keys.len(), 10_001, "every key is struck, and no scope");
        }
    });
}

#[test]
fn a_worker_that_ends_ends_the_daemon_rather_than_leave_it_standing_still() {
    on_paused_time(async {
        let Bench { script, cache, stop: _stop, running } = start(Cache::default(), SETTINGS);
        script.say(transaction(b"1", 200));
        eventually("the target is up", || script.acknowledged() == Some(200)).await;
        *cache.broken.lock().unwrap() = true;
        script.say(transaction(b"2", 300));
        let ended = tokio::time::timeout(Duration::from_mins(1), running).await;
        assert!(matches!(ended.expect("it ends").unwrap(), Err(Stopped::Broken(text)) if text.contains("cache-0")));
        assert_eq!(script.acknowledged(), Some(200));
    });
}
