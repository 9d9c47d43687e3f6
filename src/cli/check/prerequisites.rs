//! What the server, the role and the slot must be, whatever the rules are.

use crate::cli::setup::FUNCTIONS_COMMENT;
use crate::database::{Database, Role, Server, Slot};
use crate::finding::Finding;
use crate::source::synchronous::counted;
use crate::table::{quote_identifier, quote_literal};

/// The oldest Postgres that can send messages in its stream and has what the functions call.
const VERSION_MIN: u32 = 140_000;

/// The oldest Postgres that decodes on a standby.
const STANDBY_VERSION_MIN: u32 = 160_000;

/// Everything about the server, the role, the slot and the functions. `application_name` is that of the stream.
pub fn prerequisites(database: &Database, application_name: &str) -> Vec<Finding> {
    let mut findings = server(&database.server);
    findings.extend(synchronous(&database.server, application_name));
    findings.extend(room(&database.server, database.slot.as_ref()));
    findings.extend(role(&database.role));
    findings.extend(slot(database));
    findings.extend(functions(database));
    findings
}

fn server(server: &Server) -> Vec<Finding> {
    let mut findings = Vec::new();
    let major = server.version / 10_000;
    if server.version < VERSION_MIN {
        let message = format!("it is Postgres {major}; coherd needs {} or later", VERSION_MIN / 10_000);
        findings.push(Finding::error("source", message));
    }
    if server.in_recovery && server.version < STANDBY_VERSION_MIN {
        let message = format!("it is a standby, and Postgres {major} decodes on the primary only; name the primary");
        findings.push(Finding::error("source", message));
    }
    if server.wal_level != "logical" {
        let message = format!(
            "wal_level is {}, so the log cannot be decoded; this needs a restart of the server",
            server.wal_level
        );
        findings.push(Finding::error("source", message).mend("ALTER SYSTEM SET wal_level = logical;"));
    }
    if server.sender_timeout.is_zero() {
        let message =
            "wal_sender_timeout is 0: a daemon that vanished without a word holds its slot until TCP gives up";
        findings.push(
            Finding::warning("source", message)
                .mend("ALTER SYSTEM SET wal_sender_timeout = '60s';")
                .mend("SELECT pg_reload_conf();"),
        );
    }
    if server.synchronous_commit == "off" {
        let message = "synchronous_commit is off: a commit reaches the log, and so the caches, up to 3 × \
                       wal_writer_delay later";
        findings.push(Finding::warning("source", message));
    }
    if server.encoding == "SQL_ASCII" {
        let message = "the database's encoding is SQL_ASCII, so bytes beyond ASCII come into keys as they are";
        findings.push(Finding::warning("source", message));
    }
    findings
}

/// A server in recovery has no writers, and counts no walsender.
fn synchronous(server: &Server, application_name: &str) -> Option<Finding> {
    if server.in_recovery {
        return None;
    }
    let counted = counted(&server.synchronous_standby_names, application_name, &server.standbys)?;
    let finding = Finding::error("source", counted.message());
    Some(counted.remedy().into_iter().fold(finding, Finding::mend))
}

/// Slots and WAL senders that are free.
fn room(server: &Server, slot: Option<&Slot>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if slot.is_none() && server.slots_used >= server.slots_max {
        let message = format!(
            "all {} replication slots are taken (max_replication_slots); more need a restart of the server",
            server.slots_max
        );
        let more = server.slots_max.saturating_add(5);
        findings
            .push(Finding::error("source", message).mend(format!("ALTER SYSTEM SET max_replication_slots = {more};")));
    }
    let streaming = slot.is_some_and(|slot| slot.active_pid.is_some());
    if !streaming && server.senders_used >= server.senders_max {
        let message = format!(
            "all {} WAL senders are at work (max_wal_senders); more need a restart of the server",
            server.senders_max
        );
        let more = server.senders_max.saturating_add(5);
        findings.push(Finding::error("source", message).mend(format!("ALTER SYSTEM SET max_wal_senders = {more};")));
    }
    findings
}

fn role(role: &Role) -> Option<Finding> {
    let name = quote_identifier(&role.name);
    (!role.replication).then(|| {
        Finding::error("source", format!("role {name} may not replicate, so it cannot follow the log"))
            .mend(format!("ALTER ROLE {name} REPLICATION; -- on Amazon RDS: GRANT rds_replication TO {name};"))
    })
}

fn slot(database: &Database) -> Vec<Finding> {
    let name = quote_identifier(&database.slot_name);
    let subject = format!("slot {name}");
    let Some(slot) = &database.slot else {
        let message = "it is not there yet; coherd setup or the first coherd run creates it";
        return vec![Finding::warning(subject, message)];
    };
    // Somebody else's slot holds somebody else's changes: no remedy drops it.
    if slot.plugin.is_none() {
        let message = "it is a physical one, made for a standby or a backup; choose another name (source.slot)";
        return vec![Finding::error(subject, message)];
    }
    if slot.database.as_deref() != Some(database.name.as_str()) {
        let of = quote_identifier(slot.database.as_deref().unwrap_or_default());
        let ours = quote_identifier(&database.name);
        let message = format!("it belongs to database {of}, not to {ours}; choose another name (source.slot)");
        return vec![Finding::error(subject, message)];
    }
    let wrong = if slot.plugin.as_deref() != Some("pgoutput") {
        let plugin = slot.plugin.as_deref().unwrap_or_default();
        Some(format!("it was made with the output plugin {plugin}, and coherd reads pgoutput"))
    } else if slot.two_phase {
        Some("it sends prepared transactions early (two_phase), without their rows".to_owned())
    } else {
        None
    };
    if let Some(wrong) = wrong {
        let drop = format!("SELECT pg_drop_replication_slot({});", quote_literal(&database.slot_name).trim_start());
        let message = format!("{wrong}; choose another name (source.slot), or drop it if nobody needs it");
        return vec![Finding::error(subject, message).mend(drop)];
    }
    if slot.wal_status.as_deref() == Some("lost") {
        let message = "the log it needs is gone: changes were missed. coherd run makes it anew and flushes the rules' \
                       scopes, unless on_gap says halt";
        return vec![Finding::warning(subject, message)];
    }
    Vec::new()
}

fn functions(database: &Database) -> Option<Finding> {
    let message = match database.functions.as_deref() {
        Some(FUNCTIONS_COMMENT) => return None,
        Some(_) => "its functions are those of another version; coherd setup renews them",
        None => "it is not there: applications have no coherd.token(), and nobody can invalidate by hand",
    };
    Some(Finding::warning("schema coherd", message).mend("coherd setup"))
}
