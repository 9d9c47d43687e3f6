//! Decoded messages as text, without values that differ between runs: object ids, positions, times, transaction ids.

use std::collections::HashMap;
use std::fmt::Write;

use coherd::pgoutput::{Message, decode};
use coherd::types::change::{Cell, Change, Column, OldImage, Relation, Row};

use super::Captured;

/// Objects created after `initdb` have ids from here on (`FirstNormalObjectId`).
const FIRST_OF_THE_USER: u32 = 16_384;

/// Every step and every message in it, one line each.
pub fn told(steps: &[Captured]) -> String {
    let mut names = HashMap::new();
    let mut text = String::new();
    for step in steps {
        writeln!(text, "# {}", step.done).unwrap();
        for bytes in &step.messages {
            let message = decode(bytes).unwrap_or_else(|error| panic!("{}: {error}", step.done));
            if let Message::Relation(relation) = &message {
                names.insert(relation.oid, format!("{}.{}", relation.schema, relation.name));
            }
            writeln!(text, "{}", line(&message, &names)).unwrap();
        }
    }
    text
}

fn line(message: &Message<'_>, names: &HashMap<u32, String>) -> String {
    match message {
        Message::Begin { .. } => "begin".into(),
        Message::Commit { .. } => "commit".into(),
        Message::Origin => "origin".into(),
        Message::Type => "type".into(),
        Message::Relation(its) => relation(its),
        Message::Change { relation, change: its } => change(&names[relation], its),
        Message::Truncate(truncated) => {
            let emptied: Vec<&str> = truncated.relations().map(|oid| names[&oid].as_str()).collect();
            format!("truncate {}", emptied.join(", "))
        }
        Message::Logical { transactional, prefix, content, .. } => {
            let whose = if *transactional { "of the transaction" } else { "of none" };
            format!("message {whose}, {prefix:?}: {}", content.escape_ascii())
        }
    }
}

fn relation(its: &Relation) -> String {
    let column = |column: &Column| {
        let identity = if column.in_identity { " in identity" } else { "" };
        match column.type_oid {
            FIRST_OF_THE_USER.. => format!("{} user's{identity}", column.name),
            built_in => format!("{} {built_in}{identity}", column.name),
        }
    };
    let columns: Vec<String> = its.columns.iter().map(column).collect();
    format!("relation {}.{} {:?} ({})", its.schema, its.name, its.identity, columns.join(", "))
}

fn change(name: &str, its: &Change<'_>) -> String {
    let before = |image: &OldImage<'_>| match image {
        OldImage::Absent => "nothing".to_owned(),
        OldImage::Key(key) => format!("key {}", row(*key)),
        OldImage::Full(full) => format!("full {}", row(*full)),
    };
    match its {
        Change::Insert { new } => format!("insert {name} {}", row(*new)),
        Change::Update { old, new } => format!("update {name} old {} new {}", before(old), row(*new)),
        Change::Delete { old } => format!("delete {name} old {}", before(old)),
    }
}

fn row(row: Row<'_>) -> String {
    let cell = |cell: Cell<'_>| match cell {
        Cell::Null => "NULL".to_owned(),
        Cell::Unchanged => "unchanged".to_owned(),
        Cell::Cut => "cut".to_owned(),
        Cell::Text(long @ [first, ..]) if long.len() > 200 && long.iter().all(|byte| byte == first) => {
            format!("{} times {}", long.len(), first.escape_ascii())
        }
        Cell::Text(text) => format!("{:?}", str::from_utf8(text).expect("the database is in UTF-8")),
    };
    let cells: Vec<String> = row.cells().map(cell).collect();
    assert_eq!(cells.len(), row.len());
    format!("({})", cells.join(", "))
}
