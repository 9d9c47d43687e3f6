//! The tables in the publication that no rule names: those that needlessly stand in the way of migrations, and those on
//! which the application's writes fail because they are published.

use crate::types::database::{Beside, Database, Unwritable};
use crate::types::finding::{Code, Finding};
use crate::types::table::{TableName, quote_identifier};

/// The most names in one message.
const NAMED_MAX: usize = 5;

/// Findings about tables that no rule names.
pub fn audit(database: &Database, beside: &Beside) -> Vec<Finding> {
    let publication = quote_identifier(&database.publication_name);
    let subject = format!("publication {publication}");
    let mut findings = Vec::new();
    if !beside.unwritable.is_empty() {
        let names = named(beside.unwritable.iter().map(|it| &it.table), beside.unwritable_count);
        let message = format!(
            "the application's UPDATEs and DELETEs fail (55000, 42P10) on tables without a replica identity that it \
             can send: {names}"
        );
        let remedy = beside.unwritable.iter().flat_map(|it| remedy(&publication, it));
        findings.push(Finding::error(Code::PUBLISHED_UNWRITABLE, &subject, message).remedies(remedy));
    }
    if let Some(statement) = leave(database, beside) {
        let names = named(beside.unruled.iter().map(|(table, _)| table), beside.unruled_count);
        let who = if database.owns_publication() {
            "coherd setup takes them out"
        } else {
            "Remove them if it has no other subscribers"
        };
        let message = format!(
            "it sends tables that no rule names: {names}. A published table that loses its primary key refuses UPDATEs \
             (55000). {who}"
        );
        findings.push(Finding::warning(Code::TABLE_SURPLUS, subject, message).remedy(statement));
    }
    findings
}

/// The statement that removes tables without rules from the publication.
pub fn leave(database: &Database, beside: &Beside) -> Option<String> {
    let relation = |(table, partitioned): &(TableName, bool)| match partitioned {
        true => table.sql(),
        false => format!("ONLY {table}"),
    };
    let relations: Vec<String> = beside.unruled.iter().map(relation).collect();
    let publication = quote_identifier(&database.publication_name);
    (!relations.is_empty()).then(|| format!("ALTER PUBLICATION {publication} DROP TABLE {};", relations.join(", ")))
}

/// The first names, and the number of the others.
pub fn named<'a>(tables: impl Iterator<Item = &'a TableName>, count: u64) -> String {
    let names: Vec<String> = tables.take(NAMED_MAX).map(TableName::sql).collect();
    let more = count.saturating_sub(names.len() as u64);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    names.join(", ") + &more
}

fn remedy(publication: &str, it: &Unwritable) -> Vec<String> {
    let table = &it.table;
    if it.is_virtual {
        let why = "a virtual generated column allows no FULL: give it a primary key, or take it out of the publication";
        return vec![format!("-- {table}: {why}")];
    }
    let mut statements = Vec::new();
    if it.listed {
        statements.push("BEGIN;".to_owned());
        statements.push(format!("ALTER PUBLICATION {publication} DROP TABLE ONLY {table};"));
        statements.push(format!("ALTER PUBLICATION {publication} ADD TABLE ONLY {table};"));
        statements.push("COMMIT;".to_owned());
    }
    if it.generated {
        statements.push(format!("ALTER PUBLICATION {publication} SET (publish_generated_columns = stored);"));
    }
    if it.bare {
        statements.push(format!("ALTER TABLE {table} REPLICA IDENTITY FULL;"));
    }
    statements
}
