//! What a publication must contain for a table, and the SQL that changes table and publication accordingly. At no
//! moment in between does a write of the application fail.

use super::config::{MissingOld, Rule};
use super::identity::Identity;
use crate::types::database::{Database, Publish};
use crate::types::table::{Generated, Published, PublishedBy, Table, TableColumn, TableKind, quote_identifier};

/// One table and what its rules need from it.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// The database as the catalogue describes it.
    pub database: &'a Database,
    /// The table.
    pub table: &'a Table,
    /// The rules that name it or a table that it inherits from; at least one.
    pub rules: &'a [&'a Rule],
}

impl<'a> Demand<'a> {
    /// The subject of a finding about this rule: `rules[2] public.users`, plus the table's name if it inherits the
    /// rule.
    pub fn subject_of(&self, rule: &Rule) -> String {
        let subject = rule.subject();
        if rule.table == self.table.name { subject } else { format!("{subject}, child {}", self.table.name) }
    }

    /// The columns that rules name, exist and can be published, in table order.
    pub fn columns(&self) -> impl Iterator<Item = &'a TableColumn> {
        let Demand { database, table, rules } = *self;
        let named = move |name: &str| rules.iter().any(|rule| rule.columns().contains(&name));
        table.columns.iter().filter(move |column| named(&column.name) && publishable(database, column))
    }

    /// Placeholders' columns that old rows do not carry, for rules with `on_missing_old: refuse`.
    pub fn missing_old(&self) -> Vec<&'a TableColumn> {
        let strict = |rule: &Rule| rule.on_missing_old == MissingOld::Refuse;
        self.missing(|rule, name| strict(rule) && rule.keys.iter().any(|key| key.columns().any(|c| c == name)))
    }

    /// Columns of `when_changed` whose old values are not in the log.
    pub fn missing_comparison(&self) -> Vec<&'a TableColumn> {
        self.missing(|rule, name| rule.when_changed.iter().any(|column| column == name))
    }

    /// Columns of `where` whose old values are not in the log.
    pub fn missing_condition(&self) -> Vec<&'a TableColumn> {
        self.missing(|rule, name| rule.predicate.as_ref().is_some_and(|its| its.columns().contains(&name)))
    }

    /// The columns that some rule reads in the way that `reads` says, and that old rows do not carry.
    fn missing(&self, reads: impl Fn(&Rule, &str) -> bool) -> Vec<&'a TableColumn> {
        let read = |column: &&TableColumn| self.rules.iter().any(|rule| reads(rule, &column.name));
        self.columns().filter(|column| !column.in_identity).filter(read).collect()
    }

    /// Whether the publication must start to send generated columns: a rule reads one and no list names it, or FULL
    /// includes one.
    fn needs_generated(&self, identity: &Identity, list: Option<&[String]>) -> bool {
        let full = *identity == Identity::Full || self.table.forbids_column_list();
        let ruled = self.columns().any(|column| column.generated == Generated::Stored);
        self.leaves_generated_out() && (full && self.full_needs_generated() || list.is_none() && ruled)
    }

    pub(super) fn leaves_generated_out(&self) -> bool {
        let held = self.database.publication.as_ref();
        self.database.server.version >= 180_000 && held.is_some_and(|held| !held.generated)
    }

    /// The columns that a column list must contain; `None` if the table can have no list.
    pub fn key_columns(&self, identity: &Identity) -> Option<Vec<String>> {
        let holds_schemas = self.database.publication.as_ref().is_some_and(|held| held.holds_schemas);
        let listless = match identity {
            Identity::Full => true,
            Identity::Keep | Identity::Constraint(_) | Identity::OutOfReach => self.table.forbids_column_list(),
        };
        if listless || holds_schemas || !self.database.has_column_lists() {
            return None;
        }
        let ruled: Vec<&str> = self.columns().map(|column| column.name.as_str()).collect();
        let keep = |column: &&TableColumn| ruled.contains(&&*column.name) || self.table.list_needs(&column.name);
        Some(self.table.columns.iter().filter(keep).map(|column| column.name.clone()).collect())
    }

    /// The column list that the publication should have under `identity`; `None` for whole rows. If the publication may
    /// have other subscribers, it keeps every column that it has.
    pub fn column_list(&self, identity: &Identity) -> Option<Vec<String>> {
        if self.database.choices.publish == Publish::Rows {
            return None;
        }
        let wanted = self.key_columns(identity)?;
        let held = self.table.published.as_ref().filter(|_| !self.database.owns_publication());
        let Some(held) = held else { return Some(wanted) };
        let held = held.columns.as_ref()?;
        let keep = |column: &&TableColumn| wanted.contains(&column.name) || held.contains(&column.name);
        Some(self.table.columns.iter().filter(keep).map(|column| column.name.clone()).collect())
    }

    /// Every statement that is needed, in an order in which no write of the application fails in between. A list is
    /// widened or removed before the identity outgrows it, and a table without identity is added last.
    pub fn remedy(&self, identity: &Identity) -> Vec<String> {
        let mut statements = Vec::new();
        let list = self.column_list(identity);
        if self.needs_generated(identity, list.as_deref()) {
            statements.push(self.send_generated());
        }
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

    /// Whether an entry of the publication has a row filter, or a column list other than `list`.
    pub fn entry_is_wrong(&self, published: &Published, list: Option<&[String]>) -> bool {
        let differs = match (&published.columns, list) {
            (None, None) => false,
            (None, Some(_)) | (Some(_), None) => true,
            (Some(held), Some(wanted)) => {
                held.len() != wanted.len() || !wanted.iter().all(|column| held.contains(column))
            }
        };
        differs || published.row_filter
    }

    /// Whether an entry of the publication leaves out a column that a rule or the replica identity needs, or has a list
    /// where none is allowed.
    pub fn entry_lacks(&self, published: &Published) -> bool {
        let Some(held) = &published.columns else { return false };
        match self.key_columns(&Identity::Keep) {
            None => true,
            Some(wanted) => !wanted.iter().all(|column| held.contains(column)),
        }
    }

    /// Whether `FOR ALL TABLES EXCEPT` leaves the table out.
    pub fn is_excepted(&self) -> bool {
        self.database.publication.as_ref().is_some_and(|held| held.excepted.contains(&self.table.name))
    }

    /// Removes the rules' tables from the exceptions, and keeps the others.
    fn include(&self) -> String {
        let excepted = self.database.publication.iter().flat_map(|held| &held.excepted);
        let others = excepted.filter(|name| self.database.table(name).is_none()).map(|name| format!("TABLE {name}"));
        let others: Vec<String> = others.collect();
        let but = if others.is_empty() { String::new() } else { format!(" EXCEPT ({})", others.join(", ")) };
        format!("ALTER PUBLICATION {} SET ALL TABLES{but};", self.publication())
    }

    fn send_generated(&self) -> String {
        format!("ALTER PUBLICATION {} SET (publish_generated_columns = stored);", self.publication())
    }

    /// Adds the table or corrects its entry; empty if the entry is right.
    pub fn enter(&self) -> Vec<String> {
        let list = self.column_list(&Identity::Keep);
        let mut statements = match &self.table.published {
            None => vec![self.add(list.as_deref())],
            Some(held) if self.entry_is_wrong(held, list.as_deref()) => self.replace(list.as_deref()).to_vec(),
            Some(_) => return Vec::new(),
        };
        if self.needs_generated(&Identity::Keep, list.as_deref()) {
            statements.insert(0, self.send_generated());
        }
        statements
    }

    /// The statement that adds the table to the publication.
    pub fn add(&self, list: Option<&[String]>) -> String {
        if self.is_excepted() {
            return self.include();
        }
        let list = list.map(|list| format!(" ({})", columns_sql(list))).unwrap_or_default();
        format!("ALTER PUBLICATION {} ADD TABLE {}{list};", self.publication(), self.relation())
    }

    /// Replaces the entry. Other sessions see the old entry or the new one, never none.
    pub fn replace(&self, list: Option<&[String]>) -> [String; 4] {
        let drop = format!("ALTER PUBLICATION {} DROP TABLE {};", self.publication(), self.relation());
        ["BEGIN;".to_owned(), drop, self.add(list), "COMMIT;".to_owned()]
    }

    fn publication(&self) -> String {
        quote_identifier(&self.database.publication_name)
    }

    /// ONLY leaves out tables that inherit from this one: their identity has not been checked.
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

/// The columns as SQL, e.g. `a, "B", c`.
pub fn columns_sql(columns: &[String]) -> String {
    columns.iter().map(|column| quote_identifier(column)).collect::<Vec<_>>().join(", ")
}
