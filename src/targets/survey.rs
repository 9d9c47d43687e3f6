//! Decides whether a target's record belongs to this source alone.

use std::time::{Duration, Instant};

use super::Target;
use crate::core::continuity::{Shared, Stranger, Writer};
use crate::types::finding::{Code, Finding};

/// How often a record of another database is read, to see whether it changes.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a target may take to answer one read.
const PATIENCE: Duration = Duration::from_secs(5);

/// Returns a finding if the record of a target belongs to another database, or if another coherd writes it. The first
/// pair is the target's name and the key of its record. `ours` is the database's system identifier, and the slot
/// through which coherd follows it.
pub async fn shared(target: &dyn Target, (name, record): (&str, &str), ours: (u64, &str)) -> Option<Finding> {
    let theirs = watched(target, ours.0, ours.1).await?;
    finding(name, record, ours, theirs)
}

/// The other writer of the record, and whether it still writes. `None` if there is no other writer, or if the target
/// does not answer.
async fn watched(target: &dyn Target, system_id: u64, slot: &str) -> Option<(Writer, bool)> {
    let (mut stranger, mut other) = (Stranger::default(), None);
    loop {
        let seen = tokio::time::timeout(PATIENCE, target.load_record()).await.ok()?.ok()?;
        match stranger.read(&seen, system_id, slot, Instant::now()) {
            Shared::Taken(writer) => return Some((writer, true)),
            Shared::Free => return other.map(|writer| (writer, false)),
            Shared::Watch => {
                other = seen.record.map(|record| Writer::of(&record, seen.written.as_ref()));
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }
}

fn finding(name: &str, record: &str, ours: (u64, &str), (theirs, moves): (Writer, bool)) -> Option<Finding> {
    let subject = format!("target {name}");
    let (our_id, our_slot) = ours;
    if moves {
        let message = format!(
            "another coherd writes the record {record}, for {theirs}; source.dsn leads to {our_id}, slot {our_slot}. Give \
             each a record of its own: targets.{name}.record"
        );
        return Some(Finding::error(Code::RECORD_FOREIGN, subject, message));
    }
    // In the same database, the slot may only have been renamed.
    let id = theirs.system_id;
    (id != our_id).then(|| {
        let message = format!(
            "the record {record} is of the database with system identifier {id}, which nobody follows at the moment; \
             source.dsn leads to {our_id}. The next start flushes every scope. If the other database has a coherd of its \
             own, name another record: targets.{name}.record"
        );
        Finding::warning(Code::RECORD_FOREIGN, subject, message)
    })
}
