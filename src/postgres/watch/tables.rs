//! Reads what a look shows of each table from the rows of [`look`](super::sql::look).

use tokio_postgres::{Error, Row};

use super::known::{Kind, Thing};
use crate::types::observation::{FileSeen, LeafSeen, NameSeen, PartSeen, TableSeen};
use crate::types::table::TableName;

/// One table, and what coherd remembers of it until something touches it.
pub(super) struct Described {
    pub(super) table: TableSeen,
    pub(super) footprint: Footprint,
}

/// What coherd remembers of a table to see whether it has changed.
#[derive(Debug, Default)]
pub(super) struct Footprint {
    /// A hash of its stamp and of everything that the rules are bound to: columns, leaves, their identities. `None` if
    /// there is no such table.
    pub(super) shape: Option<i64>,
    /// The rows of the catalogue from which the shape was read.
    pub(super) things: Box<[Thing]>,
}

/// Describes the tables called `names`, in that order. Only tables that exist have rows.
pub(super) fn read(rows: &[Row], names: &[&TableName]) -> Result<Vec<Described>, Error> {
    let none = |name: &&TableName| Described {
        table: TableSeen { name: (*name).clone(), ..TableSeen::default() },
        footprint: Footprint::default(),
    };
    let mut all: Vec<Described> = names.iter().map(none).collect();
    for row in rows {
        let place = usize::try_from(row.try_get::<_, i64>(0)? - 1).unwrap_or(usize::MAX);
        if let Some(described) = all.get_mut(place) {
            describe(row, described)?;
        }
    }
    Ok(all)
}

fn describe(row: &Row, Described { table, footprint }: &mut Described) -> Result<(), Error> {
    table.stamp = row.try_get(1)?;
    let version = u32::try_from(row.try_get::<_, i64>(3)?).unwrap_or_default();
    table.named = NameSeen { version, owner: row.try_get(4)? };
    table.file = FileSeen {
        node: row.try_get(5)?,
        columns: row.try_get(6)?,
        tablespace: row.try_get(7)?,
        has_rows: row.try_get(8)?,
    };
    let (ids, versions): (Vec<i64>, Vec<i64>) = (array(row, 9)?, array(row, 10)?);
    let fills: Vec<bool> = array(row, 11)?;
    let parts = ids.into_iter().zip(versions).zip(fills);
    table.parts = parts.map(|((id, version), fills_rows)| PartSeen { id, version, fills_rows }).collect();
    table.leaves = leaves(row)?;
    let kinds = [Kind::Class, Kind::Entry, Kind::Index, Kind::Enum, Kind::Bare, Kind::Unentered];
    let mut things = Vec::new();
    for (column, kind) in (18..).zip(kinds) {
        things.extend(array::<u32>(row, column)?.into_iter().map(|oid| Thing { kind, oid }));
    }
    *footprint = Footprint { shape: Some(row.try_get(2)?), things: things.into() };
    Ok(())
}

fn leaves(row: &Row) -> Result<Vec<LeafSeen>, Error> {
    let (files, columns): (Vec<u32>, Vec<Option<i64>>) = (array(row, 13)?, array(row, 14)?);
    let (tablespaces, has_rows): (Vec<u32>, Vec<bool>) = (array(row, 15)?, array(row, 16)?);
    let born_here: Vec<bool> = array(row, 17)?;
    let file = files.into_iter().zip(columns).zip(tablespaces).zip(has_rows);
    let file = file.map(|(((node, columns), tablespace), has_rows)| FileSeen {
        node,
        columns: columns.unwrap_or_default(),
        tablespace,
        has_rows,
    });
    let joined: Vec<i64> = array(row, 24)?;
    let (names, owners): (Vec<Option<i64>>, Vec<u32>) = (array(row, 25)?, array(row, 26)?);
    let children = names.into_iter().zip(owners).map(|(version, owner)| {
        version.map(|version| NameSeen { version: u32::try_from(version).unwrap_or_default(), owner })
    });
    let leaves = array(row, 12)?.into_iter().zip(file).zip(born_here).zip(joined).zip(children);
    let leaf = |((((oid, file), born_here), joined), child)| LeafSeen { oid, file, born_here, joined, child };
    Ok(leaves.map(leaf).collect())
}

/// Reads NULL as an empty array.
fn array<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, column: usize) -> Result<Vec<T>, Error> {
    row.try_get::<_, Option<Vec<T>>>(column).map(Option::unwrap_or_default)
}
