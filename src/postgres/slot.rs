//! What `pg_replication_slots` says of a slot.

use super::{SlotSeen, SourceError};
use crate::types::database::Slot;
use crate::types::table::{quote_identifier, quote_literal};

/// The row of the slot called `name`, with NULL where the version lacks the column.
pub(super) fn query(name: &str, major: u32) -> String {
    let from = |version, column: &'static str| if major >= version { column } else { "NULL" };
    format!(
        "SELECT plugin, database, confirmed_flush_lsn, wal_status, {}, {}, {}, {}, \
         pg_catalog.pg_is_in_recovery(), active_pid FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
        from(14, "two_phase"),
        from(16, "conflicting"),
        from(17, "invalidation_reason"),
        from(17, "synced"),
        quote_literal(name)
    )
}

/// What the row means for us, who follow `database`.
pub(super) fn assess(row: Vec<Option<String>>, name: &str, database: &str) -> Result<SlotSeen, SourceError> {
    let Ok([plugin, of, confirmed, wal_status, two_phase, conflicting, reason, synced, recovery, pid]) =
        <[Option<String>; 10]>::try_from(row)
    else {
        return Err(SourceError::Protocol("pg_replication_slots gave another number of columns than asked".to_owned()));
    };
    let is = |cell: &Option<String>, value: &str| cell.as_deref() == Some(value);
    let slot = Slot {
        plugin,
        database: of,
        active_pid: pid.and_then(|pid| pid.parse().ok()),
        wal_status,
        confirmed: confirmed.and_then(|confirmed| confirmed.parse().ok()),
        two_phase: is(&two_phase, "t"),
    };
    if let Some(of_others) = slot.belongs_to_others(database) {
        return Err(SourceError::Refused(format!("the slot {} {}", quote_identifier(name), of_others.text(database))));
    }
    if let Some(reason) = reason {
        return Ok(SlotSeen::Lost { reason });
    }
    if is(&slot.wal_status, "lost") {
        return Ok(SlotSeen::Lost { reason: "wal_removed".to_owned() });
    }
    if is(&conflicting, "t") {
        return Ok(SlotSeen::Lost { reason: "conflict with recovery".to_owned() });
    }
    if is(&synced, "t") && is(&recovery, "t") {
        return Err(SourceError::Lost(format!(
            "the slot {} is being synchronized from the primary and can be used after promotion; until then, connect \
             to the primary (target_session_attrs=primary)",
            quote_identifier(name)
        )));
    }
    if let Some(confirmed) = slot.confirmed {
        return Ok(SlotSeen::Usable { confirmed });
    }
    // A slot that is still being created has no position yet. Nobody streams from it: whoever asked for it may have gone.
    let by = slot.active_pid.map(|pid| format!(" by process {pid} of the server")).unwrap_or_default();
    Err(SourceError::Lost(format!(
        "the slot {} is still being created{by}: the server waits for running transactions to end; run coherd check",
        quote_identifier(name)
    )))
}
