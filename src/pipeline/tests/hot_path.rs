//! From a frame to a delivery, nothing is allocated for a row or a key.

use super::*;
use crate::continuity::Known;
use crate::invalidation::Batch;

const ROWS: usize = 10;
const TRANSACTIONS: u32 = 100;

struct Belt {
    reader: Reader,
    lanes: Lanes,
    recorder: Recorder,
    reports: mpsc::Receiver<Report>,
}

impl Belt {
    fn new(cache: &Arc<Cache>) -> Belt {
        let names = ["cache".to_owned()];
        let rules = resolve(&[RawRule::of("users", &["user:{id}", "name:{id|lower|md5}"])], &names).unwrap();
        let (sender, reports) = mpsc::channel(64);
        let workers = vec![delivery::spawn(0, Arc::clone(cache) as _, sender)];
        let board = Board::new("s", "p", [("cache", "redis")]);
        let recorder = Recorder::new(board.clone(), Metrics::new(&board), &["cache".into()], &rules);
        let settings = Settings { pending_keys_max: 1_000_000, transaction_keys_max: 1_000_000, ..SETTINGS };
        let mut lanes = Lanes::new(workers, &rules, &settings);
        lanes.begin(Lsn::new(100), 7, 1);
        lanes.answered(Sight::Primary("1000000:1000000:".parse().unwrap()));
        Belt { reader: Reader::new(rules, 1_000_000), lanes, recorder, reports }
    }

    fn read(&mut self, frames: &[Vec<u8>]) {
        for frame in frames {
            let message = pgoutput::decode(frame).unwrap();
            read_message(message, &mut self.reader, &mut self.lanes, &mut self.recorder).unwrap();
        }
    }

    /// Sends what was read and waits until it is confirmed.
    async fn deliver(&mut self) {
        self.lanes.bound();
        self.lanes.pass(false);
        self.lanes.ship(Instant::now());
        loop {
            match self.reports.recv().await.unwrap() {
                Report::Recalled { lane, recollection, answer } => {
                    let known = Known {
                        system_id: 7,
                        timeline: 1,
                        forks: &[],
                        slot: SlotOrigin::Found { confirmed: Lsn::new(100) },
                        reached: Lsn::MAX,
                        written: Lsn::ZERO,
                        sequence: 0,
                        acquainted: false,
                        is_ours: false,
                        remembered: Lsn::MAX,
                    };
                    self.lanes.judge(lane, &recollection, known);
                    self.lanes.ledger.trust(lane);
                    answer.send(Batch::default()).unwrap();
                    self.lanes.ship(Instant::now());
                }
                Report::Confirmed { lane, ticket, delivery, .. } => {
                    self.lanes.confirmed(lane, ticket, delivery);
                    return;
                }
                Report::Up { .. } => {}
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
