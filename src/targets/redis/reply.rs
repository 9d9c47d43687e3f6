//! Decides what each reply means. Every reply of every pipeline is checked: one that is not could be a lost
//! invalidation.

use redis::{RedisError, ServerError, Value};

use super::invalidation::COMMAND_KEYS_MAX;
use crate::targets::{Fault, FaultKind};

/// A command that coherd sends. It determines what the reply must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// `UNLINK`: the number of keys that were there.
    Unlink,
    /// `UNLINK` of leases: the number of leases that existed, which do not count as keys.
    UnlinkLeases,
    /// The bump script: the number of pointers that moved.
    Bump,
    /// `PUBLISH`: the number of subscribers, which proves nothing.
    Publish,
    /// The script that writes the record.
    WriteRecord,
    /// `HGETALL` of the record.
    ReadRecord,
    /// `DBSIZE`.
    Count,
    /// `SCAN`.
    Scan,
    /// `PTTL` of a key, a lease or a pointer.
    TimeToLive,
    /// `GET` of a version pointer.
    ReadPointer,
    /// `FUNCTION LIST`.
    ListFunctions,
    /// `FUNCTION LOAD`.
    LoadFunctions,
    /// `AUTH`.
    Authenticate,
    /// `SELECT`.
    SelectDatabase,
}

impl Step {
    pub(super) const fn command(self) -> &'static str {
        match self {
            Step::Unlink => "UNLINK",
            Step::UnlinkLeases => "UNLINK of leases",
            Step::Bump => "the bump script (EVALSHA, EVAL)",
            Step::Publish => "PUBLISH",
            Step::WriteRecord => "the script that writes the record (EVALSHA, EVAL)",
            Step::ReadRecord => "HGETALL of the record",
            Step::Count => "DBSIZE",
            Step::Scan => "SCAN",
            Step::TimeToLive => "PTTL",
            Step::ReadPointer => "GET of a version pointer",
            Step::ListFunctions => "FUNCTION LIST",
            Step::LoadFunctions => "FUNCTION LOAD",
            Step::Authenticate => "AUTH",
            Step::SelectDatabase => "SELECT",
        }
    }
}

/// The sum of the replies to one delivery or flush.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Keys that were there and pointers that moved.
    pub(super) hit: u64,
    /// The first fault.
    pub(super) fault: Option<Fault>,
    /// The server does not know a script, so the call must contain the source.
    pub(super) script_unknown: bool,
    /// The record was not as expected, and was not written.
    pub(super) record_changed: bool,
    /// The record was written in place of a key of another type.
    pub(super) record_replaced: bool,
    /// Pointers that replaced another value, as places among the keys of all bumps.
    pub(super) gave_way: Vec<usize>,
    /// The places of the scopes in which a flush replaced such a value.
    pub(super) scopes_gave_way: Vec<usize>,
    /// Replies of the bump script that were read.
    pub(super) bumps: usize,
}

impl Tally {
    /// Reads the replies to `steps`, in order.
    pub(super) fn read(&mut self, place: &str, steps: &[Step], replies: &[Value]) {
        for (step, reply) in steps.iter().zip(replies) {
            let outcome = match (step, reply) {
                (Step::Unlink, Value::Int(count)) => {
                    self.hit += u64::try_from(*count).unwrap_or(0);
                    continue;
                }
                (Step::Bump, Value::Int(_) | Value::Array(_)) => match self.bumped(reply) {
                    Some(()) => continue,
                    None => unexpected(place, *step),
                },
                (Step::WriteRecord, Value::Int(written)) => {
                    self.record_replaced |= *written == RECORD_REPLACED;
                    self.record_changed |= *written == RECORD_CHANGED;
                    continue;
                }
                (Step::UnlinkLeases | Step::Publish, Value::Int(_)) => continue,
                (Step::Bump | Step::WriteRecord, Value::ServerError(error)) if error.code() == "NOSCRIPT" => {
                    self.script_unknown = true;
                    refused(place, *step, error)
                }
                (_, Value::ServerError(error)) => refused(place, *step, error),
                _ => unexpected(place, *step),
            };
            self.fault.get_or_insert(outcome);
        }
        if steps.len() != replies.len() {
            let message = format!("{place}: {} commands got {} replies", steps.len(), replies.len());
            self.fault = Some(Fault { kind: FaultKind::Connection, message });
        }
    }

    /// Reads a reply of the bump script: how many pointers moved, then which of the call's keys replaced another value.
    /// `None` for any other shape.
    fn bumped(&mut self, reply: &Value) -> Option<()> {
        let before = self.bumps * COMMAND_KEYS_MAX;
        self.bumps += 1;
        let number = |value: &Value| match value {
            Value::Int(number) => usize::try_from(*number).ok(),
            _ => None,
        };
        let parts = if let Value::Array(parts) = reply { parts.as_slice() } else { std::slice::from_ref(reply) };
        let (moved, places) = parts.split_first()?;
        self.hit += number(moved)? as u64;
        for place in places {
            let place = number(place).filter(|place| (1..=COMMAND_KEYS_MAX).contains(place))?;
            self.gave_way.push(before + place - 1);
        }
        Some(())
    }
}

/// The reply of the record's script if the record was not as expected.
const RECORD_CHANGED: i64 = 0;
/// The reply of the record's script if it replaced a key of another type.
const RECORD_REPLACED: i64 = 2;

/// The fault for an error reply.
pub(super) fn refused(place: &str, step: Step, error: &ServerError) -> Fault {
    let (kind, remedy) = meaning(error.code(), error.details().unwrap_or_default());
    let text = match error.details() {
        // Redis sends it with the code ERR, in one of two wordings.
        Some(details) if is_denied_in_script(details) => "NOPERM inside the script".to_owned(),
        details => printable(error.code(), details.unwrap_or_default()),
    };
    Fault { kind, message: format!("{place}: {} was answered with {text}; {remedy}", step.command()) }
}

/// The fault for a reply that the command cannot have.
pub(super) fn unexpected(place: &str, step: Step) -> Fault {
    let message = format!("{place}: unexpected reply to {}; is there a proxy in front of the server?", step.command());
    Fault { kind: FaultKind::Rejected, message }
}

/// The fault for a failed exchange: no reply, or no connection.
pub(super) fn broken(place: &str, tried: &str, error: &RedisError) -> Fault {
    let kind = if error.is_timeout() { FaultKind::Timeout } else { FaultKind::Connection };
    let remedy = match kind {
        FaultKind::Timeout => "is the server busy with something long, or stopped?",
        _ => "is the server up and reachable?",
    };
    Fault { kind, message: format!("{place}: {tried}: {error}; {remedy}") }
}

/// What an error code (the first word of an error reply) means and what to do about it. Codes are those of Redis
/// 6 to 8 and Valkey (`src/server.c`, `createSharedObjects`).
fn meaning(code: &str, details: &str) -> (FaultKind, &'static str) {
    match code {
        "READONLY" => {
            (FaultKind::ReadOnly, "this is a replica: point the url at the primary, or wait for the failover")
        }
        "LOADING" => (FaultKind::NotReady, "it is reading its data set from disk and will be ready by itself"),
        "MASTERDOWN" => (FaultKind::NotReady, "this is a replica without a primary: point the url at the primary"),
        "CLUSTERDOWN" | "TRYAGAIN" => (FaultKind::NotReady, "the cluster has no owner for this hash slot now"),
        "BUSY" => (FaultKind::NotReady, "a script runs for long: SCRIPT KILL ends it"),
        "NOREPLICAS" => (FaultKind::NotReady, "fewer replicas are connected than min-replicas-to-write asks for"),
        "MISCONF" => (FaultKind::NotReady, "it cannot persist and refuses writes: look at its log and its disk"),
        _ if is_denied_in_script(details) => {
            (FaultKind::Denied, "run coherd check: it prints the ACL SETUSER command that is missing")
        }
        "ERR" if details.starts_with("max number of clients") => {
            (FaultKind::NotReady, "close clients or raise maxclients")
        }
        "OOM" => (FaultKind::OutOfMemory, "free memory, raise maxmemory, or set a maxmemory-policy that evicts"),
        "NOAUTH" => (FaultKind::Denied, "give user and password in the url"),
        "WRONGPASS" => (FaultKind::Denied, "correct user and password in the url"),
        "NOPERM" => (FaultKind::Denied, "run coherd check: it prints the ACL SETUSER command that is missing"),
        "DENIED" => {
            (FaultKind::Denied, "protected mode is on: set a password on the server or bind it to this network")
        }
        "WRONGTYPE" => (
            FaultKind::Rejected,
            "the key of this command holds another type: delete it, or set the target's record to another key",
        ),
        "NOSCRIPT" => (FaultKind::NotReady, "the script is sent whole with the next attempt"),
        "MOVED" | "ASK" | "CROSSSLOT" => (
            FaultKind::Rejected,
            "this is a node of Redis Cluster, which coherd does not support: set url to a single server",
        ),
        _ => (FaultKind::Rejected, "the server lacks or has renamed this command, or a proxy refuses it"),
    }
}

fn is_denied_in_script(details: &str) -> bool {
    details.contains("user executing the script can't") || details.starts_with("ACL failure in script")
}

/// Code and text of an error reply, up to the first quote: what a server quotes can be a key.
fn printable(code: &str, details: &str) -> String {
    let open = details.split(['\'', '"', '`']).next().unwrap_or_default();
    let open: String = open.trim_end().chars().filter(|c| !c.is_control()).take(120).collect();
    if open.is_empty() { code.to_owned() } else { format!("{code} {open}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str, details: &str) -> Value {
        match Value::ServerError(server_error(code, details)) {
            value @ Value::ServerError(_) => value,
            _ => unreachable!(),
        }
    }

    fn server_error(code: &str, details: &str) -> ServerError {
        let made = redis::make_extension_error(code.to_owned(), Some(details.to_owned()));
        made.into_server_errors().unwrap().first().unwrap().1.clone()
    }

    #[test]
    fn every_error_code_has_its_kind() {
        use FaultKind::{Denied, NotReady, OutOfMemory, ReadOnly, Rejected};
        let kinds = [
            (ReadOnly, ["READONLY"].as_slice()),
            (NotReady, &["LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "NOREPLICAS", "MISCONF"]),
            (OutOfMemory, &["OOM"]),
            (Denied, &["NOAUTH", "WRONGPASS", "NOPERM", "DENIED"]),
            (Rejected, &["WRONGTYPE", "MOVED", "ASK", "CROSSSLOT", "ERR", "EXECABORT", "SOMETHINGNEW", ""]),
        ];
        for (kind, codes) in kinds {
            for code in codes {
                assert_eq!(refused("cache", Step::Unlink, &server_error(code, "text")).kind, kind, "{code}");
            }
        }
        let full = server_error("ERR", "max number of clients reached");
        assert_eq!(refused("cache", Step::Authenticate, &full).kind, NotReady);
    }

    #[test]
    fn a_fault_names_the_command_and_the_code_but_never_what_the_server_quotes() {
        let error = server_error("ERR", "unknown command 'UNLINK', with args beginning with: 'user:4711'");
        let text = refused("Redis at db:6379", Step::Unlink, &error).message;
        assert!(text.contains("Redis at db:6379: UNLINK was answered with ERR unknown command;"), "{text}");
        assert!(!text.contains("4711"), "{text}");
    }

    #[test]
    fn one_error_among_good_replies_is_the_fault_of_all() {
        for position in 0..3 {
            let mut replies = vec![Value::Int(1), Value::Int(2), Value::Int(0)];
            replies[position] = error("OOM", "command not allowed");
            let mut tally = Tally::default();
            tally.read("cache", &[Step::Unlink, Step::Bump, Step::WriteRecord], &replies);
            assert_eq!(tally.fault.map(|fault| fault.kind), Some(FaultKind::OutOfMemory), "at {position}");
        }
    }

    #[test]
    fn a_missing_reply_or_one_of_another_shape_is_a_fault() {
        let mut tally = Tally::default();
        tally.read("cache", &[Step::Unlink, Step::WriteRecord], &[Value::Int(1)]);
        assert_eq!(tally.fault.map(|fault| fault.kind), Some(FaultKind::Connection));
        for step in [Step::UnlinkLeases, Step::Unlink, Step::Bump, Step::Publish, Step::WriteRecord] {
            let mut tally = Tally::default();
            tally.read("cache", &[step], &[Value::SimpleString("QUEUED".to_owned())]);
            assert_eq!(tally.fault.map(|fault| fault.kind), Some(FaultKind::Rejected), "{step:?}");
        }
    }

    #[test]
    fn unlinked_keys_and_moved_pointers_are_counted_and_leases_and_subscribers_are_not() {
        let mut tally = Tally::default();
        let steps = [Step::UnlinkLeases, Step::Unlink, Step::Bump, Step::Publish, Step::WriteRecord];
        tally.read("cache", &steps, &[2, 3, 4, 50, 5].map(Value::Int));
        assert_eq!((tally.hit, tally.fault), (7, None));
    }
}
