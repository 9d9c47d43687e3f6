//! What `coherd check` finds out about a Postgres: whether it is what coherd needs ([`prerequisites`]), whether the slot is
//! good ([`slot`]), whether both kinds of connection reach it ([`way`]), who may call its functions ([`schema`]).

pub mod prerequisites;
pub mod reach;
mod remedy;
pub mod schema;
pub mod slot;
pub mod way;

use std::time::Duration;

use super::SourceError;
use crate::types::database::Database;
use crate::types::finding::{Code, Finding};
use crate::types::server::Clock;

/// How long a server may take to answer everything.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What is judged: the database as it is, and what the configuration wants of it.
#[derive(Debug)]
pub struct Look<'a> {
    /// The database, its server and its slot.
    pub database: &'a Database,
    /// The server's clock beside this machine's.
    pub clock: Clock,
    /// The `application_name` of the stream.
    pub application_name: &'a str,
    /// `source.wal_budget`, in bytes.
    pub wal_budget: Option<u64>,
    /// The way there, for psql.
    pub libpq: String,
}

/// The database cannot be asked, and why.
pub fn unreachable(error: &SourceError) -> Finding {
    let text = error.to_string();
    match error {
        SourceError::Pooler(_) => way::pooler(None, &text),
        SourceError::Refused(_) | SourceError::Synchronous(_) => Finding::error(Code::SOURCE_REFUSED, "source", text),
        SourceError::Lost(_)
        | SourceError::Busy(_)
        | SourceError::Gap(_)
        | SourceError::Protocol(_)
        | SourceError::NotDecodable { .. } => {
            let message = format!("coherd checked no rule, because it cannot query the database: {text}");
            Finding::unknown(Code::SOURCE_UNREACHABLE, "source", message)
        }
    }
}
