//! Finds out for `coherd check` whether a Postgres is what coherd needs ([`prerequisites`]), whether the slot is good
//! ([`slot`]), whether both kinds of connection reach it ([`way`]), and who may call its functions ([`schema`]).

pub mod prerequisites;
pub mod reach;
pub mod schema;
mod setting;
pub mod slot;
pub mod way;

use std::time::Duration;

use super::{ErrorKind, SourceError};
use crate::types::database::Database;
use crate::types::finding::{Code, Finding};
use crate::types::server::Clock;

/// How long a server may take to answer everything.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What the checks read: the database as it is, and what the configuration wants of it.
#[derive(Debug)]
pub struct Look<'a> {
    /// The database, its server and its slot.
    pub database: &'a Database,
    /// How far the server's clock is from this machine's.
    pub clock: Clock,
    /// The `application_name` of the stream.
    pub application_name: &'a str,
    /// `source.wal_budget`, in bytes.
    pub wal_budget: Option<u64>,
    /// The connection parameters, for psql.
    pub libpq: String,
}

/// The finding that the database cannot be asked, and why.
pub fn unreachable(error: &SourceError) -> Finding {
    if error.kind() == ErrorKind::Pooler {
        return way::pooler(None, &error.to_string());
    }
    let unchecked = "coherd checked no rule, because it cannot query the database: ";
    let message = format!("{}{error}", if error.policy().needs_person { "" } else { unchecked });
    failed(error.policy().needs_person, [Code::SOURCE_REFUSED, Code::SOURCE_UNREACHABLE], "source", message)
}

/// Whether a server that is only looked at may do better the next time.
fn may_pass(error: &SourceError) -> bool {
    matches!(error.kind(), ErrorKind::Lost | ErrorKind::Busy)
}

/// The finding for a server that did not do what it was asked to do: the first of the codes and an error if somebody has to
/// act, otherwise the second code and "could not check".
fn failed(is_error: bool, [refused, unreachable]: [Code; 2], subject: impl Into<String>, message: String) -> Finding {
    let subject = subject.into();
    if is_error {
        return Finding::error(refused, subject, message);
    }
    Finding::unknown(unreachable, subject, message)
}
