//! Which replica identity a table needs for its rules, and the SQL that makes it so.

use super::publish::{Demand, columns_sql};
use crate::types::database::{IDENTITY_SUFFIX, Proposal, Publish};
use crate::types::table::{Generated, IdentityIndex, TableColumn, TableKind, TableName, quote_identifier};

/// What the replica identity should become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// It is sufficient as it is.
    Keep,
    /// `REPLICA IDENTITY FULL`, on the table and on every leaf.
    Full,
    /// `REPLICA IDENTITY USING INDEX`, with the index of a UNIQUE constraint on these columns.
    Constraint(Vec<String>),
    /// No replica identity that Postgres has is sufficient.
    OutOfReach,
}

impl Demand<'_> {
    /// What the replica identity should become. FULL is the only one that nothing removes: DROP COLUMN silently drops a
    /// constraint. But FULL writes whole old rows into the log, and Postgres allows no column list with it.
    pub fn identity(&self) -> Identity {
        let (table, choices, missing) = (self.table, self.database.choices, self.missing_old());
        let compares = !self.missing_comparison().is_empty() || !self.missing_condition().is_empty();
        let wants_all = !table.has_identity() || compares;
        if missing.is_empty() && !wants_all {
            return Identity::Keep;
        }
        // A unique key with more columns is still unique. An index on a partitioned table cannot be created
        // concurrently.
        let indexable = !wants_all
            && table.kind == TableKind::Ordinary
            && missing.iter().all(|column| column.not_null && column.sortable && column.generated == Generated::No);
        let narrow = table.wide && !missing.iter().any(|column| is_unbounded(column));
        let constraint = match choices.identity {
            Proposal::Constraint => indexable,
            Proposal::Full => indexable && !self.can_be_full(),
            Proposal::Fitting => indexable && (narrow || choices.publish == Publish::Keys || !self.can_be_full()),
        };
        if constraint {
            let missing = missing.into_iter().map(|column| column.name.clone());
            return Identity::Constraint(table.identity_columns.iter().cloned().chain(missing).collect());
        }
        if self.can_be_full() { Identity::Full } else { Identity::OutOfReach }
    }

    /// Whether FULL is possible. With a virtual generated column (18+), FULL makes the *application's* UPDATEs of a
    /// published table fail with 42P10.
    pub fn can_be_full(&self) -> bool {
        self.table.columns.iter().all(|column| column.generated != Generated::Virtual)
    }

    /// Whether FULL requires that the publication sends generated columns. From 18 on, UPDATEs fail in the same way if
    /// there is a stored generated column and the publication leaves it out.
    pub fn full_needs_generated(&self) -> bool {
        self.leaves_generated_out() && self.table.columns.iter().any(|column| column.generated == Generated::Stored)
    }

    /// The statements that make the replica identity what it should be.
    pub(super) fn change_identity(&self, identity: &Identity) -> Vec<String> {
        let full = |name: &TableName| format!("ALTER TABLE {name} REPLICA IDENTITY FULL;");
        let table = &self.table.name;
        let mut statements = match identity {
            Identity::Keep | Identity::OutOfReach => Vec::new(),
            // The root comes last. Its identity tells how the stream marks a leaf's old rows; if it became FULL too
            // early, missing values in them would look like NULLs.
            Identity::Full => self.table.leaves.iter().map(|leaf| &leaf.name).chain([table]).map(full).collect(),
            Identity::Constraint(columns) => self.constrain(columns),
        };
        if matches!(identity, Identity::Full | Identity::Constraint(_)) {
            statements.extend(self.drop_former_index());
        }
        statements
    }

    /// Uses a constraint, because Postgres refuses DROP INDEX on its index. A bare index looks unused, and without it
    /// UPDATEs fail (55000).
    fn constrain(&self, columns: &[String]) -> Vec<String> {
        let (table, name) = (&self.table.name, quote_identifier(&self.free_name()));
        vec![
            format!("CREATE UNIQUE INDEX CONCURRENTLY {name} ON {table} ({});", columns_sql(columns)),
            format!("ALTER TABLE {table} ADD CONSTRAINT {name} UNIQUE USING INDEX {name};"),
            format!("ALTER TABLE {table} REPLICA IDENTITY USING INDEX {name};"),
        ]
    }

    /// Drops the index that an earlier proposal made, once another identity replaces it. Never drops any other index.
    fn drop_former_index(&self) -> Option<String> {
        let IdentityIndex { name, is_constraint } = self.table.identity_index.as_ref()?;
        let ours = name.strip_prefix(&index_name(&self.table.name.name, ""))?;
        let is_ours = ours.is_empty() || ours.strip_prefix('_').is_some_and(|number| number.parse::<u32>().is_ok());
        let name_sql = quote_identifier(name);
        let index = TableName { schema: self.table.name.schema.clone(), name: name.clone() };
        is_ours.then(|| match is_constraint {
            true => format!("ALTER TABLE {} DROP CONSTRAINT {name_sql};", self.table.name),
            false => format!("DROP INDEX CONCURRENTLY {index};"),
        })
    }

    /// A name for the index that no other relation of the schema has.
    fn free_name(&self) -> String {
        let TableName { schema, name: table } = &self.table.name;
        let taken = |name: &String| self.database.taken.iter().any(|it| it.schema == *schema && it.name == *name);
        let mut name = index_name(table, "");
        for number in 2_u32.. {
            if !taken(&name) {
                break;
            }
            name = index_name(table, &format!("_{number}"));
        }
        name
    }
}

/// A name that Postgres does not truncate: at most 63 bytes.
fn index_name(table: &str, number: &str) -> String {
    let mut end = table.len().min(63 - IDENTITY_SUFFIX.len() - number.len());
    while !table.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{IDENTITY_SUFFIX}{number}", table.get(..end).unwrap_or_default())
}

/// Whether its values may be longer than the 2.6 kB that an index accepts.
pub fn is_unbounded(column: &TableColumn) -> bool {
    matches!(column.type_name.as_str(), "text" | "character varying" | "bytea")
}
