//! Checks the slot: whether it is ours, whether it is good, what threatens it, and how much log it may hold back.

use super::Look;
use super::setting::{Takes, set};
use crate::types::database::Database;
use crate::types::finding::{Code, Finding, shell_word};
use crate::types::slot::{OfOthers, Slot, SlotState};
use crate::types::table::{quote_identifier, quote_literal};

/// The oldest Postgres with failover slots.
const FAILOVER_VERSION_MIN: u32 = 170_000;

const MIB: u64 = 1 << 20;

/// Checks the slot itself.
pub(super) fn slot(look: &Look) -> Vec<Finding> {
    let Some(slot) = &look.database.slot else {
        let message = "it is not there yet; coherd setup or the first coherd run creates it";
        return vec![Finding::warning(Code::SLOT_MISSING, subject(look.database), message).remedy("coherd setup")];
    };
    if let Some(wrong) = of_others(look.database) {
        return vec![wrong];
    }
    if look.database.publication.is_none() {
        return vec![slot_without_publication(look.database, slot).remedy("coherd setup")];
    }
    let found = match slot.state(&look.database.name) {
        SlotState::Creating { by } => by.map(|pid| unfinished(look.database, pid)),
        SlotState::Lost { reason } => Some(lost(look.database, reason)),
        SlotState::OfOthers(_) | SlotState::Copy | SlotState::Usable { .. } => at_risk(look, slot),
    };
    found.into_iter().chain(failover(look, slot)).collect()
}

fn subject(database: &Database) -> String {
    format!("slot {}", quote_identifier(&database.slot_name))
}

/// A slot that coherd did not make holds the changes of its owner, so no remedy drops it.
pub fn of_others(database: &Database) -> Option<Finding> {
    let SlotState::OfOthers(why) = database.slot.as_ref()?.state(&database.name) else { return None };
    let code = match why {
        OfOthers::Physical => Code::SLOT_PHYSICAL,
        OfOthers::Database(_) => Code::SLOT_DATABASE,
        OfOthers::Plugin(_) => Code::SLOT_PLUGIN,
        OfOthers::TwoPhase => Code::SLOT_TWO_PHASE,
    };
    Some(Finding::error(code, subject(database), format!("it {}", why.text(&database.name))))
}

/// The stream of such a slot would stop at the first change that was written while there was no publication. A slot
/// that a process streams from must not be dropped.
pub fn slot_without_publication(database: &Database, slot: &Slot) -> Finding {
    let subject = format!("slot {}", quote_identifier(&database.slot_name));
    let seen = format!("the slot is there but publication {} is not", quote_identifier(&database.publication_name));
    let message = format!(
        "{seen}, and a publication created after its slot breaks the stream. If coherd created the slot, drop it and \
         run coherd setup again. If a subscription uses the slot, choose another name (source.slot)"
    );
    let finding = Finding::error(Code::SLOT_BEFORE_PUBLICATION, subject, message);
    match slot.active_pid {
        Some(pid) => {
            finding.remedy(format!("-- process {pid} streams from it: stop its daemon, or choose another name"))
        }
        None => finding.remedy(format!(
            "SELECT pg_catalog.pg_drop_replication_slot({});",
            quote_literal(&database.slot_name).trim_start()
        )),
    }
}

/// The server goes on creating a slot after the client that asked for it is gone.
fn unfinished(database: &Database, pid: i32) -> Finding {
    let message = format!(
        "server process {pid} is still creating it, and waits for running transactions to end. If no coherd is waiting \
         for this slot, cancel its creation with the statement, then run coherd setup"
    );
    let finding = Finding::error(Code::SLOT_UNFINISHED, subject(database), message);
    finding.remedy(format!("SELECT pg_catalog.pg_cancel_backend({pid});"))
}

fn lost(database: &Database, reason: &str) -> Finding {
    let message = format!(
        "the log it needs is gone ({reason}): coherd has missed changes. coherd run creates the slot again and \
         flushes the rules' scopes, unless on_gap is halt. Do not drop the slot by hand: coherd would then take a \
         cache without a record for a new one"
    );
    Finding::warning(Code::SLOT_LOST, subject(database), message).remedy("coherd run")
}

/// The log that the slot needs is about to go.
fn at_risk(look: &Look, slot: &Slot) -> Option<Finding> {
    if slot.wal_status.as_deref() != Some("unreserved") {
        return None;
    }
    let message = "it holds back more log than max_slot_wal_keep_size allows. Postgres invalidates it at the next \
                   checkpoint, and coherd then flushes every cache. Keep coherd running until it has caught up; the \
                   statements raise the limit meanwhile";
    let more = u64::try_from(look.database.server.slot_keep_mib).unwrap_or_default().max(1024).saturating_mul(4);
    let remedy = set(look.database.server.hosting, KEEP_SIZE, &format!("{more}MB"), Takes::Reload);
    Some(Finding::warning(Code::SLOT_AT_RISK, subject(look.database), message).remedies(remedy))
}

const KEEP_SIZE: &str = "max_slot_wal_keep_size";

/// If there are standbys, one of them may become the primary.
fn failover(look: &Look, slot: &Slot) -> Option<Finding> {
    let server = &look.database.server;
    let standbys = &server.standbys;
    let has_standbys = !standbys.slots.is_empty() || !standbys.names.is_empty();
    if server.version < FAILOVER_VERSION_MIN || server.in_recovery || !has_standbys {
        return None;
    }
    if slot.failover == Some(false) {
        let message = "standbys follow this server, and the slot is no failover slot: after a failover it is gone, and \
                       every cache is flushed. The slot must be free for the change, so stop coherd for a moment";
        let alter = format!("ALTER_REPLICATION_SLOT \"{}\" (FAILOVER true);", look.database.slot_name);
        let remedy =
            format!("psql {} -c {}", shell_word(&format!("{} replication=database", look.libpq)), shell_word(&alter));
        return Some(Finding::warning(Code::SLOT_FAILOVER, subject(look.database), message).remedy(remedy));
    }
    if standbys.synchronized_slots.as_deref() != Some("") || standbys.slots.is_empty() {
        return None;
    }
    let message = "synchronized_standby_slots is empty, so coherd may run ahead of a standby: after a failover, caches \
                   may hold values that the standby never had. Name in it the slots of the standbys that may be \
                   promoted, and set sync_replication_slots = on on each of those standbys. coherd then waits for \
                   them, even while they are down";
    let slots = standbys.slots.join(", ");
    let remedy = set(server.hosting, "synchronized_standby_slots", &slots, Takes::Reload);
    Some(Finding::warning(Code::STANDBY_SLOTS, "source", message).remedies(remedy))
}

/// Checks how much log the slot may hold back, and how long the slot may stay idle.
pub(super) fn kept_log(look: &Look) -> Vec<Finding> {
    let server = &look.database.server;
    let mut findings = Vec::new();
    let keep = u64::try_from(server.slot_keep_mib).ok().map(|mib| mib.saturating_mul(MIB));
    match (keep, look.wal_budget) {
        (None, None) => {
            let message = "wal_budget is none and max_slot_wal_keep_size is -1: while a cache or coherd is away, the slot \
                           holds back log until the server's disk is full";
            let remedy = set(server.hosting, KEEP_SIZE, "10GB", Takes::Reload);
            findings.push(Finding::warning(Code::WAL_UNBOUNDED, "source", message).remedies(remedy));
        }
        (Some(keep), Some(budget)) if keep < budget => {
            let message = format!(
                "max_slot_wal_keep_size is {} MB, less than source.wal_budget ({} MB). While coherd is down, Postgres \
                 gives up the slot before the budget is used, and every cache is flushed. Raise this setting or lower \
                 wal_budget",
                keep / MIB,
                budget / MIB
            );
            let more = budget.div_ceil(MIB).saturating_mul(2);
            let remedy = set(server.hosting, KEEP_SIZE, &format!("{more}MB"), Takes::Reload);
            findings.push(Finding::warning(Code::WAL_KEEP_SIZE, "source", message).remedies(remedy));
        }
        _ => {}
    }
    let timeout = server.idle_slot_timeout;
    if !timeout.is_zero() {
        let message = format!(
            "idle_replication_slot_timeout is {} s: when coherd is away for longer, the server gives the slot up at its \
             next checkpoint, and every cache is flushed. max_slot_wal_keep_size bounds the log without that",
            timeout.as_secs()
        );
        let remedy = set(server.hosting, "idle_replication_slot_timeout", "0", Takes::Reload);
        findings.push(Finding::warning(Code::IDLE_SLOT_TIMEOUT, "source", message).remedies(remedy));
    }
    findings
}
