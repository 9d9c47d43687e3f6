mod answers;
mod early;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;
use crate::core::Ticket;
use crate::targets::Record;
use crate::types::invalidation::{Action, Batch, RuleId, Scope};
use crate::types::lsn::Lsn;
use crate::types::pattern::Extent;

/// What the scripted target does with the next delivery.
#[derive(Clone, Copy)]
enum Act {
    Accept,
    /// Rejects it and changes nothing.
    Reject(FaultKind),
    /// Carries it out and loses the reply.
    FailAfterWrite(FaultKind),
    /// Carries it out and replies after this many milliseconds.
    RespondSlowly(u64),
    /// Carries it out and never replies.
    HoldResponse,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    RecordLoaded,
    Wrote { applied: u64, scopes: Vec<String> },
    Flushed(Vec<String>),
}

#[derive(Default)]
struct Scripted {
    acts: Mutex<VecDeque<Act>>,
    flush_acts: Mutex<VecDeque<Act>>,
    loads: Mutex<VecDeque<FaultKind>>,
    events: Mutex<Vec<Event>>,
    begun_at: Mutex<Vec<Instant>>,
    in_flight: Mutex<Vec<u64>>,
}

impl Scripted {
    fn new(acts: &[Act]) -> Arc<Self> {
        Arc::new(Scripted { acts: Mutex::new(acts.iter().copied().collect()), ..Scripted::default() })
    }

    fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    async fn act(&self, act: Act, carry_out: impl FnOnce()) -> Result<Delivered, Fault> {
        if let Act::Reject(kind) = act {
            return Err(fault(kind));
        }
        carry_out();
        match act {
            Act::RespondSlowly(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
            Act::HoldResponse => std::future::pending().await,
            Act::FailAfterWrite(kind) => return Err(fault(kind)),
            Act::Accept | Act::Reject(_) => {}
        }
        Ok(Delivered { hit: 1, ..Delivered::default() })
    }

    fn write(&self, delivery: &Delivery) {
        let scopes = delivery.batch.scopes().iter().map(|scope| scope.keys.to_string()).collect();
        self.events.lock().unwrap().push(Event::Wrote { applied: delivery.record.applied.as_u64(), scopes });
    }
}

fn fault(kind: FaultKind) -> Fault {
    Fault { kind, message: "scripted".to_owned() }
}

impl Target for Scripted {
    fn deliver<'a>(&'a self, delivery: &'a Delivery) -> Pending<'a, Result<Delivered, Fault>> {
        Box::pin(async move {
            let act = self.acts.lock().unwrap().pop_front().unwrap_or(Act::Accept);
            self.begun_at.lock().unwrap().push(Instant::now());
            let applied = delivery.record.applied.as_u64();
            let delivered = self.act(act, || {
                self.write(delivery);
                self.in_flight.lock().unwrap().push(applied);
            });
            let delivered = delivered.await?;
            self.in_flight.lock().unwrap().retain(|other| *other != applied);
            Ok(delivered)
        })
    }

    fn flush<'a>(&'a self, batch: &'a Batch) -> Pending<'a, Result<Delivered, Fault>> {
        Box::pin(async move {
            let act = self.flush_acts.lock().unwrap().pop_front().unwrap_or(Act::Accept);
            let scopes = batch.scopes().iter().map(|scope| scope.keys.to_string()).collect();
            self.act(act, || self.events.lock().unwrap().push(Event::Flushed(scopes))).await
        })
    }

    fn load_record(&self) -> Pending<'_, Result<StoredRecord, Fault>> {
        Box::pin(async move {
            if let Some(kind) = self.loads.lock().unwrap().pop_front() {
                return Err(fault(kind));
            }
            self.events.lock().unwrap().push(Event::RecordLoaded);
            Ok(StoredRecord { record: None, empty: true, written: None })
        })
    }
}

struct Bench {
    handle: WorkerHandle,
    reports: mpsc::Receiver<Report>,
    next_ticket: u64,
}

impl Bench {
    /// A worker that waits for the answer to its first record.
    fn new(target: &Arc<Scripted>) -> Bench {
        bench_of(Arc::clone(target) as Arc<dyn Target>)
    }

    /// A worker that is up.
    async fn up(target: &Arc<Scripted>) -> Bench {
        let mut bench = Bench::new(target);
        bench.answer().await;
        assert!(matches!(bench.next().await, Report::Up { target: 0 }));
        target.events.lock().unwrap().clear();
        bench
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket += 1;
        Ticket::new(self.next_ticket)
    }

    fn send(&mut self, applied: u64, scopes: &[&str]) -> Ticket {
        let mut batch = Batch::default();
        batch.push(Action::Delete, RuleId(0), b"k");
        for pattern in scopes {
            batch.push_scope(&scope(pattern));
        }
        let record = record(applied);
        let ticket = self.ticket();
        self.handle.send(Shipment { ticket, delivery: Delivery { batch, record } }).expect("room");
        ticket
    }

    async fn next(&mut self) -> Report {
        let within = tokio::time::timeout(Duration::from_mins(2), self.reports.recv());
        within.await.expect("a report in time").expect("the worker lives")
    }

    /// The next report that is not a trouble, and the number of troubles before it.
    async fn past_troubles(&mut self) -> (Report, usize) {
        let mut troubles = 0;
        loop {
            match self.next().await {
                Report::Trouble { .. } => troubles += 1,
                report => return (report, troubles),
            }
        }
    }

    async fn answer(&mut self) {
        let (Report::RecordLoaded { answer, .. }, _) = self.past_troubles().await else {
            panic!("no record was loaded")
        };
        answer.send(Answer::default()).expect("the worker waits");
    }

    async fn confirmed(&mut self) -> u64 {
        loop {
            match self.past_troubles().await.0 {
                Report::Confirmed { delivery, .. } => return delivery.record.applied.as_u64(),
                Report::Up { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

fn bench_of(target: Arc<dyn Target>) -> Bench {
    let (sender, reports) = mpsc::channel(8);
    Bench { handle: spawn(0, target, sender), reports, next_ticket: 0 }
}

fn record(applied: u64) -> Record {
    let applied = Lsn::new(applied);
    Record {
        applied,
        confirmed: Lsn::ZERO,
        settled: Lsn::ZERO,
        system_id: 1,
        timeline: 1,
        sequence: 0,
        commit: None,
        rules: None,
    }
}

fn scope(pattern: &str) -> Scope {
    Scope { action: Action::Delete, keys: Extent::read(pattern) }
}

fn wrote(applied: u64, scopes: &[&str]) -> Event {
    Event::Wrote { applied, scopes: scopes.iter().map(|&pattern| pattern.to_owned()).collect() }
}

#[tokio::test(start_paused = true)]
async fn deliveries_overlap_up_to_the_window_and_keep_their_order() {
    let target = Scripted::new(&[Act::RespondSlowly(50); 8]);
    let mut bench = Bench::up(&target).await;
    for applied in 1..=4 {
        assert!(bench.handle.has_room());
        bench.send(applied, &[]);
    }
    assert!(!bench.handle.has_room());
    let began = Instant::now();
    for applied in 1..=4 {
        assert_eq!(bench.confirmed().await, applied);
        assert!(bench.handle.has_room());
    }
    assert_eq!(began.elapsed().as_millis(), 50, "all at once");
    assert_eq!(target.events(), [1, 2, 3, 4].map(|applied| wrote(applied, &[])));
}

#[tokio::test(start_paused = true)]
async fn a_full_window_and_a_dead_worker_give_the_shipment_back() {
    let target = Scripted::new(&[Act::HoldResponse; 4]);
    let mut bench = Bench::up(&target).await;
    for applied in 1..=4 {
        bench.send(applied, &[]);
    }
    let ticket = bench.ticket();
    let record = record(5);
    let shipment = Shipment { ticket, delivery: Delivery { batch: Batch::default(), record } };
    let back = bench.handle.send(shipment).unwrap_err();
    assert_eq!(back.ticket, ticket);
    let Bench { mut handle, reports, .. } = bench;
    drop(reports);
    tokio::time::sleep(Duration::from_millis(1)).await;
    handle.unconfirmed.store(0, Ordering::Relaxed);
    assert!(handle.send(*back).is_err(), "nobody is there to take it");
    assert_eq!(handle.unconfirmed.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_delivery_with_scopes_is_alone_in_flight() {
    let target = Scripted::new(&[Act::RespondSlowly(50); 8]);
    let mut bench = Bench::up(&target).await;
    bench.send(1, &[]);
    bench.send(2, &["user:*"]);
    bench.send(3, &[]);
    bench.send(4, &[]);
    let mut most = Vec::new();
    for applied in 1..=4 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        most.push(target.in_flight.lock().unwrap().clone());
        assert_eq!(bench.confirmed().await, applied);
    }
    assert_eq!(most[..3], [vec![1], vec![2], vec![3, 4]]);
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_everything_unconfirmed_is_sent_again_in_order() {
    for act in [Act::Reject(FaultKind::Connection), Act::FailAfterWrite(FaultKind::Connection)] {
        let target = Scripted::new(&[Act::RespondSlowly(5), Act::HoldResponse, act]);
        let mut bench = Bench::up(&target).await;
        for applied in 1..=3 {
            bench.send(applied, &[]);
        }
        bench.answer().await;
        for applied in 1..=3 {
            assert_eq!(bench.confirmed().await, applied);
        }
        let events = target.events();
        let loaded = events.iter().position(|event| *event == Event::RecordLoaded).expect("it was loaded");
        assert_eq!(events[loaded + 1..], [1, 2, 3].map(|applied| wrote(applied, &[])));
    }
}

#[tokio::test(start_paused = true)]
async fn only_a_fault_after_which_the_target_may_be_another_one_asks_for_its_memory() {
    use FaultKind::{Connection, Denied, NotReady, OutOfMemory, ReadOnly, Rejected, Timeout};
    for (kind, asked) in [
        (Connection, true),
        (Timeout, true),
        (ReadOnly, true),
        (NotReady, true),
        (OutOfMemory, false),
        (Denied, false),
        (Rejected, false),
    ] {
        let target = Scripted::new(&[Act::Reject(kind)]);
        let mut bench = Bench::up(&target).await;
        bench.send(1, &[]);
        if asked {
            bench.answer().await;
        }
        assert_eq!(bench.confirmed().await, 1, "{kind:?}");
        assert_eq!(target.events().contains(&Event::RecordLoaded), asked, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_tries_for_ever_one_trouble_an_attempt_and_is_up_again_after_the_confirmation() {
    let target = Scripted::new(&[Act::Reject(FaultKind::OutOfMemory); 100]);
    let mut bench = Bench::up(&target).await;
    bench.send(1, &[]);
    bench.send(2, &[]);
    for n in 1..=100 {
        let Report::Trouble { attempts, fault, .. } = bench.next().await else { panic!() };
        assert_eq!((attempts, fault.kind), (n, FaultKind::OutOfMemory));
    }
    assert!(matches!(bench.next().await, Report::Confirmed { .. }));
    assert!(matches!(bench.next().await, Report::Up { .. }));
    assert_eq!(bench.confirmed().await, 2);
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_one_is_in_flight_until_it_is_confirmed() {
    let target = Scripted::new(&[Act::Reject(FaultKind::OutOfMemory), Act::RespondSlowly(50)]);
    let mut bench = Bench::up(&target).await;
    bench.send(1, &[]);
    bench.send(2, &[]);
    assert!(matches!(bench.next().await, Report::Trouble { .. }));
    // Longer than the first backoff, and shorter than the reply takes.
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(*target.in_flight.lock().unwrap(), [1]);
    assert_eq!((bench.confirmed().await, bench.confirmed().await), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn what_somebody_has_to_remedy_is_tried_slowly_and_the_rest_at_most_every_two_seconds() {
    for (kind, most) in [(FaultKind::OutOfMemory, 2), (FaultKind::Denied, 30)] {
        let target = Scripted::new(&[Act::Reject(kind); 60]);
        let mut bench = Bench::up(&target).await;
        bench.send(1, &[]);
        assert_eq!(bench.confirmed().await, 1);
        let begun = target.begun_at.lock().unwrap().clone();
        let longest = begun.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(longest <= Duration::from_secs(most) + Duration::from_millis(1), "{kind:?}: {longest:?}");
        assert!(longest >= Duration::from_millis(most * 500), "{kind:?}: {longest:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_loaded_is_loaded_again() {
    let target = Scripted::new(&[]);
    target.loads.lock().unwrap().extend([FaultKind::Connection, FaultKind::NotReady, FaultKind::Denied]);
    let mut bench = Bench::new(&target);
    bench.send(1, &[]);
    let (report, troubles) = bench.past_troubles().await;
    assert_eq!(troubles, 3);
    let Report::RecordLoaded { answer, .. } = report else { panic!() };
    answer.send(Answer::default()).unwrap();
    assert_eq!(bench.confirmed().await, 1);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_handle_ends_the_worker_in_the_midst_of_anything() {
    for act in [Act::HoldResponse, Act::Reject(FaultKind::Denied), Act::Accept] {
        let target = Scripted::new(&[act; 50]);
        let mut bench = Bench::up(&target).await;
        bench.send(1, &[]);
        tokio::time::sleep(Duration::from_millis(1)).await;
        let Bench { handle, mut reports, .. } = bench;
        drop(handle);
        let all = async { while reports.recv().await.is_some() {} };
        tokio::time::timeout(Duration::from_millis(1), all).await.expect("the worker ends at once");
        assert_eq!(Arc::strong_count(&target), 1, "and lets the target go");
    }
}

impl Bench {
    fn flush(&mut self, pattern: &str) -> Ticket {
        let (mut batch, ticket) = (Batch::default(), self.ticket());
        batch.push_scope(&scope(pattern));
        self.handle.flush(ticket, batch).expect("no other flush is in flight");
        ticket
    }
}

#[tokio::test(start_paused = true)]
async fn deliveries_go_on_beside_a_flush_that_takes_long() {
    let target = Scripted::new(&[]);
    target.flush_acts.lock().unwrap().push_back(Act::RespondSlowly(60_000));
    let mut bench = Bench::up(&target).await;
    let flush = bench.flush("user:*");
    for applied in [100, 200] {
        let ticket = bench.send(applied, &[]);
        let Report::Confirmed { ticket: its, .. } = bench.next().await else { panic!("no confirmation") };
        assert_eq!(its, ticket);
    }
    let Report::Flushed { ticket, batch, .. } = bench.next().await else { panic!("the flush is confirmed last") };
    assert_eq!((ticket, batch.scopes().len()), (flush, 1));
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_is_refused_is_tried_again_while_deliveries_go_on_and_the_target_is_not_up() {
    let target = Scripted::new(&[]);
    target.flush_acts.lock().unwrap().extend([Act::Reject(FaultKind::Denied); 3]);
    let mut bench = Bench::up(&target).await;
    bench.flush("user:*");
    for refused in 1..=3 {
        assert!(matches!(bench.next().await, Report::Trouble { attempts, .. } if attempts == refused));
        bench.send(u64::from(refused), &[]);
        assert_eq!(bench.confirmed().await, u64::from(refused));
    }
    assert!(matches!(bench.next().await, Report::Flushed { .. }));
    assert!(matches!(bench.next().await, Report::Up { .. }));
    let flushed = |event: &Event| matches!(event, Event::Flushed(_));
    assert_eq!(target.events().iter().filter(|event| flushed(event)).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flush_whose_connection_is_lost_is_begun_again_after_the_record_was_read() {
    let target = Scripted::new(&[]);
    target.flush_acts.lock().unwrap().extend([Act::FailAfterWrite(FaultKind::Connection), Act::Accept]);
    let mut bench = Bench::up(&target).await;
    bench.flush("user:*");
    assert!(matches!(bench.next().await, Report::Trouble { .. }));
    bench.answer().await;
    let mut reports = vec![bench.next().await, bench.next().await];
    reports.retain(|report| !matches!(report, Report::Up { .. }));
    assert!(matches!(reports.as_slice(), [Report::Flushed { .. }]), "{reports:?}");
    let scopes = || Event::Flushed(vec!["user:*".to_owned()]);
    assert_eq!(target.events(), [scopes(), Event::RecordLoaded, scopes()]);
}
