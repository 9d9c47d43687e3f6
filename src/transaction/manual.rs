//! The messages that `coherd.invalidate()`, `coherd.touch()`, `coherd.flush()` and `coherd.wait()` write to the log
//! (`sql/coherd.sql`).

use serde::Deserialize;

use crate::types::change::{Column, Relation, ReplicaIdentity};
use crate::types::table::TableName;

/// The prefix of coherd's logical messages.
pub const PREFIX: &str = "coherd";

/// The prefix of the empty messages that `coherd.wait()` writes: a client waits for everything before the message.
pub const AWAITED: &str = "coherd.wait";

/// `manual.keys:`, which manual keys count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ManualKeys {
    /// Keys that a rule covers, in that rule's targets.
    #[default]
    Rules,
    /// All keys, in all targets.
    Any,
}

/// The version of the message format.
const VERSION: u32 = 1;

/// The most bytes of content in one message; `sql/coherd.sql` splits larger requests. Any user can write a message,
/// and parsing it takes several times its size in memory.
pub const CONTENT_BYTES_MAX: usize = 1 << 20;

/// One manual request. It is ordered with the data because it arrives through the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manual {
    /// Invalidate these keys.
    Invalidate(Vec<String>),
    /// Invalidate the keys of these rows.
    Touch(Touched),
    /// Flush every scope of every rule for the table.
    Flush(TableName),
}

/// Rows to be treated as changed, although nobody wrote them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touched {
    /// Table and columns, as a relation whose changes carry full rows.
    pub relation: Relation,
    /// Each row's values in column order; `None` is NULL.
    pub rows: Vec<Vec<Option<String>>>,
}

/// A message with coherd's prefix that this program cannot read. The error says what is wrong and never quotes the
/// content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableManual {
    /// It is not in coherd's format, or has a different version.
    #[error(
        "a message with prefix \"coherd\" in the log cannot be read: {0}; is sql/coherd.sql newer than this daemon?"
    )]
    Strange(&'static str),
    /// It is longer than [`CONTENT_BYTES_MAX`].
    #[error(
        "a message with prefix \"coherd\" in the log has more than {CONTENT_BYTES_MAX} bytes, so coherd does not \
         read it. Current versions of coherd.invalidate() and coherd.touch() split large \
         requests: coherd setup updates them."
    )]
    TooLarge,
}

impl UnreadableManual {
    /// The metric label.
    pub const fn reason(&self) -> &'static str {
        match self {
            UnreadableManual::Strange(_) => "manual_unreadable",
            UnreadableManual::TooLarge => "manual_too_large",
        }
    }
}

#[derive(Deserialize)]
struct Wire {
    v: u32,
    r#do: String,
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default)]
    schema: String,
    #[serde(default)]
    table: String,
    #[serde(default)]
    columns: Vec<String>,
    #[serde(default)]
    rows: Vec<Vec<Option<String>>>,
}

/// Parses the content of a message.
pub fn read(content: &[u8]) -> Result<Manual, UnreadableManual> {
    if content.len() > CONTENT_BYTES_MAX {
        return Err(UnreadableManual::TooLarge);
    }
    let wire: Wire =
        serde_json::from_slice(content).map_err(|_| UnreadableManual::Strange("it is not the JSON expected"))?;
    if wire.v != VERSION {
        return Err(UnreadableManual::Strange("it has another version than 1"));
    }
    let name = TableName { schema: wire.schema, name: wire.table };
    match wire.r#do.as_str() {
        "invalidate" => Ok(Manual::Invalidate(wire.keys)),
        "flush" => Ok(Manual::Flush(name)),
        "touch" if wire.rows.iter().any(|row| row.len() != wire.columns.len()) => {
            Err(UnreadableManual::Strange("a row has another number of values than there are columns"))
        }
        "touch" => {
            let column = |name| Column { name, type_oid: 0, in_identity: true };
            let columns = wire.columns.into_iter().map(column).collect();
            let TableName { schema, name } = name;
            let relation = Relation { oid: 0, schema, name, identity: ReplicaIdentity::Full, columns };
            Ok(Manual::Touch(Touched { relation, rows: wire.rows }))
        }
        _ => Err(UnreadableManual::Strange("it asks for something unknown")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_orders_are_read() {
        let read_back = read(br#"{"v":1,"do":"invalidate","keys":["a","b"]}"#);
        assert_eq!(read_back, Ok(Manual::Invalidate(vec!["a".into(), "b".into()])));
        let read_back = read(br#"{"v":1,"do":"flush","schema":"public","table":"Users"}"#);
        assert_eq!(read_back, Ok(Manual::Flush(TableName { schema: "public".into(), name: "Users".into() })));
        let touch = br#"{"v":1,"do":"touch","schema":"s","table":"t","columns":["id","m"],"rows":[["1",null]]}"#;
        let Ok(Manual::Touch(touched)) = read(touch) else { panic!("no touch") };
        assert_eq!(touched.rows, [[Some("1".to_owned()), None]]);
        assert_eq!(touched.relation.columns[1].name, "m");
    }

    #[test]
    fn what_cannot_be_read_is_an_error_without_its_content() {
        for content in [
            &b"secret"[..],
            br#"{"v":2,"do":"flush"}"#,
            br#"{"v":1,"do":"secret"}"#,
            br#"{"v":1,"do":"touch","columns":["secret"],"rows":[[]]}"#,
            b"\xFF",
        ] {
            let error = read(content).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
