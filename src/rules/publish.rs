//! What a publication must hold of a table, and the SQL that brings table and publication there without a moment in
//! which a write of the application fails.

use super::config::{MissingOld, Rule};
use crate::types::database::{Database, IDENTITY_SUFFIX, Proposal, Publish};
use crate::types::table::{
    Generated, IdentityIndex, Published, PublishedBy, Table, TableColumn, TableKind, TableName, quote_identifier,
};

/// One table and what its rules ask of it.
#[derive(Debug, Clone, Copy)]
pub struct Demand<'a> {
    /// What the catalogue says.
    pub database: &'a Database,
    /// The table.
    pub table: &'a Table,
    /// Its rules, at least one: those that name it, or a table that it inherits from.
    pub rules: &'a [&'a Rule],
}

/// What the replica identity should become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// It is good.
    Keep,
    /// `REPLICA IDENTITY FULL`, here and at every leaf.
    Full,
    /// `REPLICA IDENTITY USING INDEX`, the index of a UNIQUE constraint of these columns.
    Constraint(Vec<String>),
    /// Nothing that Postgres has would do.
    OutOfReach,
}

impl<'a> Demand<'a> {
    /// What a finding is about that concerns this rule: `rules[2] public.users`, and the table where it inherits the rule.
    pub fn subject_of(&self, rule: &Rule) -> String {
        let subject = rule.subject();
        if rule.table == self.table.name { subject } else { format!("{subject}, child {}", self.table.name) }
    }

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

    /// What the replica identity should become. FULL is the one that nothing takes away: DROP COLUMN drops a constraint
    /// silently. But FULL writes whole old rows into the log, and Postgres allows no column list beside it.
    pub fn identity(&self) -> Identity {
        let (table, choices, missing) = (self.table, self.database.choices, self.missing_old());
        let wants_all = !table.has_identity() || !self.missing_comparison().is_empty();
        if missing.is_empty() && !wants_all {
            return Identity::Keep;
        }
        // A unique key with more columns is still unique. An index of a partition tree cannot be made concurrently.
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

    /// With a virtual generated column (18+), FULL makes the *application's* UPDATEs of a published table fail with 42P10.
    pub fn can_be_full(&self) -> bool {
        self.table.columns.iter().all(|column| column.generated != Generated::Virtual)
    }

    /// From 18 on FULL also does that with a stored generated column, unless the publication sends those.
    pub fn full_needs_generated(&self) -> bool {
        self.leaves_generated_out() && self.table.columns.iter().any(|column| column.generated == Generated::Stored)
    }

    /// Whether a column that is left out otherwise has to come: a rule reads it and no list names it, or it is in FULL.
    fn needs_generated(&self, identity: &Identity, list: Option<&[String]>) -> bool {
        let full = *identity == Identity::Full || self.table.forbids_column_list();
        let ruled = self.columns().any(|column| column.generated == Generated::Stored);
        self.leaves_generated_out() && (full && self.full_needs_generated() || list.is_none() && ruled)
    }

    fn leaves_generated_out(&self) -> bool {
        let held = self.database.publication.as_ref();
        self.database.server.version >= 180_000 && held.is_some_and(|held| !held.generated)
    }

    /// What a column list has to hold; `None` where there can be none.
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

    /// The column list that the publication should have, with `identity` in it; `None` for whole rows. Whoever else may
    /// read the publication loses no column.
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

    /// Every statement that is needed, in an order in which no write of the application fails on the way: a list is
    /// widened, or taken away, before the identity outgrows it, and a table without identity is added last.
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

    /// Whether an entry of the publication has a row filter or another column list than `list`.
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
    /// where there must be none.
    pub fn entry_lacks(&self, published: &Published) -> bool {
        let Some(held) = &published.columns else { return false };
        match self.key_columns(&Identity::Keep) {
            None => true,
            Some(wanted) => !wanted.iter().all(|column| held.contains(column)),
        }
    }

    /// `FOR ALL TABLES EXCEPT` leaves the table out.
    pub fn is_excepted(&self) -> bool {
        self.database.publication.as_ref().is_some_and(|held| held.excepted.contains(&self.table.name))
    }

    /// Takes the rules' tables out of the exceptions, and leaves the others in.
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

    /// Adds the table, or puts its entry right; nothing where the entry is as it should be.
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

    /// Adds the table to the publication.
    pub fn add(&self, list: Option<&[String]>) -> String {
        if self.is_excepted() {
            return self.include();
        }
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
        let mut statements = match identity {
            Identity::Keep | Identity::OutOfReach => Vec::new(),
            // The root last: its identity says how the stream marks a leaf's old rows, and "full" too early would pass
            // the holes in them off as NULLs.
            Identity::Full => self.table.leaves.iter().map(|leaf| &leaf.name).chain([table]).map(full).collect(),
            Identity::Constraint(columns) => self.constrain(columns),
        };
        if matches!(identity, Identity::Full | Identity::Constraint(_)) {
            statements.extend(self.drop_former_index());
        }
        statements
    }

    /// DROP INDEX is refused on the index of a constraint: a bare one looks unused, and without it UPDATEs fail (55000).
    fn constrain(&self, columns: &[String]) -> Vec<String> {
        let (table, name) = (&self.table.name, quote_identifier(&self.free_name()));
        vec![
            format!("CREATE UNIQUE INDEX CONCURRENTLY {name} ON {table} ({});", columns_sql(columns)),
            format!("ALTER TABLE {table} ADD CONSTRAINT {name} UNIQUE USING INDEX {name};"),
            format!("ALTER TABLE {table} REPLICA IDENTITY USING INDEX {name};"),
        ]
    }

    /// The index that an earlier proposal made, once it is the identity no more. Nobody else's.
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

    /// A name for the index that no relation of the schema has.
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
fn index_name(table: &str, number: &str) -> String {
    let mut end = table.len().min(63 - IDENTITY_SUFFIX.len() - number.len());
    while !table.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{IDENTITY_SUFFIX}{number}", table.get(..end).unwrap_or_default())
}

/// Its values may be longer than the 2.6 kB that an index takes.
pub fn is_unbounded(column: &TableColumn) -> bool {
    matches!(column.type_name.as_str(), "text" | "character varying" | "bytea")
}
