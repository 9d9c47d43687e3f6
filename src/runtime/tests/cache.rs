//! A scripted target.

use super::*;
use crate::types::invalidation::Batch;

/// A cache that keeps a list of its invalidations, and confirms nothing while it is closed.
#[derive(Default)]
pub(super) struct Cache {
    pub(super) keys: Mutex<Vec<String>>,
    pub(super) record: Mutex<Option<Record>>,
    pub(super) records: Mutex<Vec<Record>>,
    pub(super) closed: Mutex<bool>,
    /// Never answers.
    pub(super) stalled: Mutex<bool>,
    /// Loses the connection at the next delivery.
    pub(super) lost: Mutex<bool>,
    /// Panics at the next delivery.
    pub(super) broken: Mutex<bool>,
    pub(super) not_empty: bool,
    /// Takes early invalidations.
    pub(super) early: bool,
}

impl Cache {
    /// Fails as the test demands, before anything is carried out.
    async fn goes_wrong(&self) -> Result<(), Fault> {
        if *self.closed.lock().unwrap() {
            return Err(Fault { kind: FaultKind::OutOfMemory, message: "full".into() });
        }
        if std::mem::take(&mut *self.lost.lock().unwrap()) {
            return Err(Fault { kind: FaultKind::Connection, message: "gone".into() });
        }
        if *self.stalled.lock().unwrap() {
            std::future::pending::<()>().await;
        }
        let broken = *self.broken.lock().unwrap();
        assert!(!broken, "a bug in a target");
        Ok(())
    }

    fn remember(&self, batch: &Batch) {
        let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
        let mut keys = self.keys.lock().unwrap();
        keys.extend(batch.keys(Action::Delete).map(text));
        keys.extend(batch.scopes().iter().map(|scope| format!("SCOPE {}", scope.keys)));
    }
}

impl Early for Cache {
    fn invalidate<'a>(&'a self, batch: &'a Batch) -> Pending<'a, Delivered> {
        self.remember(batch);
        Box::pin(std::future::ready(Delivered::default()))
    }
}

impl Target for Cache {
    fn deliver<'a>(&'a self, delivery: &'a Delivery) -> Pending<'a, Result<Delivered, Fault>> {
        Box::pin(async move {
            self.goes_wrong().await?;
            self.records.lock().unwrap().push(delivery.record.clone());
            self.remember(&delivery.batch);
            let mut record = self.record.lock().unwrap();
            let kept = record.as_ref().and_then(|record| record.rules.clone());
            let marks = delivery.record.rules.clone().or(kept);
            *record = Some(Record { rules: marks, ..delivery.record.clone() });
            Ok(Delivered::default())
        })
    }

    fn flush<'a>(&'a self, batch: &'a Batch) -> Pending<'a, Result<Delivered, Fault>> {
        Box::pin(async move {
            self.goes_wrong().await?;
            self.remember(batch);
            Ok(Delivered::default())
        })
    }

    fn early(&self) -> Option<&dyn Early> {
        self.early.then_some(self)
    }

    fn load_record(&self) -> Pending<'_, Result<StoredRecord, Fault>> {
        let record = self.record.lock().unwrap().clone();
        Box::pin(async move { Ok(StoredRecord { record, empty: !self.not_empty, written: None }) })
    }
}
