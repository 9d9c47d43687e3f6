//! coherd's replication connection against a real Postgres.

mod auth;
mod certificates;
mod fake;
mod slots;
mod probes;
mod standby;
mod stream;
mod tls;
pub mod watch;

use std::sync::Arc;
use std::time::Duration;

use coherd::core::{AckLsn, Core};
use coherd::postgres::client::dsn::Dsn;
use coherd::postgres::server::{Creation, Postgres, PostgresConfig};
use coherd::postgres::stream::PostgresStream;
use coherd::postgres::{ErrorKind, Frame, Intake, Seen, Source, SourceError, Stream};
use coherd::types::lsn::Lsn;

use crate::support::{self, Database};

/// A runtime like the daemon's: one thread.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Parses a connection string with an empty environment.
pub fn dsn(text: &str) -> Dsn {
    Dsn::parse(text, &|_| None).unwrap()
}

/// A source with slot `slot` and publication `p`.
pub fn source(text: &str, slot: &str) -> Postgres {
    Postgres::new(PostgresConfig {
        dsn: dsn(text),
        slot: slot.into(),
        publication: "p".into(),
        messages: true,
        creation: Creation::default(),
    })
}

/// Looks at the server of `text`.
pub fn look(text: &str) -> Result<Seen, SourceError> {
    runtime().block_on(source(text, "none").look())
}

/// Server messages whose wording differs between versions.
const OTHER_WORDS: &[(&str, &str)] = &[
    (
        "permission denied to start WAL sender (Only roles with the REPLICATION attribute may start a WAL sender \
         process.)",
        "must be superuser or replication role to start walsender",
    ),
    ("requires \"wal_level\" >= \"logical\"", "requires wal_level >= logical"),
];

/// `error` as text for snapshots: values that differ between runs are replaced.
pub fn settled_text(error: &SourceError, replace: &[(&str, &str)]) -> String {
    let kind = match error.kind() {
        ErrorKind::Lost => "Lost",
        ErrorKind::Busy => "Busy",
        ErrorKind::Gap => "Gap",
        ErrorKind::Refused => "Refused",
        ErrorKind::Pooler => "Pooler",
        ErrorKind::Synchronous => "Synchronous",
        ErrorKind::Protocol => "Protocol",
        ErrorKind::NotDecodable { .. } => "NotDecodable",
    };
    replace.iter().chain(OTHER_WORDS).fold(format!("{kind}: {error}"), |text, (from, to)| text.replace(from, to))
}

/// A position that may be acknowledged.
pub fn ack(at: Lsn) -> AckLsn {
    let mut core = Core::without_targets(Lsn::ZERO);
    core.idle(at);
    core.acknowledge().unwrap()
}

/// What a stream has returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    Data(Vec<u8>),
    Position(Lsn),
}

/// A database with a publication of every table, a slot and a stream from it.
pub struct Followed {
    pub runtime: tokio::runtime::Runtime,
    pub database: Database,
    pub source: Postgres,
    pub stream: PostgresStream,
}

impl Followed {
    /// Follows a new database of the shared server over TCP.
    pub fn start() -> Followed {
        Followed::on(Database::create(), Database::dsn)
    }

    /// Follows `database` with the connection string that `text` returns.
    pub fn on(database: Database, text: impl Fn(&Database) -> String) -> Followed {
        database.run("CREATE TABLE t (id int PRIMARY KEY, note text); CREATE PUBLICATION p FOR ALL TABLES");
        let mut source = source(&text(&database), &database.name);
        let runtime = runtime();
        let stream = runtime.block_on(async {
            source.create_slot().await.unwrap();
            source.stream().await.unwrap().0
        });
        Followed { runtime, database, source, stream }
    }

    /// Reads until `enough` is true of everything read so far.
    pub fn read_until(&mut self, what: &str, enough: impl Fn(&[Got]) -> bool) -> Vec<Got> {
        let mut all = Vec::new();
        let stream = &mut self.stream;
        let reading = async {
            while !enough(&all) {
                stream.ready(Intake::Open).await.unwrap();
                while let Some(frame) = stream.next().unwrap() {
                    all.push(match frame {
                        Frame::Data(data) => Got::Data(data.to_vec()),
                        Frame::Position(at) => Got::Position(at),
                    });
                }
            }
        };
        let in_time = self.runtime.block_on(async { tokio::time::timeout(support::wait::PATIENCE, reading).await });
        in_time.unwrap_or_else(|_| panic!("the stream never gave {what}"));
        all
    }

    /// Reads until the stream fails, and returns the error.
    pub fn read_to_error(&mut self) -> SourceError {
        let stream = &mut self.stream;
        let reading = async {
            loop {
                if let Err(error) = stream.ready(Intake::Open).await {
                    return error;
                }
                loop {
                    match stream.next() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(error) => return error,
                    }
                }
            }
        };
        let in_time = self.runtime.block_on(async { tokio::time::timeout(support::wait::PATIENCE, reading).await });
        in_time.expect("the stream never failed")
    }

    /// Polls the stream for `time`, with or without intake.
    pub fn poll_for(&mut self, time: Duration, intake: Intake) {
        let stream = &mut self.stream;
        let polled = self.runtime.block_on(async { tokio::time::timeout(time, stream.ready(intake)).await });
        assert!(!matches!(polled, Ok(Err(_))), "{polled:?}");
    }

    /// Reads for a moment, and acknowledges what it reads.
    pub fn acknowledge_everything(&mut self) {
        let stream = &mut self.stream;
        let reading = async {
            loop {
                stream.ready(Intake::Open).await.unwrap();
                while let Some(frame) = stream.next().unwrap() {
                    if let Frame::Position(at) = frame {
                        stream.acknowledge(ack(at));
                    }
                }
            }
        };
        let moment = Duration::from_millis(100);
        let _: Result<(), _> = self.runtime.block_on(async { tokio::time::timeout(moment, reading).await });
    }

    /// `column` of the slot's row in pg_replication_slots.
    pub fn slot(&self, column: &str) -> String {
        let name = &self.database.name;
        self.database.client().one(&format!("SELECT {column} FROM pg_replication_slots WHERE slot_name = '{name}'"))
    }
}

/// A server that the test does not share.
pub fn own_server(settings: &str) -> Arc<support::Postgres> {
    Arc::new(support::Postgres::start(settings))
}
