//! Checks what the server, the role and the functions must be, whatever the rules are.

use super::Look;
use super::schema::{FUNCTIONS_COMMENT, FUNCTIONS_SUBJECT, no_operators, operating};
use super::setting::{Takes, set};
use crate::postgres::synchronous::counted;
use crate::types::finding::{Code, Finding};
use crate::types::server::{Clock, Hosting, LooseCommits, Role};
use crate::types::table::quote_identifier;

/// The oldest Postgres that can send messages in its stream and has what the functions call.
const VERSION_MIN: u32 = 140_000;

/// The oldest Postgres that decodes its log on a standby.
const STANDBY_VERSION_MIN: u32 = 160_000;

/// A larger difference, in ms, makes the times from commit to invalidation meaningless.
const CLOCK_MS_MAX: i64 = 1000;

const SOURCE: &str = "source";

/// Checks everything about the server, the role, the slot and the functions.
pub fn prerequisites(look: &Look) -> Vec<Finding> {
    let mut findings = server(look);
    findings.extend(synchronous(look));
    findings.extend(loose_commits(look));
    findings.extend(room(look));
    findings.extend(clock(look));
    findings.extend(role(&look.database.role, look.database.server.hosting));
    findings.extend(super::slot::slot(look));
    findings.extend(super::slot::kept_log(look));
    findings.extend(functions(look));
    findings.extend(senders(look));
    findings
}

fn server(look: &Look) -> Vec<Finding> {
    let server = &look.database.server;
    let mut findings = Vec::new();
    let major = server.version / 10_000;
    if server.version < VERSION_MIN {
        let message = format!("it is Postgres {major}; coherd needs {} or later", VERSION_MIN / 10_000);
        findings.push(Finding::error(Code::SERVER_VERSION, SOURCE, message));
    }
    if server.in_recovery && server.version < STANDBY_VERSION_MIN {
        let message = format!("it is a standby, and Postgres {major} decodes on the primary only; name the primary");
        findings.push(Finding::error(Code::STANDBY_VERSION, SOURCE, message));
    }
    let is_enough = server.wal_level == "logical" || (server.version >= 190_000 && server.wal_level == "replica");
    if !is_enough {
        let message = format!(
            "wal_level is {}, so the log cannot be decoded; this needs a restart of the server",
            server.wal_level
        );
        let remedy = set(server.hosting, "wal_level", "logical", Takes::Restart);
        findings.push(Finding::error(Code::WAL_LEVEL, SOURCE, message).remedies(remedy));
    }
    if server.sender_timeout.is_zero() {
        let message =
            "wal_sender_timeout is 0: if coherd's host or network fails, the slot stays in use until TCP times out";
        let remedy = set(server.hosting, "wal_sender_timeout", "60s", Takes::Reload);
        findings.push(Finding::warning(Code::SENDER_TIMEOUT, SOURCE, message).remedies(remedy));
    }
    if server.encoding == "SQL_ASCII" {
        let message = "the database's encoding is SQL_ASCII, so bytes beyond ASCII come into keys as they are, and a \
                       reader that spells a key in UTF-8 may miss it. Only a new database has another encoding";
        findings.push(Finding::warning(Code::ENCODING, SOURCE, message));
    }
    findings
}

/// A server in recovery has no writers and counts no walsender.
fn synchronous(look: &Look) -> Option<Finding> {
    let server = &look.database.server;
    if server.in_recovery {
        return None;
    }
    let counted = counted(&server.standbys.synchronous, look.application_name, &server.standbys.names)?;
    Some(Finding::error(Code::SYNCHRONOUS_STANDBY, SOURCE, counted.message()).remedies(counted.remedy()))
}

/// Reads more than our own session's setting: the writers' settings count.
fn loose_commits(look: &Look) -> Option<Finding> {
    let (database, server) = (quote_identifier(&look.database.name), &look.database.server);
    let mut places = Vec::new();
    let mut remedy = Vec::new();
    for place in &server.loose_commits {
        let (name, statements) = match place {
            LooseCommits::Server => {
                let statements = set(server.hosting, "synchronous_commit", "on", Takes::Reload);
                ("the whole server".to_owned(), statements)
            }
            LooseCommits::Database => {
                let statements = format!("ALTER DATABASE {database} RESET synchronous_commit;");
                (format!("database {database}"), vec![statements])
            }
            LooseCommits::Role(role) => {
                let role = quote_identifier(role);
                (format!("role {role}"), vec![format!("ALTER ROLE {role} RESET synchronous_commit;")])
            }
            LooseCommits::RoleInDatabase(role) => {
                let role = quote_identifier(role);
                let statements = format!("ALTER ROLE {role} IN DATABASE {database} RESET synchronous_commit;");
                (format!("role {role} in database {database}"), vec![statements])
            }
        };
        places.push(name);
        remedy.extend(statements);
    }
    let message = format!(
        "synchronous_commit is off for {}: such a commit reaches the log, and so the caches, up to 3 × wal_writer_delay \
         later, and a crash of the server may lose it",
        places.join(", ")
    );
    (!places.is_empty()).then(|| Finding::warning(Code::SYNCHRONOUS_COMMIT, SOURCE, message).remedies(remedy))
}

/// Checks for a free slot and a free WAL sender.
fn room(look: &Look) -> Vec<Finding> {
    let (server, slot) = (&look.database.server, look.database.slot.as_ref());
    let mut findings = Vec::new();
    let mut full = |code, what: &str, setting: &str, most: u32| {
        let message = format!("all {most} {what} ({setting}); more need a restart of the server");
        let more = most.saturating_add(5).to_string();
        let remedy = set(server.hosting, setting, &more, Takes::Restart);
        findings.push(Finding::error(code, SOURCE, message).remedies(remedy));
    };
    if slot.is_none() && server.slots.is_full() {
        full(Code::SLOTS_FULL, "replication slots are taken", "max_replication_slots", server.slots.max);
    }
    let streaming = slot.is_some_and(|slot| slot.active_pid.is_some());
    if !streaming && server.senders.is_full() {
        full(Code::SENDERS_FULL, "WAL senders are at work", "max_wal_senders", server.senders.max);
    }
    findings
}

fn clock(look: &Look) -> Option<Finding> {
    let Clock { ahead_ms: ahead, doubt_ms: doubt } = look.clock;
    let direction = if ahead > 0 { "ahead of" } else { "behind" };
    let message = format!(
        "the database's clock is {}.{} s {direction} this machine's, so the times from commit to invalidation in \
         metrics and status are wrong by as much. Invalidation itself is not affected. Synchronize both clocks with \
         NTP (timedatectl set-ntp true)",
        ahead.abs() / 1000,
        ahead.abs() % 1000 / 100
    );
    let differs = ahead.abs().saturating_sub(doubt) > CLOCK_MS_MAX;
    differs.then(|| Finding::warning(Code::CLOCK, SOURCE, message))
}

fn role(role: &Role, hosting: Hosting) -> Option<Finding> {
    let name = quote_identifier(&role.name);
    let remedy = match hosting {
        Hosting::Own => format!("ALTER ROLE {name} REPLICATION;"),
        Hosting::AmazonRds => format!("GRANT rds_replication TO {name};"),
        // Their administrators are not superusers, and may do this one thing.
        Hosting::CloudSql | Hosting::Azure => format!("ALTER USER {name} WITH REPLICATION;"),
    };
    let message = format!("role {name} may not replicate, so it cannot follow the log");
    (!role.replication).then(|| Finding::error(Code::ROLE_REPLICATION, SOURCE, message).remedy(remedy))
}

fn functions(look: &Look) -> Option<Finding> {
    let role = &look.database.role.name;
    let (code, message) = match look.database.functions.as_deref() {
        Some(FUNCTIONS_COMMENT) if look.database.role.may_call_functions => {
            return (!look.database.operators).then(no_operators);
        }
        Some(FUNCTIONS_COMMENT) => {
            let message = format!(
                "role {} may not call its functions, which coherd needs to invalidate manually; the statements are for \
                 the schema's owner",
                quote_identifier(role)
            );
            return Some(
                Finding::warning(Code::FUNCTIONS_PRIVILEGE, FUNCTIONS_SUBJECT, message).remedies(operating(role)),
            );
        }
        Some(_) => (Code::FUNCTIONS_OLD, "its functions are those of another version; coherd setup renews them"),
        None => (
            Code::FUNCTIONS_MISSING,
            "it is not there: applications have no coherd.token(), and nobody can invalidate manually",
        ),
    };
    Some(Finding::warning(code, FUNCTIONS_SUBJECT, message).remedy("coherd setup"))
}

/// Postgres grants this right to everybody. Other programs may use it, so coherd must not take it away.
fn senders(look: &Look) -> Option<Finding> {
    let functions = look.database.server.public_senders.join(", ");
    let role = quote_identifier(&look.database.role.name);
    let to = if look.database.operators { format!("{role}, coherd_operator") } else { role };
    let message = "every role that can log in can call pg_logical_emit_message() and so make caches colder, as \
                   coherd.invalidate() and coherd.flush() do. Only the rules' keys are affected, unless manual.keys is \
                   any. If no other program needs the function, a superuser can revoke it";
    let finding = Finding::note(Code::MESSAGES_PUBLIC, SOURCE, message)
        .remedy(format!("REVOKE EXECUTE ON FUNCTION {functions} FROM PUBLIC;"))
        .remedy(format!("GRANT EXECUTE ON FUNCTION {functions} TO {to};"));
    (!functions.is_empty()).then_some(finding)
}
