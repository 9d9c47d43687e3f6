//! A worker that the test drives as the pipeline does, with nothing left out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use coherd::core::Ticket;
use coherd::targets::delivery::{Report, Shipment, WorkerHandle, spawn};
use coherd::targets::{Delivery, Fault, StoredRecord, Target};
use coherd::types::invalidation::Action;
use tokio::sync::mpsc;

use super::{Asked, delivery, open_url};
use crate::support::Redis;

/// Keeps every loaded record, and answers that nothing is to be corrected.
pub struct Driver {
    pub handle: Option<WorkerHandle>,
    pub reports: mpsc::Receiver<Report>,
    pub stored_records: Vec<StoredRecord>,
    pub confirmed: Vec<u64>,
    pub troubles: Vec<Fault>,
    pub ups: usize,
    next_ticket: u64,
}

impl Driver {
    pub fn new(target: Arc<dyn Target>) -> Driver {
        let (sender, reports) = mpsc::channel(8);
        Driver {
            handle: Some(spawn(0, target, sender)),
            reports,
            stored_records: Vec::new(),
            confirmed: Vec::new(),
            troubles: Vec::new(),
            ups: 0,
            next_ticket: 0,
        }
    }

    pub fn send(&mut self, delivery: Delivery) {
        let ticket = Ticket::new(self.next_ticket);
        self.next_ticket += 1;
        self.handle.as_mut().expect("open").send(Shipment { ticket, delivery }).expect("room");
    }

    pub fn has_room(&self) -> bool {
        self.handle.as_ref().is_some_and(WorkerHandle::has_room)
    }

    /// Takes reports until `done`.
    pub async fn until(&mut self, what: &str, done: impl Fn(&Driver) -> bool) {
        let deadline = Instant::now() + Duration::from_mins(1);
        while !done(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            let report = tokio::time::timeout(left, self.reports.recv()).await;
            let report = report.unwrap_or_else(|_| panic!("it never came true that {what}: {:?}", self.troubles));
            match report.expect("the worker lives") {
                Report::RecordLoaded { stored, answer, .. } => {
                    self.stored_records.push(stored);
                    answer.send(coherd::types::record::Answer::default()).expect("the worker waits");
                }
                Report::Confirmed { delivery, .. } => self.confirmed.push(delivery.record.applied.as_u64()),
                Report::Trouble { fault, .. } => self.troubles.push(fault),
                Report::Flushed { .. } | Report::Early { .. } => {}
                Report::Up { .. } => self.ups += 1,
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn ten_thousand_deliveries_arrive_in_order_through_one_worker() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    asked.fill(10_000, |n| format!("user:{n}"));
    let mut driver = Driver::new(open_url(&server.url()));
    for n in 0..10_000_u64 {
        driver.until("there is room", Driver::has_room).await;
        driver.send(delivery(n + 1, &[(Action::Delete, &format!("user:{n}"))]));
    }
    driver.until("all are confirmed", |driver| driver.confirmed.len() == 10_000).await;
    assert!(driver.confirmed.windows(2).all(|pair| pair[0] < pair[1]), "in order");
    assert_eq!(asked.run::<u64>(&["DBSIZE"]), 1);
    assert_eq!(asked.field("applied").as_deref(), Some("10000"));
    assert_eq!((driver.stored_records.len(), driver.ups, driver.troubles.len()), (1, 1, 0));
    assert_eq!(asked.run::<String>(&["INFO", "clients"]).matches("connected_clients:2").count(), 1, "one connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_server_killed_again_and_again_under_load_loses_no_delivery() {
    let mut server = Redis::start();
    let mut driver = Driver::new(open_url(&server.url()));
    for n in 1..=400_u64 {
        driver.until("there is room", Driver::has_room).await;
        driver.send(delivery(n, &[(Action::Delete, &format!("user:{n}")), (Action::Bump, "p")]));
        if n % 100 == 50 {
            // Some deliveries are in flight when it dies.
            server.restart();
        }
    }
    driver.until("all are confirmed", |driver| driver.confirmed.len() == 400).await;
    assert!(driver.confirmed.windows(2).all(|pair| pair[0] < pair[1]), "in order, each once");
    assert_eq!(Asked::of(&server).field("applied").as_deref(), Some("400"));
    // The worker noticed each loss, and loaded the record before it sent anything again.
    assert!(driver.stored_records.len() > 1, "{:?}", driver.stored_records.len());
    let fresh = driver.stored_records.iter().filter(|stored| stored.record.is_none()).count();
    assert!(fresh > 1, "an emptied server is seen as such: {fresh}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_dropped_worker_closes_its_connection() {
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let mut driver = Driver::new(open_url(&server.url()));
    driver.until("it is up", |driver| driver.ups == 1).await;
    driver.handle = None;
    assert!(driver.reports.recv().await.is_none());
    crate::support::until("the connection is closed", || {
        let clients: String = asked.run(&["INFO", "clients"]);
        clients.contains("connected_clients:1\r\n").then_some(())
    });
}
