//! Explains what the server refuses, why, and what fixes it. Only here does an SQLSTATE (Postgres manual, appendix
//! "`PostgreSQL` Error Codes") become a [`SourceError`].

use std::fmt;
use std::net::IpAddr;

use super::notices::shortened;
use crate::postgres::{ErrorKind, SourceError};
use crate::types::lsn::Lsn;
use crate::types::table::{TableName, quote_identifier, quote_literal};

/// An `ErrorResponse` or `NoticeResponse`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::postgres) struct ServerError {
    pub(in crate::postgres) code: String,
    pub(in crate::postgres) message: String,
    pub(in crate::postgres) detail: Option<String>,
    pub(in crate::postgres) hint: Option<String>,
    /// Where the error happened; includes the position of the change that was decoded.
    pub(in crate::postgres) context: Option<String>,
    /// The table concerned, if the server names it.
    pub(in crate::postgres) schema: Option<String>,
    pub(in crate::postgres) table: Option<String>,
}

/// What coherd tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) enum Doing<'a> {
    Connecting {
        user: &'a str,
        database: &'a str,
        our_address: Option<IpAddr>,
        encrypted: bool,
        replication: bool,
    },
    /// `what` completes "could not".
    Asking {
        what: &'a str,
        user: &'a str,
    },
    Creating {
        slot: &'a str,
        user: &'a str,
    },
    Starting {
        slot: &'a str,
        user: &'a str,
    },
    Streaming {
        slot: &'a str,
        publication: &'a str,
    },
}

/// Kinds of refusal, distinguished by what to do about them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Password,
    Authorization,
    Privilege,
    NoDatabase,
    TooManyConnections,
    ConfigurationLimit,
    NotInState,
    InUse,
    Exists,
    Undefined,
    InvalidName,
    Unsupported,
    FileGone,
    Syntax,
    /// The server found itself in a state that should never occur (class XX).
    Internal,
    /// The server or the connection goes away, or lacks some resource: this passes by itself.
    Passing,
    /// A person has to look.
    Other,
}

fn kind(code: &str) -> Kind {
    match code {
        "28P01" => Kind::Password,
        "42501" => Kind::Privilege,
        "3D000" => Kind::NoDatabase,
        "53300" => Kind::TooManyConnections,
        "53400" => Kind::ConfigurationLimit,
        "55000" => Kind::NotInState,
        "55006" => Kind::InUse,
        "42710" => Kind::Exists,
        "42704" => Kind::Undefined,
        "42602" | "42939" => Kind::InvalidName,
        "0A000" => Kind::Unsupported,
        "58P01" => Kind::FileGone,
        "42601" | "08P01" => Kind::Syntax,
        code => match code.get(..2).unwrap_or_default() {
            "28" => Kind::Authorization,
            "XX" => Kind::Internal,
            // Connection, transaction rollback, resources, operator intervention, system error.
            "08" | "40" | "53" | "57" | "58" => Kind::Passing,
            _ => Kind::Other,
        },
    }
}

impl ServerError {
    /// Reads the body of the message: fields of a type byte and a text that ends with NUL, and a NUL after the last
    /// one. Reads a broken body as far as it goes.
    pub(in crate::postgres) fn read(body: &[u8]) -> ServerError {
        let mut error = ServerError::default();
        for field in body.split(|byte| *byte == 0) {
            let Some((kind, bytes)) = field.split_first() else { break };
            let text = shortened(&String::from_utf8_lossy(bytes));
            match kind {
                b'C' => error.code = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                b'W' => error.context = Some(String::from_utf8_lossy(bytes).into_owned()),
                b's' => error.schema = Some(text),
                b't' => error.table = Some(text),
                _ => {}
            }
        }
        error
    }

    /// The same error, as tokio-postgres has read it.
    pub(in crate::postgres) fn of(said: &tokio_postgres::error::DbError) -> ServerError {
        ServerError {
            code: shortened(said.code().code()),
            message: shortened(said.message()),
            detail: said.detail().map(shortened),
            hint: said.hint().map(shortened),
            ..ServerError::default()
        }
    }

    /// The server answers, but this host is not usable, or not now: coherd may try others.
    pub(in crate::postgres) fn is_passing(&self) -> bool {
        matches!(kind(&self.code), Kind::Passing | Kind::Internal | Kind::TooManyConnections)
    }

    /// `pg_hba.conf` has no line for this connection, with or without encryption as it is.
    pub(in crate::postgres) fn is_no_entry(&self) -> bool {
        self.code == "28000"
    }

    /// What the error means for `doing`: the only match from what the server says to what follows from it.
    pub(in crate::postgres) fn explain(&self, doing: Doing<'_>) -> SourceError {
        let reading = matches!(doing, Doing::Starting { .. } | Doing::Streaming { .. });
        let streaming = matches!(doing, Doing::Streaming { .. });
        let kind = match kind(&self.code) {
            _ if reading && self.waits_for_standby() => ErrorKind::Lost,
            Kind::InUse => ErrorKind::Busy,
            // Another process was faster.
            Kind::Exists if matches!(doing, Doing::Creating { .. }) => ErrorKind::Busy,
            Kind::NotInState if reading && !self.is_wal_level() => ErrorKind::Gap,
            Kind::Undefined | Kind::FileGone if reading => ErrorKind::Gap,
            // Decoding reads the catalogue as it was when the change was written, so no statement helps afterwards.
            Kind::Internal | Kind::Privilege | Kind::Exists | Kind::InvalidName | Kind::Unsupported | Kind::Other
                if streaming =>
            {
                return self.not_decodable(&self.advice(doing));
            }
            Kind::Passing | Kind::Internal | Kind::TooManyConnections | Kind::FileGone => ErrorKind::Lost,
            // Postgres accepts every parameter that coherd sends, so trying again does not help.
            Kind::Syntax if matches!(doing, Doing::Connecting { .. }) && self.is_of_pooler() => ErrorKind::Pooler,
            Kind::Syntax => ErrorKind::Protocol,
            Kind::Password
            | Kind::Authorization
            | Kind::Privilege
            | Kind::NoDatabase
            | Kind::ConfigurationLimit
            | Kind::NotInState
            | Kind::Exists
            | Kind::Undefined
            | Kind::InvalidName
            | Kind::Unsupported
            | Kind::Other => ErrorKind::Refused,
        };
        let error = SourceError::new(kind, doing.tried()).caused_by(self.clone());
        let advice = if kind == ErrorKind::Pooler { OF_POOLER.to_owned() } else { self.advice(doing) };
        match (&self.hint, advice.is_empty()) {
            (_, false) => error.remedy(advice),
            (Some(hint), true) => error.remedy(format!("Server's hint: {hint}")),
            (None, true) => error,
        }
    }

    /// What cannot be decoded, and why. The message may quote a value of the row; then only the server's log has it.
    fn not_decodable(&self, advice: &str) -> SourceError {
        let safe = matches!(self.code.get(..2), Some("0A" | "25" | "42" | "54" | "55" | "58" | "XX"));
        let what = if safe { self.message.as_str() } else { condition(&self.code) };
        let table = self.table.as_ref().map(|name| {
            let schema = self.schema.clone().unwrap_or_default();
            format!(" in table {}", TableName { schema, name: name.clone() })
        });
        let what = format!("{what}{} [SQLSTATE {}]", table.unwrap_or_default(), self.code);
        let error = SourceError::new(ErrorKind::NotDecodable { at: self.position() }, what);
        if advice.is_empty() { error } else { error.remedy(advice) }
    }

    /// The position of the change that was decoded: the last one in the context, whose words may be translated.
    fn position(&self) -> Option<Lsn> {
        let words = self.context.as_deref()?.split(|c: char| !c.is_ascii_hexdigit() && c != '/');
        words.filter(|word| word.contains('/')).filter_map(|word| word.parse().ok()).next_back()
    }

    /// The stream of a failover slot waits for a standby of `synchronized_standby_slots`: nothing is missing. A server
    /// that shuts down does not wait, and reports the same as an error.
    pub(in crate::postgres) fn waits_for_standby(&self) -> bool {
        self.message.contains("synchronized_standby_slots")
    }

    /// pgbouncer's text for a parameter that it does not pass on; pgbouncer does not translate it.
    fn is_of_pooler(&self) -> bool {
        self.message.contains("unsupported startup parameter")
    }

    /// The name of a setting is not translated.
    fn is_wal_level(&self) -> bool {
        self.message.contains("wal_level")
    }

    /// What to do about the error; empty if nothing helps, or if the daemon does it.
    fn advice(&self, doing: Doing<'_>) -> String {
        match kind(&self.code) {
            Kind::Password => "Check the password (dsn, PGPASSWORD or the password file), or set a new one: \
                               ALTER ROLE … PASSWORD '…';"
                .to_owned(),
            Kind::Authorization => self.authorization_advice(doing),
            Kind::Privilege => self.privilege_advice(doing),
            Kind::NoDatabase => "Correct dbname in the connection string, or create the database.".to_owned(),
            Kind::TooManyConnections => {
                "Raise max_connections or max_wal_senders (ALTER SYSTEM SET max_wal_senders = …; and restart), or \
                 close other connections. coherd tries again."
                    .to_owned()
            }
            Kind::ConfigurationLimit => "Raise it: ALTER SYSTEM SET max_replication_slots = …; and restart \
                Postgres. SELECT slot_name, active FROM pg_catalog.pg_replication_slots; shows who has them."
                .to_owned(),
            Kind::NotInState if self.is_wal_level() => {
                "Run: ALTER SYSTEM SET wal_level = logical; then restart Postgres.".to_owned()
            }
            Kind::InvalidName => {
                "A slot's name may hold only lower-case letters, digits and _, at most 63 of them.".to_owned()
            }
            Kind::Unsupported => unsupported_advice(doing),
            Kind::Other => decoding_advice(doing),
            Kind::Undefined => match doing {
                Doing::Streaming { publication, .. } => format!(
                    "If the publication is missing: CREATE PUBLICATION {} …; (coherd setup does it). What was written \
                     meanwhile cannot be read any more.",
                    quote_identifier(publication)
                ),
                _ => String::new(),
            },
            Kind::NotInState
            | Kind::InUse
            | Kind::Exists
            | Kind::FileGone
            | Kind::Syntax
            | Kind::Internal
            | Kind::Passing => String::new(),
        }
    }

    fn authorization_advice(&self, doing: Doing<'_>) -> String {
        let Doing::Connecting { user, database, our_address, encrypted, .. } = doing else { return String::new() };
        let role = quote_identifier(user);
        // The name of the file is never translated; the sentence around it may be.
        if !self.message.contains("pg_hba.conf") {
            return format!(
                "Check that the role exists and may log in (CREATE ROLE {role} LOGIN REPLICATION; or ALTER ROLE {role} \
                 LOGIN;) and, where pg_hba.conf asks for a client certificate, that sslcert and sslkey are given."
            );
        }
        let (database, user) = (hba_word(database), hba_word(user));
        let line = match our_address {
            None => format!("local {database} {user} scram-sha-256"),
            Some(address) => {
                let kind = if encrypted { "hostssl" } else { "host" };
                let bits = if address.is_ipv4() { 32 } else { 128 };
                format!("{kind} {database} {user} {address}/{bits} scram-sha-256")
            }
        };
        format!("Add a line to the server's pg_hba.conf and reload it (SELECT pg_catalog.pg_reload_conf();): {line}")
    }

    fn privilege_advice(&self, doing: Doing<'_>) -> String {
        let (user, replication) = match doing {
            Doing::Connecting { user, database, replication, .. } => {
                let (role, database_sql) = (quote_identifier(user), quote_identifier(database));
                // Both refusals have this SQLSTATE; only this one names the database, in every language.
                if !replication || self.message.contains(&format!("\"{database}\"")) {
                    return format!("Run: GRANT CONNECT ON DATABASE {database_sql} TO {role};");
                }
                (user, true)
            }
            Doing::Creating { user, .. } | Doing::Starting { user, .. } => (user, true),
            Doing::Asking { user, .. } => (user, false),
            Doing::Streaming { .. } => return String::new(),
        };
        let role = quote_identifier(user);
        if replication { format!("Run as a superuser: ALTER ROLE {role} REPLICATION;") } else { self.grant(&role) }
    }

    /// The missing GRANT, if the message names the object as Postgres does in English.
    fn grant(&self, role: &str) -> String {
        let denied = self.message.strip_prefix("permission denied for ").and_then(|object| object.split_once(' '));
        let Some((kind, name)) = denied else { return format!("Grant {role} what the message names.") };
        let name = quote_identifier(name.trim_matches('"'));
        match kind {
            "table" | "view" | "relation" | "sequence" => format!("Run: GRANT SELECT ON {name} TO {role};"),
            "schema" => format!("Run: GRANT USAGE ON SCHEMA {name} TO {role};"),
            "function" => format!("Run: GRANT EXECUTE ON FUNCTION {name} TO {role};"),
            "database" => format!("Run: GRANT CONNECT ON DATABASE {name} TO {role};"),
            _ => format!("Grant {role} what the message names."),
        }
    }
}

const OF_POOLER: &str = "What answers is not Postgres but something before it, such as pgbouncer, through which the log is \
                         not followed: give the server's own address in source.dsn";

/// The server's text, its SQLSTATE, and its detail if that cannot hold a cell value.
impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let safe = matches!(self.code.get(..2), Some("28" | "42" | "53" | "55" | "57" | "0A" | "58"));
        let detail = self.detail.as_deref().filter(|_| safe).map(|detail| format!(" ({detail})")).unwrap_or_default();
        write!(f, "{}{detail} [SQLSTATE {}]", self.message, self.code)
    }
}

impl std::error::Error for ServerError {}

fn unsupported_advice(doing: Doing<'_>) -> String {
    match doing {
        Doing::Creating { .. } | Doing::Starting { .. } => {
            "coherd can follow a standby from Postgres 16 on. For an older server, set source.dsn to the primary."
                .to_owned()
        }
        Doing::Streaming { publication, .. } => format!(
            "Publish each table once, with one column list, in the publication {}.",
            quote_literal(publication).trim_start()
        ),
        Doing::Connecting { .. } | Doing::Asking { .. } => String::new(),
    }
}

/// Usually, decoding fails on a row filter that raises an error, or on a character with no equivalent in UTF-8.
fn decoding_advice(doing: Doing<'_>) -> String {
    let Doing::Streaming { publication, .. } = doing else { return String::new() };
    format!(
        "If it is a row filter, correct it: SELECT * FROM pg_catalog.pg_publication_tables WHERE pubname = {} AND rowfilter IS NOT \
         NULL;",
        quote_literal(publication).trim_start()
    )
}

/// What an SQLSTATE of bad data means (Postgres manual, appendix A).
fn condition(code: &str) -> &'static str {
    match code {
        "21000" => "more than one row",
        "22001" => "a string that is too long",
        "22003" => "a number out of range",
        "22007" | "22008" => "an invalid date or time",
        "22012" => "division by zero",
        "22021" | "22P05" => "a character with no equivalent in UTF-8",
        "2201B" => "an invalid regular expression",
        "22P02" | "22P03" => "an invalid value for its type",
        _ => "an error with the data of a row",
    }
}

/// Quotes a name for `pg_hba.conf`, where a quoted name has no special meaning.
fn hba_word(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let keyword = matches!(name, "all" | "sameuser" | "samerole" | "samegroup" | "replication");
    if plain && !keyword { name.to_owned() } else { format!("\"{name}\"") }
}

impl Doing<'_> {
    fn tried(&self) -> String {
        match self {
            Doing::Connecting { user, database, .. } => {
                format!("could not log in as {} to database {}", quote_identifier(user), quote_identifier(database))
            }
            Doing::Asking { what, .. } => format!("could not {what}"),
            Doing::Creating { slot, .. } => format!("could not create the slot {}", quote_identifier(slot)),
            Doing::Starting { slot, .. } => format!("could not stream from the slot {}", quote_identifier(slot)),
            Doing::Streaming { slot, .. } => format!("the stream from the slot {} ended", quote_identifier(slot)),
        }
    }
}

#[cfg(test)]
mod tests;
