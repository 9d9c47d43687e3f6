//! From a frame to a delivery, nothing is allocated for a row or a key.

use super::*;
use crate::continuity::Server;
use crate::core::Output;
use crate::invalidation::Batch;
use crate::target::delivery::Shipment;

const ROWS: usize = 10;
const TRANSACTIONS: u32 = 100;

struct Belt {
    reader: Reader,
    core: Core,
    worker: delivery::Lane,
    recorder: Recorder,
    reports: mpsc::Receiver<Report>,
}

impl Belt {
    fn new(cache: &Arc<Cache>) -> Belt {
        let names = ["cache".to_owned()];
        let rules = resolve(&[RawRule::of("users", &["user:{id}", "name:{id|lower|md5}"])], &names).unwrap();
        let (sender, reports) = mpsc::channel(64);
        let worker = delivery::spawn(0, Arc::clone(cache) as _, sender);
        let board = Board::new("s", "p", [("cache", "redis")]);
        let recorder = Recorder::new(board.clone(), Metrics::new(&board), &["cache".into()], &rules);
        let settings = Settings { pending_keys_max: 1_000_000, transaction_keys_max: 1_000_000, ..SETTINGS };
        let mut core = Core::new(1, &rules, settings.limits(), Instant::now().into_std(), 0);
        core.begin(Lsn::new(100), (7, 1), 0);
        core.opened(Lsn::new(100));
        core.answered(Sight::Primary("1000000:1000000:".parse().unwrap()));
        Belt { reader: Reader::new(rules, 1_000_000), core, worker, recorder, reports }
    }

    fn read(&mut self, frames: &[Vec<u8>]) {
        for frame in frames {
            let message = pgoutput::decode(frame).unwrap();
            read_message(message, &mut self.reader, &mut self.core, &mut self.recorder).unwrap();
        }
    }

    fn send(&mut self) {
        self.core.send(Instant::now().into_std());
        for output in self.core.take_outputs() {
            if let Output::Send { ticket, delivery, .. } = output {
                self.worker.send(Shipment { ticket, delivery }).unwrap();
            }
        }
    }

    /// Sends what was read and waits until it is confirmed.
    async fn deliver(&mut self) {
        self.core.bound();
        self.core.pass(false);
        self.send();
        loop {
            match self.reports.recv().await.unwrap() {
                Report::Recalled { lane, recollection, answer } => {
                    let server = Server {
                        system_id: 7,
                        timeline: 1,
                        forks: &[],
                        slot: SlotOrigin::Found { confirmed: Lsn::new(100) },
                        reached: Lsn::MAX,
                    };
                    self.core.reconcile(lane, &recollection, server);
                    self.core.verified(lane);
                    answer.send(Batch::default()).unwrap();
                    self.send();
                }
                Report::Confirmed { lane, ticket, delivery, .. } => {
                    self.core.confirmed(lane, ticket, delivery, Instant::now().into_std());
                    return;
                }
                Report::Up { .. } | Report::Flushed { .. } => {}
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
    // As Postgres does, once a connection.
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
