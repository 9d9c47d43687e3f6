//! Whether the database can feed the rules. Checks every rule against the catalogue, and returns findings with the SQL
//! that fixes them.

pub mod beside;
mod table;

use std::collections::HashMap;

use super::config::Rule;
use super::nearest;
use super::publish::Demand;
use crate::types::database::{Database, Publication};
use crate::types::finding::{Code, Finding};
use crate::types::table::{Generated, TableKind, TableName, quote_identifier};

/// Every finding about the rules and the database. If there is none, the stream contains every change of every key.
pub fn audit(rules: &[Rule], database: &Database) -> Vec<Finding> {
    let mut findings = publication(rules, database);
    for (name, rules) in by_table(rules, database) {
        match database.table(name) {
            None => findings.extend(rules.iter().map(|rule| missing_table(rule, database))),
            Some(table) => findings.extend(table::audit(Demand { database, table, rules: &rules })),
        }
    }
    findings
}

/// The tables that rules name or that inherit from one of those, each with its rules, in the order in which the tables
/// first appear.
pub fn by_table<'a>(rules: &'a [Rule], database: &'a Database) -> Vec<(&'a TableName, Vec<&'a Rule>)> {
    let mut tables: Vec<(&TableName, Vec<&Rule>)> = Vec::new();
    let mut places = HashMap::new();
    let mut add = |table: &'a TableName, rule: &'a Rule| {
        let place = *places.entry(table).or_insert(tables.len());
        match tables.get_mut(place) {
            Some((_, of_table)) => of_table.push(rule),
            None => tables.push((table, vec![rule])),
        }
    };
    for rule in rules {
        add(&rule.table, rule);
    }
    let heirs = database.tables.iter().filter(|table| database.has_heirs && !table.parents.is_empty());
    for heir in heirs {
        rules.iter().filter(|rule| heir.parents.contains(&rule.table)).for_each(|rule| add(&heir.name, rule));
    }
    tables
}

fn publication(rules: &[Rule], database: &Database) -> Vec<Finding> {
    let name = quote_identifier(&database.publication_name);
    let subject = format!("publication {name}");
    let Some(held) = &database.publication else {
        let message = format!("it is not in database {}, so nothing is sent", quote_identifier(&database.name));
        return vec![Finding::hiding(Code::PUBLICATION_MISSING, subject, message).remedy("coherd setup")];
    };
    let mut findings = Vec::new();
    let missing = held.operations.missing();
    if !missing.is_empty() {
        let message = format!("it leaves out {}: such changes are never seen", missing.join(", "));
        let remedy = format!("ALTER PUBLICATION {name} SET (publish = 'insert, update, delete, truncate');");
        findings.push(Finding::hiding(Code::PUBLICATION_OPERATIONS, &subject, message).remedy(remedy));
    }
    let partitioned: Vec<_> = rules
        .iter()
        .filter_map(|rule| database.table(&rule.table))
        .filter(|table| table.kind == TableKind::Partitioned)
        .collect();
    if let (false, Some(table)) = (held.via_root, partitioned.first()) {
        let message =
            format!("it sends the changes of {} under the names of its partitions, which no rule matches", table.name);
        let remedy = format!("ALTER PUBLICATION {name} SET (publish_via_partition_root = true);");
        findings.push(Finding::hiding(Code::PUBLICATION_ROOT, &subject, message).remedy(remedy));
    }
    findings.extend(generated(rules, database, held, &subject));
    findings
}

/// Without a column list, the publication sends stored generated columns only if it says so (18+).
fn generated(rules: &[Rule], database: &Database, held: &Publication, subject: &str) -> Option<Finding> {
    if held.generated {
        return None;
    }
    let (column, table) = by_table(rules, database).into_iter().find_map(|(name, rules)| {
        let table = database.table(name)?;
        let whole = table.published.as_ref().is_some_and(|published| published.columns.is_none());
        let demand = Demand { database, table, rules: &rules };
        let column = demand.columns().find(|column| whole && column.generated != Generated::No)?;
        Some((quote_identifier(&column.name), &table.name))
    })?;
    let message = format!("it leaves out generated columns, and a rule reads {column} of {table}");
    let name = quote_identifier(&database.publication_name);
    let remedy = format!("ALTER PUBLICATION {name} SET (publish_generated_columns = stored);");
    Some(Finding::error(Code::PUBLICATION_GENERATED, subject, message).remedy(remedy))
}

fn missing_table(rule: &Rule, database: &Database) -> Finding {
    let wanted = &rule.table;
    let near = |other: &&TableName| nearest(&wanted.name, [other.name.as_str()]).is_some();
    let distance = |other: &&TableName| {
        let name = strsim::damerau_levenshtein(&wanted.name, &other.name);
        (name, strsim::damerau_levenshtein(&wanted.schema, &other.schema))
    };
    let near = database.others.iter().filter(near).min_by_key(distance);
    let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
    let message = format!("there is no such table in database {}{hint}", quote_identifier(&database.name));
    Finding::hiding(Code::TABLE_MISSING, rule.subject(), message)
}
