//! Audits one table against its rules: its columns, replica identity, publication entry and partitions.

use crate::rules::config::{MissingOld, Rule};
use crate::rules::identity::{Identity, is_unbounded};
use crate::rules::nearest;
use crate::rules::publish::{Demand, columns_sql, publishable};
use crate::types::change::ReplicaIdentity;
use crate::types::database::Publish;
use crate::types::finding::{Code, Finding};
use crate::types::table::{
    Generated, Persistence, Published, PublishedBy, Table, TableColumn, TableKind, quote_identifier,
};

/// Every finding about one table. One list of statements fixes most of them together, so the most severe finding
/// carries the statements and the others refer to it.
pub(super) fn audit(demand: Demand) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(unseen) = unseen(demand.table) {
        findings.extend(demand.rules.iter().map(|rule| Finding { subject: demand.subject_of(rule), ..unseen.clone() }));
        return findings;
    }
    findings.extend(demand.rules.iter().flat_map(|rule| columns(&demand, rule)));
    findings.extend(demand.rules.iter().filter_map(|rule| hypertable(&demand, rule)));
    let mut mendable: Vec<Finding> = writers(&demand).into_iter().collect();
    if demand.table.has_identity() {
        mendable.extend(old_rows(&demand));
    }
    mendable.extend(published(&demand));
    mendable.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    if let Some((first, others)) = mendable.split_first_mut() {
        first.remedy = demand.remedy(&demand.identity());
        for other in others {
            other.remedy.push(format!("-- the statements for {}", first.subject));
        }
    }
    let is_good = mendable.is_empty();
    findings.extend(mendable);
    findings.extend(bare_index(&demand));
    findings.extend(surplus(&demand, is_good));
    findings.extend(toast(&demand, is_good));
    findings.extend(leaves(&demand));
    findings
}

/// Why no change of the table is ever in the stream. The caller fills in the subject.
fn unseen(table: &Table) -> Option<Finding> {
    let hiding = |code, message: String| Some(Finding::hiding(code, "", message));
    if let Some(root) = &table.partition_root {
        let message =
            format!("it is a partition, and changes come under the name of its root; write the rule for {root}");
        return hiding(Code::TABLE_PARTITION, message);
    }
    match (table.kind, table.persistence) {
        (TableKind::Unpublishable, _) => {
            let message = "it is no table (a view, a foreign table or the like) and has no changes of its own; write the \
                           rule for the tables it reads";
            hiding(Code::TABLE_KIND, message.to_owned())
        }
        (_, Persistence::Unlogged) => {
            let message = "it is unlogged, so its changes are not in the log. The statement writes the whole table into \
                           the log, and locks it meanwhile";
            let remedy = format!("ALTER TABLE {} SET LOGGED;", table.name);
            hiding(Code::TABLE_UNLOGGED, message.to_owned()).map(|finding| finding.remedy(remedy))
        }
        (_, Persistence::Temporary) => hiding(
            Code::TABLE_TEMPORARY,
            "it is temporary: its changes are not in the log, and it ends with its session".to_owned(),
        ),
        (_, Persistence::Permanent) => None,
    }
}

/// Whether the table is a hypertable, whose rows are in other tables that coherd does not follow.
fn hypertable(demand: &Demand, rule: &Rule) -> Option<Finding> {
    let message = "it is a TimescaleDB hypertable: its rows are in chunks, and Postgres sends their changes under the \
                   chunks' names. coherd does not follow those";
    demand
        .table
        .is_hypertable
        .then(|| Finding::hiding(Code::TABLE_HYPERTABLE, demand.subject_of(rule), message.to_owned()))
}

/// Columns that the rule names and that do not exist or are never sent.
fn columns(demand: &Demand, rule: &Rule) -> Vec<Finding> {
    let error = |code, message: String| Some(Finding::error(code, demand.subject_of(rule), message));
    let check = |name: &str| match demand.table.column(name) {
        None => error(Code::COLUMN_MISSING, missing_column(demand.table, name)),
        Some(column) if !publishable(demand.database, column) => error(Code::COLUMN_GENERATED, unpublishable(column)),
        Some(_) => None,
    };
    rule.columns().into_iter().filter_map(check).collect()
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

/// Rules that read columns which old rows do not carry.
fn old_rows(demand: &Demand) -> Vec<Finding> {
    let mut findings = Vec::new();
    for &rule in demand.rules {
        let one = Demand { rules: &[rule], ..*demand };
        let missing = one.missing_old();
        if !missing.is_empty() && rule.on_missing_old == MissingOld::Refuse {
            let message = format!(
                "Postgres does not log the old {}, so coherd could not remove the old key when it changes or the row is \
                 deleted. {}Or set on_missing_old in the rule: flush (flush its scope each time) or skip (keep the old key)",
                list(&missing),
                how(demand, &missing)
            );
            findings.push(Finding::error(Code::IDENTITY_OLD_ROWS, demand.subject_of(rule), message));
        }
        let compared = one.missing_comparison();
        if !compared.is_empty() {
            let message = format!(
                "Postgres does not log the old {}, which when_changed compares, so every UPDATE counts as a change. {}",
                list(&compared),
                how(demand, &compared).trim_end()
            );
            findings.push(Finding::warning(Code::IDENTITY_COMPARISON, demand.subject_of(rule), message));
        }
        let read = one.missing_condition();
        if !read.is_empty() {
            let message = format!(
                "Postgres does not log the old {}, which where reads, so every UPDATE and DELETE counts as a match. {}",
                list(&read),
                how(demand, &read).trim_end()
            );
            findings.push(Finding::warning(Code::IDENTITY_CONDITION, demand.subject_of(rule), message));
        }
    }
    findings
}

/// What the statements do, and what that costs.
fn how(demand: &Demand, missing: &[&TableColumn]) -> &'static str {
    match demand.identity() {
        Identity::Keep => "",
        Identity::Full if demand.database.choices.publish == Publish::Keys => {
            "The statements set REPLICA IDENTITY FULL: the log gets the whole old row with every UPDATE and DELETE, and \
             the publication whole rows of this table. "
        }
        Identity::Full => {
            "The statements set REPLICA IDENTITY FULL: the log gets the whole old row with every UPDATE and DELETE. "
        }
        Identity::Constraint(_) if missing.iter().any(|column| is_unbounded(column)) => {
            "The statements make a UNIQUE constraint the replica identity. It refuses values beyond 2.6 kB. DROP \
             COLUMN on one of its columns drops it silently, and UPDATEs then fail (55000). "
        }
        Identity::Constraint(_) => {
            "The statements make a UNIQUE constraint the replica identity. DROP COLUMN on one of its columns drops it \
             silently, and UPDATEs then fail (55000). "
        }
        Identity::OutOfReach => {
            "No replica identity can hold it: a virtual generated column forbids FULL, and an index takes NOT NULL columns \
             that can be sorted. "
        }
    }
}

/// The application's statements that fail, or would fail if the table were published.
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
        return Some(Finding::error(Code::IDENTITY_MISSING, subject, message));
    }
    if table.published.is_some() && table.forbids_column_list() {
        let generated = |kind| table.columns.iter().filter(move |column| column.generated == kind).collect::<Vec<_>>();
        let (stored, virtuals) = (generated(Generated::Stored), generated(Generated::Virtual));
        let fail = "so the application's UPDATEs and DELETEs fail with 42P10";
        if !virtuals.is_empty() {
            let message = format!(
                "its replica identity is FULL, which Postgres does not allow beside the virtual column {}, {fail}; give it a \
                 primary key and REPLICA IDENTITY DEFAULT, or take it out of the publication",
                list(&virtuals)
            );
            return Some(Finding::error(Code::IDENTITY_VIRTUAL, subject, message));
        }
        if demand.full_needs_generated() {
            let message = format!(
                "its replica identity is FULL and the publication leaves out the generated column {}, {fail}",
                list(&stored)
            );
            return Some(Finding::error(Code::IDENTITY_GENERATED, subject, message));
        }
    }
    let held = table.published.as_ref()?.columns.as_ref()?;
    let left_out = |column: &&TableColumn| table.list_needs(&column.name) && !held.contains(&column.name);
    let left_out: Vec<_> = table.columns.iter().filter(left_out).collect();
    let (code, reason) = if table.forbids_column_list() {
        (Code::LIST_FULL, "its replica identity is FULL, which allows no column list".to_owned())
    } else if left_out.is_empty() {
        return None;
    } else {
        (Code::LIST_IDENTITY, format!("its column list leaves out {}, part of the replica identity", list(&left_out)))
    };
    let message = format!("{reason}, so the application's UPDATEs and DELETEs fail with 42P10");
    Some(Finding::error(code, subject, message))
}

fn leaf_without_identity(table: &Table) -> Option<String> {
    let bare = |identity, columns: &[String]| identity != ReplicaIdentity::Full && columns.is_empty();
    let leaf = table.leaves.iter().find(|leaf| bare(leaf.identity, &leaf.identity_columns));
    leaf.map(|leaf| leaf.name.sql())
}

/// What the publication does not send.
fn published(demand: &Demand) -> Vec<Finding> {
    // A missing publication is a finding of its own.
    if demand.database.publication.is_none() {
        return Vec::new();
    }
    let name = quote_identifier(&demand.database.publication_name);
    let Some(held) = &demand.table.published else {
        let message = if demand.is_excepted() {
            format!("publication {name} is for all tables except this one, so its changes are not sent")
        } else {
            let setup = if demand.table.has_identity() { "; coherd setup adds it" } else { "" };
            format!("it is not in publication {name}, so its changes are not sent{setup}")
        };
        return vec![Finding::hiding(Code::TABLE_UNPUBLISHED, subject(demand), message)];
    };
    let mut findings = Vec::new();
    let unlisted = unlisted(demand, held);
    if !unlisted.is_empty() {
        let setup = if held.row_filter { "" } else { "; coherd setup adds it" };
        let message = format!("publication {name} leaves out {}{setup}", columns_sql(&unlisted));
        findings.push(Finding::error(Code::COLUMN_UNPUBLISHED, subject(demand), message));
    }
    let is_list = held.columns.is_some() && !demand.table.forbids_column_list();
    if is_list && demand.database.choices.publish == Publish::Rows {
        let message = "source.publish is rows, but the table's publication entry has a column list. With it, UPDATEs \
                       fail once REPLICA IDENTITY FULL is set (42P10), and ALTER TYPE and DROP COLUMN fail (0A000, \
                       2BP01). When the entry changes, a running coherd flushes the table's rules once";
        findings.push(Finding::warning(Code::COLUMN_LIST, subject(demand), message));
    }
    if held.row_filter {
        let message = format!("publication {name} filters its rows: changes outside the filter are never seen");
        findings.push(Finding::hiding(Code::ROW_FILTER, subject(demand), message));
    }
    findings
}

fn unlisted(demand: &Demand, held: &Published) -> Vec<String> {
    let Some(listed) = &held.columns else { return Vec::new() };
    demand.columns().map(|column| column.name.clone()).filter(|name| !listed.contains(name)).collect()
}

/// A replica identity on a bare index: DROP INDEX would remove both.
fn bare_index(demand: &Demand) -> Option<Finding> {
    let index = demand.table.identity_index.as_ref().filter(|index| !index.is_constraint)?;
    let (table, name) = (&demand.table.name, quote_identifier(&index.name));
    let message = format!(
        "its replica identity is the bare index {name}: it looks unused, and DROP INDEX of it would make the application's \
         UPDATEs and DELETEs fail with 55000. A constraint on it forbids that"
    );
    let remedy = format!("ALTER TABLE {table} ADD CONSTRAINT {name} UNIQUE USING INDEX {name};");
    Some(Finding::warning(Code::IDENTITY_INDEX, subject(demand), message).remedy(remedy))
}

/// Columns that are published needlessly although `source.publish` is `keys`.
fn surplus(demand: &Demand, is_good: bool) -> Option<Finding> {
    let held = demand.table.published.as_ref().filter(|held| held.by == PublishedBy::Table)?;
    if demand.database.choices.publish == Publish::Rows {
        return None;
    }
    let wanted = demand.key_columns(&Identity::Keep)?;
    let all = || demand.table.columns.iter().map(|column| column.name.clone()).collect();
    let sent: Vec<String> = held.columns.clone().unwrap_or_else(all);
    let count = sent.iter().filter(|column| !wanted.contains(column)).count();
    let others = if demand.database.owns_publication() { "" } else { "; others who read the publication lose them" };
    let message = format!(
        "the publication sends {count} columns of it that neither rules nor the replica identity need, and source.publish \
         is keys. A running coherd flushes the table's rules once when the entry changes{others}"
    );
    let remedy = match (is_good, held.row_filter) {
        (true, false) => demand.replace(Some(&wanted)).to_vec(),
        _ => vec![LATER.to_owned()],
    };
    (count > 0).then(|| Finding::warning(Code::COLUMN_SURPLUS, subject(demand), message).remedies(remedy))
}

/// These statements depend on the other findings, so they can be given only once those are fixed.
const LATER: &str = "-- coherd check has the statements once the table's other findings are fixed";

/// Columns whose large values are missing from an UPDATE that leaves them unchanged. If the column is in the replica
/// identity, or the identity is FULL, the old row carries the value. With `refuse`, the rule is refused above; with
/// `flush`, it flushes at every UPDATE anyway. So only rules with `skip` need this warning.
fn toast(demand: &Demand, is_good: bool) -> Vec<Finding> {
    let large = |rule: &Rule, column: &TableColumn| {
        column.can_be_large
            && !column.in_identity
            && rule.keys.iter().any(|key| key.columns().any(|c| c == column.name))
    };
    let skipping = demand.rules.iter().filter(|rule| rule.on_missing_old == MissingOld::Skip);
    let finding = |rule: &&Rule| {
        let columns: Vec<&TableColumn> = demand.columns().filter(|column| large(rule, column)).collect();
        let message = format!(
            "large values of {} are stored out of line (TOAST), and Postgres does not log them when an UPDATE leaves \
             them unchanged. coherd then flushes the rule's scope, whatever on_missing_old says. REPLICA IDENTITY FULL \
             logs them",
            list(&columns)
        );
        let remedy = if is_good { demand.remedy(&Identity::Full) } else { vec![LATER.to_owned()] };
        (!columns.is_empty() && demand.can_be_full())
            .then(|| Finding::warning(Code::TOAST, demand.subject_of(rule), message).remedies(remedy))
    };
    skipping.filter_map(finding).collect()
}

/// Findings that only partition trees have.
fn leaves(demand: &Demand) -> Vec<Finding> {
    let table = demand.table;
    let mut findings = Vec::new();
    if table.kind == TableKind::Partitioned && table.leaves.is_empty() {
        let message = "it has no partition, so no row can be written and no key can ever be made";
        findings.push(Finding::warning(Code::TABLE_EMPTY_TREE, subject(demand), message));
    }
    if let Some(leaf) = table.leaves.iter().find(|leaf| !leaf.logged) {
        let message = format!("partition {} is foreign or unlogged: what is written to it is never seen", leaf.name);
        let finding = Finding::hiding(Code::LEAF_UNLOGGED, subject(demand), message);
        let unlogged = table.leaves.iter().filter(|leaf| !leaf.logged && !leaf.foreign);
        let remedy = unlogged.map(|leaf| format!("ALTER TABLE {} SET LOGGED;", leaf.name));
        findings.push(finding.remedies(remedy));
    }
    if table.identity == ReplicaIdentity::Full && !table.is_full() {
        let weak = table.leaves.iter().filter(|leaf| leaf.identity != ReplicaIdentity::Full);
        let mut finding = Finding::error(
            Code::LEAF_IDENTITY,
            subject(demand),
            "its replica identity is FULL but that of a partition is not: old rows come with holes that look like NULLs",
        );
        finding.remedy.extend(weak.map(|leaf| format!("ALTER TABLE {} REPLICA IDENTITY FULL;", leaf.name)));
        findings.push(finding);
    } else if table.is_full() && table.kind == TableKind::Partitioned {
        let message = "a new partition does not inherit REPLICA IDENTITY FULL: set it before rows are written there";
        findings.push(Finding::warning(Code::LEAF_FUTURE, subject(demand), message));
    }
    findings
}

/// The first rule's subject stands for the table.
fn subject(demand: &Demand) -> String {
    demand.rules.first().map_or_else(|| demand.table.name.sql(), |rule| demand.subject_of(rule))
}

fn list(columns: &[&TableColumn]) -> String {
    columns.iter().map(|column| quote_identifier(&column.name)).collect::<Vec<_>>().join(", ")
}
