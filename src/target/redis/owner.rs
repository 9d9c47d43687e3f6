//! Whether the record is still ours: another coherd, which follows another database, may have begun to write it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use redis::Value;

use super::Redis;
use super::connection::Connected;
use super::reply::{Step, broken, refused};
use crate::backoff::Throttle;
use crate::continuity::Writer;
use crate::target::{Fault, FaultKind, Record};

/// How often the record is looked at. A target that is not idle writes it many times in between.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Looks at the record.
#[derive(Debug)]
pub(super) struct Owner(Mutex<Throttle>);

impl Default for Owner {
    fn default() -> Self {
        Owner(Mutex::new(Throttle::new(LOOK_EVERY)))
    }
}

impl Owner {
    fn is_due(&self) -> bool {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).is_due(Instant::now())
    }
}

impl Redis {
    /// Fails where the stored record is another database's, now and then, before a record is written over it. The fault
    /// has the target asked again what it remembers.
    pub(super) async fn own_record(&self, connected: &Connected, record: &Record) -> Result<(), Fault> {
        if !self.owner.is_due() {
            return Ok(());
        }
        let (place, key) = (&self.line.place, &self.record_key);
        let mut pipeline = redis::pipe();
        pipeline.cmd("HGETALL").arg(key);
        let replies = connected.connection.clone().send_packed_commands(&pipeline, 0, 1).await;
        let replies = replies.map_err(|error| broken(place, "reading the record", &error))?;
        let found = match replies.as_slice() {
            // The delivery replaces it.
            [Value::ServerError(error)] if error.code() == "WRONGTYPE" => None,
            [Value::ServerError(error)] => return Err(refused(place, Step::ReadRecord, error)),
            [reply] => super::record::read(reply).ok().flatten(),
            _ => None,
        };
        let written = replies.first().and_then(super::record::written);
        let writer = found.map(|found| Writer::of(&found, written.as_ref()));
        let Some(other) = writer.filter(|writer| writer.is_other(record.system_id, &self.slot)) else { return Ok(()) };
        let message = format!("{place}: another coherd has written the record {key}, for {other}");
        Err(Fault { kind: FaultKind::NotReady, message })
    }
}
