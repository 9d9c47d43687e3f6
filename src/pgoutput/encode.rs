//! Encodes messages, for tests.

use crate::types::change::{Cell, Change, OldImage, Relation, ReplicaIdentity, Row};

/// A row's cells in the wire format.
#[expect(clippy::option_option, reason = "unchanged, NULL, or a value")]
pub(super) fn cells(values: &[Option<Option<Vec<u8>>>]) -> Vec<u8> {
    let mut out = Vec::new();
    for value in values {
        match value {
            None => out.push(b'u'),
            Some(None) => out.push(b'n'),
            Some(Some(text)) => {
                out.push(b't');
                out.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                out.extend(text);
            }
        }
    }
    out
}

fn row(row: Row<'_>, out: &mut Vec<u8>) {
    out.extend(u16::try_from(row.len()).unwrap().to_be_bytes());
    let values: Vec<_> = row
        .cells()
        .map(|cell| match cell {
            Cell::Unchanged | Cell::Cut => None,
            Cell::Null => Some(None),
            Cell::Text(text) => Some(Some(text.to_vec())),
        })
        .collect();
    out.extend(cells(&values));
}

fn old(image: OldImage<'_>, out: &mut Vec<u8>) {
    let (kind, its) = match image {
        OldImage::Absent => return,
        OldImage::Key(its) => (b'K', its),
        OldImage::Full(its) => (b'O', its),
    };
    out.push(kind);
    row(its, out);
}

pub(super) fn change(relation: u32, change: Change<'_>) -> Vec<u8> {
    let kind = match change {
        Change::Insert { .. } => b'I',
        Change::Update { .. } => b'U',
        Change::Delete { .. } => b'D',
    };
    let mut out = vec![kind];
    out.extend(relation.to_be_bytes());
    let new = |its, out: &mut Vec<u8>| {
        out.push(b'N');
        row(its, out);
    };
    match change {
        Change::Insert { new: its } => new(its, &mut out),
        Change::Update { old: before, new: its } => {
            old(before, &mut out);
            new(its, &mut out);
        }
        Change::Delete { old: before } => old(before, &mut out),
    }
    out
}

pub(super) fn relation(relation: &Relation) -> Vec<u8> {
    let mut out = vec![b'R'];
    out.extend(relation.oid.to_be_bytes());
    for name in [&relation.schema, &relation.name] {
        out.extend(name.bytes());
        out.push(0);
    }
    out.push(match relation.identity {
        ReplicaIdentity::Default => b'd',
        ReplicaIdentity::Nothing => b'n',
        ReplicaIdentity::Full => b'f',
        ReplicaIdentity::Index => b'i',
    });
    out.extend(u16::try_from(relation.columns.len()).unwrap().to_be_bytes());
    for column in &relation.columns {
        out.push(u8::from(column.in_identity));
        out.extend(column.name.bytes());
        out.push(0);
        out.extend(column.type_oid.to_be_bytes());
        out.extend((-1i32).to_be_bytes());
    }
    out
}
