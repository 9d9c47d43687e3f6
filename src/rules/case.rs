//! `tests:`, cases that users write for their rules: a change of a row, and the keys and scopes that it must invalidate.
//! A [`RawCase`] is what the file says, a [`Case`] is valid, and [`Case::run`] carries it out without a database.

mod outcome;
mod value;

use std::collections::BTreeMap;

use serde::Deserialize;

pub use outcome::{Made, Outcome};
pub use value::RawValue;

use super::config::Rule;
use super::name::{parse_column, parse_table};
use crate::types::change::{Column, Relation, ReplicaIdentity, encode_row};
use crate::types::table::TableName;

/// One entry of `tests:`, as written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawCase {
    /// What it shows.
    pub name: String,
    /// The table into which a row is inserted.
    pub insert: Option<String>,
    /// The table of which a row is updated.
    pub update: Option<String>,
    /// The table from which a row is deleted.
    pub delete: Option<String>,
    /// The table that is truncated.
    pub truncate: Option<String>,
    /// The old row, as far as its table's replica identity carries it.
    pub old: Option<BTreeMap<String, RawValue>>,
    /// The new row. An UPDATE leaves the columns that only `old` has unchanged.
    pub new: Option<BTreeMap<String, RawValue>>,
    /// The columns' types, by name.
    #[serde(default)]
    pub types: BTreeMap<String, String>,
    /// Every key that must be invalidated, in any order.
    pub expect: Vec<String>,
    /// Every scope that must be flushed, in any order.
    #[serde(default)]
    pub flush: Vec<String>,
}

/// A valid case.
#[derive(Debug, Clone)]
pub struct Case {
    /// What it shows.
    pub name: String,
    /// The table as the log would describe it.
    relation: Relation,
    /// What happens to it.
    event: Event,
    /// Sorted, each once.
    expect: Vec<String>,
    /// Sorted, each once.
    flush: Vec<String>,
}

/// A row in the log's form: the number of its cells, and the cells.
type Cells = (u16, Vec<u8>);

#[derive(Debug, Clone)]
enum Event {
    Insert { new: Cells },
    Update { old: Cells, new: Cells },
    Delete { old: Cells },
    Truncate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Insert,
    Update,
    Delete,
    Truncate,
}

/// A field, and what is wrong with it.
type Wrong = (&'static str, String);

/// The most columns of a table (Postgres manual, "Limits").
const COLUMNS_MAX: usize = 1600;

/// Checks a case against the rules of its table.
pub fn resolve(raw: &RawCase, rules: &[Rule]) -> Result<Case, Wrong> {
    let (field, operation, table) = operation(raw)?;
    let table = parse_table(table).map_err(|reason| (field, reason))?;
    let concerned: Vec<&Rule> = rules.iter().filter(|rule| rule.table == table).collect();
    if concerned.is_empty() {
        return Err((field, no_rule(&table, rules)));
    }
    let mut columns: BTreeMap<String, u32> = BTreeMap::new();
    for (name, type_name) in &raw.types {
        let type_oid = value::type_oid(type_name).map_err(|reason| ("types", reason))?;
        columns.insert(parse_column(name).map_err(|reason| ("types", reason))?, type_oid);
    }
    let old = row("old", raw.old.as_ref(), matches!(operation, Operation::Update | Operation::Delete))?;
    let mut new = row("new", raw.new.as_ref(), matches!(operation, Operation::Insert | Operation::Update))?;
    if operation == Operation::Update {
        for (name, value) in &old {
            new.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    if let Some(typed) = columns.keys().find(|name| !old.contains_key(*name) && !new.contains_key(*name)) {
        return Err((
            "types",
            format!("neither old nor new has a column {typed:?}; leave its type out, or give a value"),
        ));
    }
    for rule in concerned.iter().filter(|_| matches!(operation, Operation::Insert | Operation::Update)) {
        if let Some(missing) = rule.columns().into_iter().find(|name| !new.contains_key(*name)) {
            let reason = format!(
                "{} reads column {missing:?}, which has no value here; give one (null for NULL)",
                rule.subject()
            );
            return Err(("new", reason));
        }
    }
    // A DELETE may leave columns out, as an old row does; without an entry, rules would find no such column.
    for name in concerned.iter().flat_map(|rule| rule.columns()).chain(old.keys().chain(new.keys()).map(String::as_str))
    {
        columns.entry(name.to_owned()).or_insert(0);
    }
    if columns.len() > COLUMNS_MAX {
        return Err((field, format!("{} columns; a table has at most {COLUMNS_MAX}", columns.len())));
    }
    let event = event(operation, &columns, &old, &new).ok_or((field, "a value is too long for a row".to_owned()))?;
    let relation = relation(table, &columns, |name| operation == Operation::Insert || old.contains_key(name));
    Ok(Case { name: raw.name.clone(), relation, event, expect: sorted(&raw.expect), flush: sorted(&raw.flush) })
}

fn operation(raw: &RawCase) -> Result<(&'static str, Operation, &str), Wrong> {
    let named = [
        ("insert", Operation::Insert, &raw.insert),
        ("update", Operation::Update, &raw.update),
        ("delete", Operation::Delete, &raw.delete),
        ("truncate", Operation::Truncate, &raw.truncate),
    ];
    let mut given =
        named.into_iter().filter_map(|(field, operation, table)| Some((field, operation, table.as_deref()?)));
    let one = given.next().ok_or_else(|| {
        (
            "",
            "it names no table; write one of insert, update, delete and truncate, e.g. update: public.users".to_owned(),
        )
    })?;
    match given.next() {
        None => Ok(one),
        Some((field, ..)) => Err((field, format!("{} is given too; a case is one change, so keep one of them", one.0))),
    }
}

fn no_rule(table: &TableName, rules: &[Rule]) -> String {
    let names: Vec<String> = rules.iter().map(|rule| rule.table.to_string()).collect();
    let near = super::nearest(&table.to_string(), names.iter().map(String::as_str));
    let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
    format!("no rule names {table}, so that nothing could be invalidated{hint}")
}

/// The columns and values of a row, by unquoted name.
fn row(
    field: &'static str,
    raw: Option<&BTreeMap<String, RawValue>>,
    wanted: bool,
) -> Result<BTreeMap<String, RawValue>, Wrong> {
    let Some(raw) = raw.filter(|raw| !raw.is_empty()) else {
        return if wanted {
            Err((field, "it is missing; write column: value for the row".to_owned()))
        } else {
            Ok(BTreeMap::new())
        };
    };
    if !wanted {
        return Err((field, format!("this change has no {field} row; leave it out")));
    }
    let mut row = BTreeMap::new();
    for (name, value) in raw {
        let column = parse_column(name).map_err(|reason| (field, reason))?;
        if row.insert(column, value.clone()).is_some() {
            return Err((field, format!("{name} is there twice: names are folded to lower case; leave one out")));
        }
    }
    Ok(row)
}

/// `None` if a value is too long for a row.
fn event(
    operation: Operation,
    columns: &BTreeMap<String, u32>,
    old: &BTreeMap<String, RawValue>,
    new: &BTreeMap<String, RawValue>,
) -> Option<Event> {
    // NULL for columns without a value.
    let cells = |row: &BTreeMap<String, RawValue>| {
        let mut cells = Vec::new();
        let values = columns.iter().map(|(name, type_oid)| row.get(name)?.text(*type_oid));
        encode_row(values, &mut cells).map(|count| (count, cells))
    };
    Some(match operation {
        Operation::Insert => Event::Insert { new: cells(new)? },
        Operation::Update => Event::Update { old: cells(old)?, new: cells(new)? },
        Operation::Delete => Event::Delete { old: cells(old)? },
        Operation::Truncate => Event::Truncate,
    })
}

fn relation(table: TableName, columns: &BTreeMap<String, u32>, is_known: impl Fn(&str) -> bool) -> Relation {
    let whole = columns.keys().all(|name| is_known(name));
    let column = |(name, type_oid): (&String, &u32)| Column {
        name: name.clone(),
        type_oid: *type_oid,
        in_identity: is_known(name),
    };
    Relation {
        oid: 0,
        schema: table.schema,
        name: table.name,
        identity: if whole { ReplicaIdentity::Full } else { ReplicaIdentity::Index },
        columns: columns.iter().map(column).collect(),
    }
}

fn sorted(texts: &[String]) -> Vec<String> {
    let mut texts = texts.to_vec();
    texts.sort();
    texts.dedup();
    texts
}

#[cfg(test)]
mod tests;
