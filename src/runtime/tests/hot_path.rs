//! Tests that the way from a frame to a delivery allocates nothing per row or key.

use super::*;
use crate::core::continuity::SlotOrigin;
use crate::targets::delivery::Shipment;
use crate::types::server::System;

const ROWS: usize = 10;
const TRANSACTIONS: u32 = 100;

struct Belt {
    reader: Reader,
    core: Core,
    worker: delivery::WorkerHandle,
    observer: Observer,
    reports: mpsc::Receiver<Report>,
    answer: Option<oneshot::Sender<crate::types::record::Answer>>,
    outputs: Vec<Output>,
}

impl Belt {
    fn new(cache: &Arc<Cache>) -> Belt {
        let names = ["cache".to_owned()];
        let rules = resolve(&[RawRule::of("users", &["user:{id}", "name:{id|lower|md5}"])], &names).unwrap();
        let (sender, reports) = mpsc::channel(64);
        let worker = delivery::spawn(0, Arc::clone(cache) as _, sender);
        let board = Board::new("s", "p", [("cache", "redis")]);
        let observer = Observer::new(board.clone(), Metrics::new(&board), &["cache".into()], &rules);
        let settings = Settings {
            policy: Policy { pending_keys: 1_000_000, ..POLICY },
            transaction_keys_max: 1_000_000,
            ..SETTINGS
        };
        let now = Instant::now().into_std();
        let replicas = Replicas::new(0, MAX_LAG, now);
        let mut core = Core::new(1, rules.clone(), "s", settings.policy, replicas, now);
        let slot = SlotOrigin::Found { confirmed: Lsn::new(100) };
        let system = System { id: 7, timeline: 1, wal_end: Lsn::MAX, forks: Vec::new() };
        let opening = Opening { system, slot, start: Lsn::new(100), walsender: 4711 };
        core.step(now, Input::Observed(&look(&rules, "as it was"), &[]));
        core.step(now, Input::StreamOpened(opening, 0));
        core.step(now, Input::Snapshot(4711, Snapshot::Primary("1000000:1000000:".parse().unwrap())));
        Belt {
            reader: Reader::new(rules, 1_000_000),
            core,
            worker,
            observer,
            reports,
            answer: None,
            outputs: Vec::new(),
        }
    }

    fn read(&mut self, frames: &[Vec<u8>]) {
        for frame in frames {
            let message = pgoutput::decode(frame).unwrap();
            read_message(message, &mut self.reader, &mut self.core, &mut self.observer).unwrap();
        }
    }

    fn step(&mut self, input: Input<'_>) {
        self.core.step(Instant::now().into_std(), input);
        self.core.take_outputs(&mut self.outputs);
        for output in self.outputs.drain(..) {
            match output {
                Output::Send { ticket, delivery, .. } => self.worker.send(Shipment { ticket, delivery }).unwrap(),
                Output::Reconciled(_, its) => self.answer.take().unwrap().send(its).unwrap(),
                _ => {}
            }
        }
    }

    /// Sends what was read and waits until it is confirmed.
    async fn deliver(&mut self) {
        self.step(Input::Read(false));
        loop {
            match self.reports.recv().await.unwrap() {
                Report::RecordLoaded { target, stored, answer } => {
                    self.answer = Some(answer);
                    self.step(Input::RecordLoaded(target, stored));
                    self.step(Input::Read(false));
                }
                Report::Confirmed { target, ticket, delivery, .. } => {
                    self.step(Input::Confirmed(target, ticket, delivery));
                    return;
                }
                Report::Up { .. } | Report::Flushed { .. } | Report::Early { .. } => {}
                Report::Trouble { fault, .. } => panic!("{fault}"),
            }
        }
    }
}

fn frames(round: u64) -> Vec<Vec<u8>> {
    let ids: Vec<Vec<u8>> = (0..ROWS).map(|row| format!("{round:02}-{row}-Some-Text").into_bytes()).collect();
    let transactions = (0..TRANSACTIONS).map(|n| {
        let end = 1000 + round * 1_000_000 + u64::from(n) * 100;
        transaction_by(9, ids.iter().map(Vec::as_slice), end)
    });
    let relation = |frame: &Vec<u8>| frame.first() == Some(&b'R');
    let mut described = false;
    let said = transactions.flatten().filter_map(|say| match say {
        Say::Data(frame) => Some(frame),
        Say::Position(_) | Say::Break => None,
    });
    // Like Postgres, sends the Relation message once per connection.
    said.filter(|frame| !relation(frame) || (round == 0 && !std::mem::replace(&mut described, true))).collect()
}

#[test]
fn reading_allocates_nothing_once_the_batches_have_their_size() {
    on_paused_time(async {
        let mut belt = Belt::new(&Arc::new(Cache::default()));
        for round in 0..10 {
            belt.read(&frames(round));
            belt.deliver().await;
        }
        let next = frames(10);
        let allocated = allocation_counter::measure(|| belt.read(&next));
        assert_eq!(allocated.count_total, 0, "{allocated:?} for {} frames", next.len());
    });
}
