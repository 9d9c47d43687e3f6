//! One table, its rules, and everything between them.

use crate::change::ReplicaIdentity;
use crate::finding::Finding;
use crate::rules::config::{MissingOld, Rule};
use crate::rules::nearest;
use crate::rules::publish::{Demand, Identity, columns_sql, publishable};
use crate::table::{Generated, Persistence, Published, Table, TableColumn, TableKind, quote_identifier};

/// Everything that is wrong with one table. All its findings are mended together, so one of them carries the statements
/// and the others point to it.
pub(super) fn audit(demand: Demand) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(message) = unseen(demand.table) {
        findings.extend(demand.rules.iter().map(|rule| Finding::hiding(rule.subject(), message.clone())));
        return findings;
    }
    findings.extend(demand.rules.iter().flat_map(|rule| columns(&demand, rule)));
    let mut mendable: Vec<Finding> = writers(&demand).into_iter().collect();
    if demand.table.has_identity() {
        mendable.extend(old_rows(&demand));
    }
    mendable.extend(published(&demand));
    mendable.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    if let Some((first, others)) = mendable.split_first_mut() {
        first.remedy = demand.mend(&demand.identity());
        for other in others {
            other.remedy.push(format!("-- the statements for {}", first.subject));
        }
    }
    findings.extend(mendable);
    findings.extend(leaves(&demand));
    findings
}

/// Why no change of the table is ever in the stream.
fn unseen(table: &Table) -> Option<String> {
    if let Some(root) = &table.partition_root {
        return Some(format!(
            "it is a partition, and changes come under the name of its root; write the rule for {root}"
        ));
    }
    match (table.kind, table.persistence) {
        (TableKind::Unpublishable, _) => Some(
            "it is no table (a view, a foreign table or the like) and has no changes of its own; write the rule for the \
             tables it reads"
                .to_owned(),
        ),
        (_, Persistence::Unlogged) => Some(format!(
            "it is unlogged, so its changes are not in the log; ALTER TABLE {} SET LOGGED puts them there",
            table.name
        )),
        (_, Persistence::Temporary) => Some("it is temporary: its changes are not in the log".to_owned()),
        (_, Persistence::Permanent) => None,
    }
}

/// Columns that the rule names and that are not there, or never sent.
fn columns(demand: &Demand, rule: &Rule) -> Vec<Finding> {
    let check = |name: &str| match demand.table.column(name) {
        None => Some(missing_column(demand.table, name)),
        Some(column) if !publishable(demand.database, column) => Some(unpublishable(column)),
        Some(_) => None,
    };
    rule.columns().into_iter().filter_map(check).map(|message| Finding::error(rule.subject(), message)).collect()
}

fn missing_column(table: &Table, name: &str) -> String {
    let quoted = quote_identifier(name);
    let same_but_case = table.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name));
    if let Some(column) = same_but_case {
        let right = quote_identifier(&column.name);
        return format!(
            "there is no column {quoted}; there is {right}, which is written in double quotes: {{{right}}}"
        );
    }
    let known = table.columns.iter().map(|column| column.name.as_str());
    let hint = nearest(name, known).map(|near| format!("; did you mean {}?", quote_identifier(near)));
    format!("there is no column {quoted}{}", hint.unwrap_or_default())
}

fn unpublishable(column: &TableColumn) -> String {
    let name = quote_identifier(&column.name);
    match column.generated {
        Generated::Virtual => format!("column {name} is computed when it is read, so its values are never in the log"),
        Generated::Stored | Generated::No => format!(
            "column {name} is generated, and Postgres sends such columns from version 18 on; build the key from the \
             columns that it is computed from"
        ),
    }
}

/// Old rows that do not carry what the rules read.
fn old_rows(demand: &Demand) -> Vec<Finding> {
    let mut findings = Vec::new();
    for &rule in demand.rules {
        let one = Demand { rules: &[rule], ..*demand };
        let missing = one.missing_old();
        if !missing.is_empty() && rule.on_missing_old == MissingOld::Refuse {
            let message = format!(
                "old rows do not carry {}: where such a value changes or its row is deleted, the old key would stay. \
                 {}Or say in the rule on_missing_old: flush (flush its scope each time) or skip (keep the old key)",
                list(&missing),
                how(&demand.identity(), &missing)
            );
            findings.push(Finding::error(rule.subject(), message));
        }
        let compared = one.missing_comparison();
        if !compared.is_empty() {
            let message = format!(
                "old rows do not carry {}, which when_changed compares, so every UPDATE counts as a change. The statements \
                 set REPLICA IDENTITY FULL, which writes the whole old row to the log",
                list(&compared)
            );
            findings.push(Finding::warning(rule.subject(), message));
        }
    }
    findings
}

fn how(identity: &Identity, missing: &[&TableColumn]) -> String {
    let unbounded = |column: &&TableColumn| matches!(column.type_name.as_str(), "text" | "character varying" | "bytea");
    match identity {
        Identity::Keep => String::new(),
        Identity::Full => {
            "The statements set REPLICA IDENTITY FULL, which writes the whole old row to the log. ".to_owned()
        }
        Identity::Index(_) if missing.iter().any(unbounded) => {
            "The statements put it into the replica identity with an \
            index, which refuses values beyond 2.6 kB: where those occur, take REPLICA IDENTITY FULL. "
                .to_owned()
        }
        Identity::Index(_) => "The statements put it into the replica identity with an index. ".to_owned(),
    }
}

/// What fails, or would fail, for the application.
fn writers(demand: &Demand) -> Option<Finding> {
    let table = demand.table;
    let subject = subject(demand);
    if !table.has_identity() {
        let at = leaf_without_identity(table).map(|name| format!(" (at {name})")).unwrap_or_default();
        let message = match table.published {
            Some(_) => format!(
                "it is published but has no replica identity{at}, so the application's UPDATEs and DELETEs fail with 55000"
            ),
            None => format!(
                "it has no replica identity{at}; if it were published, the application's UPDATEs and DELETEs would fail \
                 with 55000"
            ),
        };
        return Some(Finding::error(subject, message));
    }
    let held = table.published.as_ref()?.columns.as_ref()?;
    let left_out = |column: &&TableColumn| table.list_needs(&column.name) && !held.contains(&column.name);
    let left_out: Vec<_> = table.columns.iter().filter(left_out).collect();
    let reason = if table.forbids_column_list() {
        "its replica identity is FULL, which allows no column list".to_owned()
    } else if left_out.is_empty() {
        return None;
    } else {
        format!("its column list leaves out {}, part of the replica identity", list(&left_out))
    };
    let message = format!("{reason}, so the application's UPDATEs and DELETEs fail with 42P10");
    Some(Finding::error(subject, message))
}

fn leaf_without_identity(table: &Table) -> Option<String> {
    let bare = |identity, columns: &[String]| identity != ReplicaIdentity::Full && columns.is_empty();
    let leaf = table.leaves.iter().find(|leaf| bare(leaf.identity, &leaf.identity_columns));
    leaf.map(|leaf| leaf.name.sql())
}

/// What the publication does not send.
fn published(demand: &Demand) -> Vec<Finding> {
    // Where there is no publication at all, that is said once.
    if demand.database.publication.is_none() {
        return Vec::new();
    }
    let name = quote_identifier(&demand.database.publication_name);
    let Some(held) = &demand.table.published else {
        let setup = if demand.table.has_identity() { "; coherd setup adds it" } else { "" };
        let message = format!("it is not in publication {name}, so its changes are not sent{setup}");
        return vec![Finding::hiding(subject(demand), message)];
    };
    let mut findings = Vec::new();
    let unlisted = unlisted(demand, held);
    if !unlisted.is_empty() {
        let setup = if held.row_filter.is_none() { "; coherd setup adds it" } else { "" };
        let message = format!("publication {name} leaves out {}{setup}", columns_sql(&unlisted));
        findings.push(Finding::error(subject(demand), message));
    }
    if held.row_filter.is_some() {
        let message = format!("publication {name} filters its rows: changes outside the filter are never seen");
        findings.push(Finding::hiding(subject(demand), message));
    }
    findings
}

fn unlisted(demand: &Demand, held: &Published) -> Vec<String> {
    let Some(listed) = &held.columns else { return Vec::new() };
    demand.columns().map(|column| column.name.clone()).filter(|name| !listed.contains(name)).collect()
}

/// What is particular to partition trees.
fn leaves(demand: &Demand) -> Vec<Finding> {
    let table = demand.table;
    let mut findings = Vec::new();
    if let Some(leaf) = table.leaves.iter().find(|leaf| !leaf.logged) {
        let message = format!("partition {} is foreign or unlogged: what is written to it is never seen", leaf.name);
        findings.push(Finding::hiding(subject(demand), message));
    }
    if table.identity == ReplicaIdentity::Full && !table.is_full() {
        let weak = table.leaves.iter().filter(|leaf| leaf.identity != ReplicaIdentity::Full);
        let mut finding = Finding::error(
            subject(demand),
            "its replica identity is FULL but that of a partition is not: old rows come with holes that look like NULLs",
        );
        finding.remedy.extend(weak.map(|leaf| format!("ALTER TABLE {} REPLICA IDENTITY FULL;", leaf.name)));
        findings.push(finding);
    } else if table.is_full() && table.kind == TableKind::Partitioned {
        let message = "a new partition does not inherit REPLICA IDENTITY FULL: set it before rows are written there";
        findings.push(Finding::warning(subject(demand), message));
    }
    findings
}

/// The first rule speaks for the table.
fn subject(demand: &Demand) -> String {
    demand.rules.first().map_or_else(|| demand.table.name.sql(), |rule| rule.subject())
}

fn list(columns: &[&TableColumn]) -> String {
    columns.iter().map(|column| quote_identifier(&column.name)).collect::<Vec<_>>().join(", ")
}
