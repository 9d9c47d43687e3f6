//! Decoder of pgoutput, Postgres's built-in logical decoding plugin, in protocol version 1: it sends committed
//! transactions only, whole and in commit order (Postgres manual, "Logical Replication Message Formats").

mod cursor;
#[cfg(test)]
mod encode;
pub mod sieve;
#[cfg(test)]
mod sieve_tests;
pub mod streamed;
#[cfg(test)]
mod tests;

use cursor::Cursor;

use crate::types::change::{CUT, Change, Column, OldImage, Relation, ReplicaIdentity, Row};
use crate::types::lsn::{CommitLsn, Lsn};

/// Microseconds since 2000-01-01 00:00 UTC, Postgres's epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgTime(pub i64);

impl PgTime {
    /// Microseconds since 1970-01-01 00:00 UTC.
    pub const fn unix_micros(self) -> i64 {
        self.0.saturating_add(946_684_800_000_000)
    }
}

/// One message, borrowed from the wire.
#[derive(Debug, Clone, PartialEq)]
pub enum Message<'a> {
    /// A transaction begins.
    Begin {
        /// Position of its commit record.
        final_lsn: Lsn,
        /// When it was committed.
        commit_time: PgTime,
        /// Its 32-bit transaction id.
        xid: u32,
    },
    /// A transaction ends.
    Commit {
        /// Just after its commit record.
        end: CommitLsn,
        /// When it was committed.
        commit_time: PgTime,
    },
    /// The transaction came from another node.
    Origin,
    /// The definition of a relation, sent before its first change and again after each change of the definition.
    Relation(Relation),
    /// The name of a type that is not built in.
    Type,
    /// A changed row.
    Change {
        /// `pg_class.oid`.
        relation: u32,
        /// What happened.
        change: Change<'a>,
    },
    /// A TRUNCATE of one or more tables.
    Truncate(Truncated<'a>),
    /// A message that `pg_logical_emit_message` wrote.
    Logical {
        /// Whether it belongs to the surrounding transaction.
        transactional: bool,
        /// Its position in the log.
        at: Lsn,
        /// Names the application that wrote it.
        prefix: &'a str,
        /// Arbitrary bytes.
        content: &'a [u8],
    },
}

/// The relations of a Truncate message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncated<'a>(&'a [u8]);

impl Truncated<'_> {
    /// `pg_class.oid` of each.
    pub fn relations(&self) -> impl Iterator<Item = u32> {
        let (oids, _) = self.0.as_chunks::<4>();
        oids.iter().map(|oid| u32::from_be_bytes(*oid))
    }
}

/// Bytes that are not a message of protocol 1. The error names fields and lengths, never contents.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends too early.
    #[error("pgoutput message {message:?} ends inside its {field}")]
    Short {
        /// First byte of the message.
        message: char,
        /// What was being read.
        field: &'static str,
    },
    /// The message goes on after its last field.
    #[error("pgoutput message {message:?} has {extra} bytes too many")]
    Long {
        /// First byte of the message.
        message: char,
        /// Number of bytes.
        extra: usize,
    },
    /// A field holds a value that the protocol does not define.
    #[error("pgoutput message {message:?} has {got} as its {field}")]
    Unknown {
        /// First byte of the message.
        message: char,
        /// Which field.
        field: &'static str,
        /// The value: one byte, as an escaped character.
        got: String,
    },
    /// A name is not UTF-8.
    #[error("pgoutput message {message:?} has a {field} that is not UTF-8")]
    NotUtf8 {
        /// First byte of the message.
        message: char,
        /// Which field.
        field: &'static str,
    },
    /// The message has no bytes.
    #[error("an empty pgoutput message")]
    Empty,
}

/// Decodes one message. Rows are checked here, so that iterating over their cells later cannot fail.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, DecodeError> {
    let (&kind, rest) = bytes.split_first().ok_or(DecodeError::Empty)?;
    decode_body(kind, Cursor::new(kind, rest))
}

/// The time of the commit, if this is a Commit message.
pub fn commit_time(bytes: &[u8]) -> Option<PgTime> {
    match bytes.first().filter(|kind| **kind == b'C').and_then(|_| decode(bytes).ok())? {
        Message::Commit { commit_time, .. } => Some(commit_time),
        _ => None,
    }
}

/// Decodes everything after a message's first byte.
fn decode_body(kind: u8, mut cursor: Cursor<'_>) -> Result<Message<'_>, DecodeError> {
    let message = match kind {
        b'I' | b'U' | b'D' => decode_change(kind, &mut cursor)?,
        b'B' => Message::Begin {
            final_lsn: Lsn::new(cursor.u64("final LSN")?),
            commit_time: PgTime(cursor.i64("commit time")?),
            xid: cursor.u32("transaction id")?,
        },
        b'C' => decode_commit(&mut cursor)?,
        b'R' => Message::Relation(decode_relation(&mut cursor)?),
        b'T' => decode_truncate(&mut cursor)?,
        b'M' => decode_logical(&mut cursor)?,
        b'O' => {
            cursor.u64("origin LSN")?;
            cursor.text("origin name")?;
            Message::Origin
        }
        b'Y' => {
            cursor.u32("type oid")?;
            cursor.text("type schema")?;
            cursor.text("type name")?;
            Message::Type
        }
        _ => return Err(cursor.unknown("type", kind)),
    };
    cursor.end()?;
    Ok(message)
}

fn decode_change<'a>(kind: u8, cursor: &mut Cursor<'a>) -> Result<Message<'a>, DecodeError> {
    let relation = cursor.u32("relation oid")?;
    let change = match kind {
        b'I' => Change::Insert { new: new_row(cursor)? },
        b'U' => match old_image(cursor)? {
            Some(old) => Change::Update { old, new: new_row(cursor)? },
            None => Change::Update { old: OldImage::Absent, new: new_row(cursor)? },
        },
        _ => match old_image(cursor)? {
            Some(old) => Change::Delete { old },
            None => return Err(cursor.unknown_next("old row's kind")),
        },
    };
    Ok(Message::Change { relation, change })
}

/// The old row, or `None` if the next byte does not begin one.
fn old_image<'a>(cursor: &mut Cursor<'a>) -> Result<Option<OldImage<'a>>, DecodeError> {
    match cursor.peek("row's kind")? {
        b'K' => {
            cursor.u8("old row's kind")?;
            Ok(Some(OldImage::Key(row(cursor)?)))
        }
        b'O' => {
            cursor.u8("old row's kind")?;
            Ok(Some(OldImage::Full(row(cursor)?)))
        }
        _ => Ok(None),
    }
}

fn new_row<'a>(cursor: &mut Cursor<'a>) -> Result<Row<'a>, DecodeError> {
    match cursor.u8("new row's kind")? {
        b'N' => row(cursor),
        other => Err(cursor.unknown("new row's kind", other)),
    }
}

fn row<'a>(cursor: &mut Cursor<'a>) -> Result<Row<'a>, DecodeError> {
    let count = cursor.u16("number of columns")?;
    let begin = cursor.rest();
    for _ in 0..count {
        match cursor.u8("column's kind")? {
            b'n' | b'u' | CUT => {}
            b't' => {
                let length = cursor.u32("column's length")?;
                cursor.skip(length, "column's value")?;
            }
            // 'b', binary, is sent only on request.
            other => return Err(cursor.unknown("column's kind", other)),
        }
    }
    let (cells, _) = begin.split_at_checked(begin.len() - cursor.rest().len()).unwrap_or((begin, &[]));
    Ok(Row::new(count, cells))
}

fn decode_commit<'a>(cursor: &mut Cursor<'a>) -> Result<Message<'a>, DecodeError> {
    cursor.u8("flags")?;
    cursor.u64("commit LSN")?;
    let end = CommitLsn::from_end(Lsn::new(cursor.u64("end LSN")?));
    Ok(Message::Commit { end, commit_time: PgTime(cursor.i64("commit time")?) })
}

fn decode_relation(cursor: &mut Cursor<'_>) -> Result<Relation, DecodeError> {
    let oid = cursor.u32("relation oid")?;
    let schema = cursor.text("schema")?;
    let name = cursor.text("name")?.to_owned();
    let identity = match cursor.u8("replica identity")? {
        b'd' => ReplicaIdentity::Default,
        b'n' => ReplicaIdentity::Nothing,
        b'f' => ReplicaIdentity::Full,
        b'i' => ReplicaIdentity::Index,
        other => return Err(cursor.unknown("replica identity", other)),
    };
    let count = cursor.u16("number of columns")?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let flags = cursor.u8("column flags")?;
        let name = cursor.text("column name")?.to_owned();
        let type_oid = cursor.u32("column type")?;
        cursor.u32("column type modifier")?;
        columns.push(Column { name, type_oid, in_identity: flags & 1 != 0 });
    }
    // The protocol sends an empty name for pg_catalog.
    let schema = if schema.is_empty() { "pg_catalog" } else { schema }.to_owned();
    Ok(Relation { oid, schema, name, identity, columns })
}

fn decode_truncate<'a>(cursor: &mut Cursor<'a>) -> Result<Message<'a>, DecodeError> {
    let count = cursor.u32("number of relations")?;
    cursor.u8("options")?;
    let length = count.checked_mul(4).ok_or(cursor.short("relation oids"))?;
    Ok(Message::Truncate(Truncated(cursor.skip(length, "relation oids")?)))
}

fn decode_logical<'a>(cursor: &mut Cursor<'a>) -> Result<Message<'a>, DecodeError> {
    let flags = cursor.u8("flags")?;
    let at = Lsn::new(cursor.u64("LSN")?);
    // Any user can write a message, and in a database without an encoding its prefix need not be text. Such a prefix
    // is not coherd's.
    let prefix = str::from_utf8(cursor.bytes("prefix")?).unwrap_or_default();
    let length = cursor.u32("content length")?;
    let content = cursor.skip(length, "content")?;
    Ok(Message::Logical { transactional: flags & 1 != 0, at, prefix, content })
}
