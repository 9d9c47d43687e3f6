//! What a publication must hold of a table, and the SQL that brings table and publication there without a moment in
//! which a write of the application fails.

use super::config::{MissingOld, Rule};
use crate::database::Database;
use crate::table::{Generated, Published, PublishedBy, Table, TableColumn, TableKind, TableName, quote_identifier};

/// One table and what its rules ask of it.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// What the catalogue says.
    pub database: &'a Database,
    /// The table.
    pub table: &'a Table,
    /// Its rules, at least one.
    pub rules: &'a [&'a Rule],
}

/// What the replica identity should become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// It is good.
    Keep,
    /// `REPLICA IDENTITY FULL`, here and at every leaf.
    Full,
    /// `REPLICA IDENTITY USING INDEX` with these columns.
    Index(Vec<String>),
}

impl<'a> Demand<'a> {
    /// The rules' columns, those that are there and can be published, in table order.
    pub fn columns(&self) -> impl Iterator<Item = &'a TableColumn> {
        let Demand { database, table, rules } = *self;
        let named = move |name: &str| rules.iter().any(|rule| rule.columns().contains(&name));
        table.columns.iter().filter(move |column| named(&column.name) && publishable(database, column))
    }

    /// Placeholders' columns that old rows do not carry, where the rule does not live with that.
    pub fn missing_old(&self) -> Vec<&'a TableColumn> {
        let strict = |rule: &&&Rule| rule.on_missing_old == MissingOld::Refuse;
        let needed = |name: &str| {
            self.rules.iter().filter(strict).any(|rule| rule.keys.iter().any(|key| key.columns().any(|c| c == name)))
        };
        self.columns().filter(|column| !column.in_identity && needed(&column.name)).collect()
    }

    /// Columns of `when_changed` whose old value is not in the log.
    pub fn missing_comparison(&self) -> Vec<&'a TableColumn> {
        let compared = |name: &str| self.rules.iter().any(|rule| rule.when_changed.iter().any(|c| c == name));
        self.columns().filter(|column| !column.in_identity && compared(&column.name)).collect()
    }

    /// What the replica identity should become.
    pub fn identity(&self) -> Identity {
        let (table, missing) = (self.table, self.missing_old());
        if !table.has_identity() || !self.missing_comparison().is_empty() {
            return Identity::Full;
        }
        if missing.is_empty() {
            return Identity::Keep;
        }
        // A unique key with more columns is still unique. An index of a partition tree cannot be made concurrently.
        let indexable = table.kind == TableKind::Ordinary
            && missing.iter().all(|column| column.not_null && column.sortable && column.generated == Generated::No);
        if !indexable {
            return Identity::Full;
        }
        let missing = missing.into_iter().map(|column| column.name.clone());
        Identity::Index(table.identity_columns.iter().cloned().chain(missing).collect())
    }

    /// The column list that the publication should have, with `identity` in it; `None` for all columns.
    pub fn column_list(&self, identity: &Identity) -> Option<Vec<String>> {
        let holds_schemas = self.database.publication.as_ref().is_some_and(|held| held.holds_schemas);
        let listless = match identity {
            Identity::Full => true,
            Identity::Keep | Identity::Index(_) => self.table.forbids_column_list(),
        };
        if listless || holds_schemas || !self.database.has_column_lists() {
            return None;
        }
        let ruled: Vec<&str> = self.columns().map(|column| column.name.as_str()).collect();
        let held = self.table.published.as_ref().and_then(|published| published.columns.as_deref()).unwrap_or_default();
        // Also what the list has and no rule asks for: somebody may have put it there for a rule to come.
        let keep = |column: &&TableColumn| {
            let name = column.name.as_str();
            ruled.contains(&name) || self.table.list_needs(name) || held.iter().any(|held| held == name)
        };
        Some(self.table.columns.iter().filter(keep).map(|column| column.name.clone()).collect())
    }

    /// Every statement that is needed, in an order in which no write of the application fails on the way: a list is
    /// widened, or taken away, before the identity outgrows it, and a table without identity is added last.
    pub fn mend(&self, identity: &Identity) -> Vec<String> {
        let mut statements = Vec::new();
        let list = self.column_list(identity);
        match &self.table.published {
            Some(published) if published.by == PublishedBy::Table => {
                if self.entry_is_wrong(published, list.as_deref()) {
                    statements.extend(self.replace(list.as_deref()));
                }
                statements.extend(self.change_identity(identity));
            }
            Some(_) => statements.extend(self.change_identity(identity)),
            None => {
                statements.extend(self.change_identity(identity));
                if self.database.publication.is_some() {
                    statements.push(self.add(list.as_deref()));
                }
            }
        }
        statements
    }

    /// Whether an entry of the publication has a row filter or the wrong columns.
    pub fn entry_is_wrong(&self, published: &Published, list: Option<&[String]>) -> bool {
        let narrow = match (&published.columns, list) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(held), Some(wanted)) => !wanted.iter().all(|column| held.contains(column)),
        };
        narrow || published.row_filter
    }

    /// Adds the table to the publication.
    pub fn add(&self, list: Option<&[String]>) -> String {
        let list = list.map(|list| format!(" ({})", columns_sql(list))).unwrap_or_default();
        format!("ALTER PUBLICATION {} ADD TABLE {}{list};", self.publication(), self.relation())
    }

    /// Puts a new entry in the place of the old one. Other sessions see either, never none.
    pub fn replace(&self, list: Option<&[String]>) -> [String; 4] {
        let drop = format!("ALTER PUBLICATION {} DROP TABLE {};", self.publication(), self.relation());
        ["BEGIN;".to_owned(), drop, self.add(list), "COMMIT;".to_owned()]
    }

    fn change_identity(&self, identity: &Identity) -> Vec<String> {
        let full = |name: &TableName| format!("ALTER TABLE {name} REPLICA IDENTITY FULL;");
        let table = &self.table.name;
        match identity {
            Identity::Keep => Vec::new(),
            // The root last: its identity says how the stream marks a leaf's old rows, and "full" too early would pass
            // the holes in them off as NULLs.
            Identity::Full => self.table.leaves.iter().map(|leaf| &leaf.name).chain([table]).map(full).collect(),
            Identity::Index(columns) => {
                let index = index_name(&table.name);
                let quoted = quote_identifier(&index);
                vec![
                    format!("CREATE UNIQUE INDEX CONCURRENTLY {quoted} ON {table} ({});", columns_sql(columns)),
                    format!("ALTER TABLE {table} REPLICA IDENTITY USING INDEX {quoted};"),
                ]
            }
        }
    }

    fn publication(&self) -> String {
        quote_identifier(&self.database.publication_name)
    }

    /// Tables that inherit from this one stay out: nobody has looked at their identity.
    fn relation(&self) -> String {
        match self.table.kind {
            TableKind::Partitioned => self.table.name.sql(),
            TableKind::Ordinary | TableKind::Unpublishable => format!("ONLY {}", self.table.name),
        }
    }
}

/// Whether the column's values can be in the stream.
pub fn publishable(database: &Database, column: &TableColumn) -> bool {
    match column.generated {
        Generated::No => true,
        Generated::Stored => database.server.version >= 180_000,
        Generated::Virtual => false,
    }
}

/// `a, "B", c`
pub fn columns_sql(columns: &[String]) -> String {
    columns.iter().map(|column| quote_identifier(column)).collect::<Vec<_>>().join(", ")
}

/// A name that Postgres will not cut: at most 63 bytes.
fn index_name(table: &str) -> String {
    const SUFFIX: &str = "_coherd_identity";
    let mut end = table.len().min(63 - SUFFIX.len());
    while !table.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{SUFFIX}", table.get(..end).unwrap_or_default())
}
