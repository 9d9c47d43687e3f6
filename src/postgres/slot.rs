//! Reads and assesses a slot's row in `pg_replication_slots`, in the same way over both kinds of connection.

use super::{SlotSeen, SourceError};
use crate::types::slot::{Slot, SlotState};
use crate::types::table::{quote_identifier, quote_literal};

/// The query for the slot called `name`, with NULL where Postgres `major` lacks the column.
pub(super) fn query(name: &str, major: u32) -> String {
    let invalidation = match major {
        17.. => "invalidation_reason",
        16 => "CASE WHEN conflicting THEN 'conflict with recovery' END",
        _ => "NULL",
    };
    let (failover, is_copy) = match major {
        17.. => ("failover", "synced AND pg_catalog.pg_is_in_recovery()"),
        _ => ("NULL", "NULL"),
    };
    format!(
        "SELECT plugin, database, active_pid, wal_status, confirmed_flush_lsn, two_phase, {failover}, {invalidation}, \
         {is_copy} FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
        quote_literal(name)
    )
}

/// Reads the row of [`query`] in text form: `cell` returns the value in a column, or `None` for NULL.
pub(super) fn read<'r>(cell: impl Fn(usize) -> Option<&'r str>) -> Slot {
    let text = |column| cell(column).map(str::to_owned);
    let flag = |column| cell(column).map(|value| value == "t");
    Slot {
        plugin: text(0),
        database: text(1),
        active_pid: cell(2).and_then(|pid| pid.parse().ok()),
        wal_status: text(3),
        confirmed: cell(4).and_then(|confirmed| confirmed.parse().ok()),
        two_phase: flag(5).unwrap_or_default(),
        failover: flag(6),
        invalidation: text(7),
        is_copy: flag(8).unwrap_or_default(),
    }
}

/// What the slot called `name` means for the daemon, which follows `database`.
pub(super) fn assess(slot: &Slot, name: &str, database: &str) -> Result<SlotSeen, SourceError> {
    let name = quote_identifier(name);
    match slot.state(database) {
        SlotState::Usable { confirmed } => Ok(SlotSeen::Usable { confirmed }),
        SlotState::Lost { reason } => Ok(SlotSeen::Lost { reason: reason.to_owned() }),
        SlotState::OfOthers(why) => Err(SourceError::refused(format!("the slot {name} {}", why.text(database)))),
        SlotState::Copy => Err(SourceError::lost(format!(
            "the slot {name} is being synchronized from the primary and can be used after promotion; until then, connect \
             to the primary (target_session_attrs=primary)"
        ))),
        // No process streams from it: the client that asked for it may be gone.
        SlotState::Creating { by } => {
            let by = by.map(|pid| format!(" by process {pid} of the server")).unwrap_or_default();
            Err(SourceError::lost(format!(
                "the slot {name} is still being created{by}: the server waits for running transactions to end; run \
                 coherd check"
            )))
        }
    }
}
