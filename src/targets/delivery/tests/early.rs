//! What leaves early, past the worker.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::{bench_of, record};
use crate::targets::delivery::{Report, Shipment};
use crate::targets::{Delivered, Delivery, Early, Fault, Pending, Replaced, StoredRecord, Target};
use crate::types::invalidation::{Action, Batch, RuleId};

/// A target that answers an early invalidation when the test lets it, and replaces something at `foreign`.
struct Answering(Semaphore);

impl Early for Answering {
    fn invalidate<'a>(&'a self, batch: &'a Batch) -> Pending<'a, Delivered> {
        Box::pin(async move {
            self.0.acquire().await.expect("it stays open").forget();
            let is_foreign = batch.keys(Action::Delete).any(|key| key == b"foreign");
            let keys = if is_foreign { vec![0] } else { Vec::new() };
            Delivered { hit: 1, replaced: Replaced { keys, scopes: Vec::new() } }
        })
    }
}

impl Target for Answering {
    fn deliver<'a>(&'a self, _: &'a Delivery) -> Pending<'a, Result<Delivered, Fault>> {
        Box::pin(async { Ok(Delivered { hit: 5, ..Delivered::default() }) })
    }

    fn flush<'a>(&'a self, _: &'a Batch) -> Pending<'a, Result<Delivered, Fault>> {
        Box::pin(async { Ok(Delivered::default()) })
    }

    fn load_record(&self) -> Pending<'_, Result<StoredRecord, Fault>> {
        Box::pin(async { Ok(StoredRecord { record: None, empty: true, written: None }) })
    }

    fn early(&self) -> Option<&dyn Early> {
        Some(self)
    }
}

fn batch(key: &[u8]) -> Batch {
    let mut batch = Batch::default();
    batch.push(Action::Delete, RuleId(0), key);
    batch
}

async fn hit_of_next(bench: &mut super::Bench) -> u64 {
    let shipment = Shipment { ticket: bench.ticket(), delivery: Delivery { batch: batch(b"k"), record: record(1) } };
    bench.handle.send(shipment).expect("room");
    loop {
        match bench.next().await {
            Report::Confirmed { delivered, .. } => return delivered.hit,
            Report::Up { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_left_early_counts_its_hits_with_the_next_delivery_and_few_are_in_flight() {
    let target = Arc::new(Answering(Semaphore::new(0)));
    let mut bench = bench_of(Arc::clone(&target) as Arc<dyn Target>);
    bench.answer().await;
    assert!(bench.handle.takes_early());
    for _ in 0..1000 {
        bench.handle.invalidate_early(batch(b"k"));
    }
    assert_eq!(hit_of_next(&mut bench).await, 5, "none of them is answered");
    target.0.add_permits(1000);
    tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    assert_eq!(hit_of_next(&mut bench).await, 5 + 64, "the others were dropped");
    assert_eq!(hit_of_next(&mut bench).await, 5, "each counts once");
}

#[tokio::test(start_paused = true)]
async fn what_an_early_invalidation_replaces_is_reported() {
    let target = Arc::new(Answering(Semaphore::new(1)));
    let mut bench = bench_of(target as Arc<dyn Target>);
    bench.answer().await;
    assert!(matches!(bench.next().await, Report::Up { .. }));
    bench.handle.invalidate_early(batch(b"foreign"));
    let Report::Early { target: 0, batch, delivered } = bench.next().await else { panic!("not reported") };
    assert_eq!((batch.len(), delivered.replaced.keys), (1, vec![0]));
}
