//! A table as the catalogue describes it, and the quoting of SQL names and literals.

use crate::types::change::ReplicaIdentity;

/// A schema-qualified table name, unquoted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// Schema, as in `pg_namespace.nspname`.
    pub schema: String,
    /// Table, as in `pg_class.relname`.
    pub name: String,
}

impl TableName {
    /// The name as SQL, quoted where SQL needs it.
    pub fn sql(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.name))
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.sql())
    }
}

/// `pg_class.relkind`, reduced to what rules need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TableKind {
    /// An ordinary table.
    #[default]
    Ordinary,
    /// The root or an inner node of a partition tree.
    Partitioned,
    /// Anything a publication cannot hold: view, materialised view, foreign table, sequence.
    Unpublishable,
}

/// `pg_class.relpersistence`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Persistence {
    /// Written to the log.
    #[default]
    Permanent,
    /// Not written to the log, so coherd never sees its changes.
    Unlogged,
    /// Private to a session; coherd never sees its changes.
    Temporary,
}

/// One column of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "what the catalogue says of a column")]
pub struct TableColumn {
    /// `pg_attribute.attname`.
    pub name: String,
    /// The type as SQL prints it, e.g. `timestamp with time zone`.
    pub type_name: String,
    /// `pg_attribute.attnotnull`.
    pub not_null: bool,
    /// Whether its value is computed, and when.
    pub generated: Generated,
    /// Whether a B-tree index can hold it.
    pub sortable: bool,
    /// Whether its values can have any length; Postgres stores large ones outside the row (TOAST).
    pub can_be_large: bool,
    /// Whether old rows carry it: it is in the replica identity of the table and, for a partition tree, of every leaf.
    pub in_identity: bool,
}

/// `pg_attribute.attgenerated`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Generated {
    /// An ordinary column.
    #[default]
    No,
    /// Computed when written; published by Postgres 18 and later only.
    Stored,
    /// Computed when read; never published.
    Virtual,
}

/// How a publication includes a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Published columns, or `None` for all of them.
    pub columns: Option<Vec<String>>,
    /// Whether there is a row filter (`WHERE`).
    pub row_filter: bool,
    /// The publication clause that includes it.
    pub by: PublishedBy,
}

/// The publication clause that includes a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishedBy {
    /// `FOR TABLE`
    Table,
    /// `FOR TABLES IN SCHEMA`
    Schema,
    /// `FOR ALL TABLES`
    AllTables,
}

/// A leaf of a partition tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Its name.
    pub name: TableName,
    /// How much of its old rows is logged; the root's identity does not apply to the leaf's rows.
    pub identity: ReplicaIdentity,
    /// The columns of its replica identity.
    pub identity_columns: Vec<String>,
    /// Whether changes to it are written to the log.
    pub logged: bool,
    /// Whether it is a foreign table, whose rows are on another server.
    pub foreign: bool,
}

/// The index of a replica identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityIndex {
    /// `pg_class.relname`.
    pub name: String,
    /// Whether a constraint owns the index, so that Postgres refuses DROP INDEX.
    pub is_constraint: bool,
}

/// A table as the catalogue describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// `pg_class.oid`.
    pub oid: u32,
    /// Its name.
    pub name: TableName,
    /// Its `relkind`.
    pub kind: TableKind,
    /// Whether its changes are written to the log.
    pub persistence: Persistence,
    /// For a partition: the root of its tree.
    pub partition_root: Option<TableName>,
    /// How much of its old rows is logged. [`ReplicaIdentity::Default`] without a primary key means nothing.
    pub identity: ReplicaIdentity,
    /// The columns of the table's own replica identity.
    pub identity_columns: Vec<String>,
    /// The index that `REPLICA IDENTITY USING INDEX` names.
    pub identity_index: Option<IdentityIndex>,
    /// Whether old rows take much space in the log: values are stored outside their rows (TOAST), or rows are longer
    /// than about 1 kB.
    pub wide: bool,
    /// For the root of a partition tree: its leaves.
    pub leaves: Vec<Leaf>,
    /// Tables of rules that it inherits from, directly or indirectly. A query on one of those also reads this table's
    /// rows.
    pub parents: Vec<TableName>,
    /// Whether it is a TimescaleDB hypertable, whose rows are in the extension's own tables.
    pub is_hypertable: bool,
    /// Columns in table order, without dropped ones.
    pub columns: Vec<TableColumn>,
    /// How the publication includes it; `None` if it does not.
    pub published: Option<Published>,
}

impl Table {
    /// Whether an UPDATE or DELETE on the table finds a replica identity. If the table is published and does not, the
    /// *application's* statement fails with SQLSTATE 55000. A leaf's own identity applies to its rows; the root's
    /// applies to the leaves that are still to be created.
    pub fn has_identity(&self) -> bool {
        let good = |identity, columns: &[String]| identity == ReplicaIdentity::Full || !columns.is_empty();
        good(self.identity, &self.identity_columns)
            && self.leaves.iter().all(|leaf| good(leaf.identity, &leaf.identity_columns))
    }

    /// Whether the table or one of its leaves has REPLICA IDENTITY FULL. Any column list then makes the *application's*
    /// UPDATEs fail with SQLSTATE 42P10.
    pub fn forbids_column_list(&self) -> bool {
        self.identity == ReplicaIdentity::Full || self.leaves.iter().any(|leaf| leaf.identity == ReplicaIdentity::Full)
    }

    /// Whether a column list must include `column`; without it the *application's* UPDATEs fail with SQLSTATE 42P10.
    pub fn list_needs(&self, column: &str) -> bool {
        let holds = |columns: &[String]| columns.iter().any(|name| name == column);
        holds(&self.identity_columns) || self.leaves.iter().any(|leaf| holds(&leaf.identity_columns))
    }

    /// Whether old rows carry every column.
    pub fn is_full(&self) -> bool {
        self.identity == ReplicaIdentity::Full && self.leaves.iter().all(|leaf| leaf.identity == ReplicaIdentity::Full)
    }

    /// The column called `name`.
    pub fn column(&self, name: &str) -> Option<&TableColumn> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// `name` as an SQL identifier. Quoted unless it is plain lower case and not a reserved keyword.
pub fn quote_identifier(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !RESERVED.contains(&name);
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// `text` as an SQL string literal.
pub fn quote_literal(text: &str) -> String {
    let escape = if text.contains('\\') { " E" } else { "" };
    format!("{escape}'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Keywords that SQL refuses as a bare column or table name (Postgres manual, appendix "SQL Key Words", the
/// reserved ones and those reserved as table names).
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "authorization",
    "between",
    "bigint",
    "binary",
    "bit",
    "boolean",
    "both",
    "case",
    "cast",
    "char",
    "character",
    "check",
    "coalesce",
    "collate",
    "collation",
    "column",
    "concurrently",
    "constraint",
    "create",
    "cross",
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "dec",
    "decimal",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "exists",
    "extract",
    "false",
    "fetch",
    "float",
    "for",
    "foreign",
    "freeze",
    "from",
    "full",
    "grant",
    "greatest",
    "group",
    "grouping",
    "having",
    "ilike",
    "in",
    "initially",
    "inner",
    "inout",
    "int",
    "integer",
    "intersect",
    "interval",
    "into",
    "is",
    "isnull",
    "join",
    "lateral",
    "leading",
    "least",
    "left",
    "like",
    "limit",
    "localtime",
    "localtimestamp",
    "national",
    "natural",
    "nchar",
    "none",
    "normalize",
    "not",
    "notnull",
    "null",
    "nullif",
    "numeric",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "out",
    "outer",
    "overlaps",
    "overlay",
    "placing",
    "position",
    "precision",
    "primary",
    "real",
    "references",
    "returning",
    "right",
    "row",
    "select",
    "session_user",
    "setof",
    "similar",
    "smallint",
    "some",
    "substring",
    "symmetric",
    "system_user",
    "table",
    "tablesample",
    "then",
    "time",
    "timestamp",
    "to",
    "trailing",
    "treat",
    "trim",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "values",
    "varchar",
    "variadic",
    "verbose",
    "when",
    "where",
    "window",
    "with",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_quoted_only_where_sql_needs_it() {
        assert_eq!(quote_identifier("users"), "users");
        assert_eq!(quote_identifier("Users"), "\"Users\"");
        assert_eq!(quote_identifier("order"), "\"order\"");
        assert_eq!(quote_identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote_identifier("1st"), "\"1st\"");
        assert_eq!(quote_identifier(""), "\"\"");
    }

    #[test]
    fn literals_survive_quotes_and_backslashes() {
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal("a\\b"), " E'a\\\\b'");
    }
}
