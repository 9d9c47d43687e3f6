//! A database as its catalogue describes it: the server, our role, the publication, the slot and the rules' tables.
//! This is the only description of a server; every command and the daemon read it in the same way
//! (`postgres::catalog::look`).

use crate::types::server::{Role, Server};
use crate::types::slot::Slot;
use crate::types::table::{Table, TableName};

/// The result of one look at the catalogue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Database {
    /// Name of the database.
    pub name: String,
    /// The server it is on.
    pub server: Server,
    /// The role that looks.
    pub role: Role,
    /// The publication's name in the configuration.
    pub publication_name: String,
    /// The publication of that name, if it exists.
    pub publication: Option<Publication>,
    /// The slot's name in the configuration.
    pub slot_name: String,
    /// The slot of that name, if it exists.
    pub slot: Option<Slot>,
    /// The comment on the schema `coherd`, which says which version of the functions it holds.
    pub functions: Option<String>,
    /// Whether the role `coherd_operator` exists, whose members may invalidate manually.
    pub operators: bool,
    /// The names of the tables that were asked for.
    pub asked: Vec<TableName>,
    /// Those that exist, and all tables that inherit from one of them, sorted by name.
    pub tables: Vec<Table>,
    /// Whether any of these tables inherits from another.
    pub has_heirs: bool,
    /// Names of other tables, read only if one is missing; at most [`OTHERS_MAX`].
    pub others: Vec<TableName>,
    /// The other slots of this database that read with pgoutput, without temporary ones. Each may belong to another
    /// coherd, or to a subscription, that uses the publication or the schema too.
    pub other_slots: Vec<String>,
    /// Relations whose names contain [`IDENTITY_SUFFIX`], which a new index must not have.
    pub taken: Vec<TableName>,
    /// What the configuration and the command line ask for. Not read from the catalogue.
    pub choices: Choices,
}

/// The suffix of the indexes that coherd proposes for a replica identity.
pub const IDENTITY_SUFFIX: &str = "_coherd_identity";

/// What the configuration and the command line ask of a publication and of replica identities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Choices {
    /// `source.publish`.
    pub publish: Publish,
    /// `--identity`.
    pub identity: Proposal,
}

/// `source.publish`: what a publication sends of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Publish {
    /// Whole rows, without a column list.
    #[default]
    Rows,
    /// A column list with what rules and the replica identity need.
    Keys,
}

/// Which replica identity coherd proposes where old rows do not carry what a rule needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Proposal {
    /// FULL, except for wide rows and where column lists are wanted.
    #[default]
    Fitting,
    /// FULL wherever possible.
    Full,
    /// A UNIQUE constraint wherever possible.
    Constraint,
}

/// Maximum number of names that are searched for the one nearest to a missing table.
pub const OTHERS_MAX: u32 = 10_000;

impl Database {
    /// The table called `name`.
    pub fn table(&self, name: &TableName) -> Option<&Table> {
        let place = self.tables.binary_search_by(|table| table.name.cmp(name)).ok()?;
        self.tables.get(place)
    }

    /// Whether coherd may change and remove entries of the publication without asking: coherd made it for this slot,
    /// and no other slot can be reading from it.
    pub fn owns_publication(&self) -> bool {
        self.publication.as_ref().is_some_and(|held| held.made_here) && self.other_slots.is_empty()
    }

    /// Whether the server has column lists and row filters, which came with Postgres 15.
    pub fn has_column_lists(&self) -> bool {
        self.server.version >= 150_000
    }
}

/// What a publication holds besides the tables of rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beside {
    /// Tables that the publication names one by one, and whether each is partitioned; at most [`BESIDE_MAX`].
    pub unruled: Vec<(TableName, bool)>,
    /// How many there are, without that limit.
    pub unruled_count: u64,
    /// Tables, however they are published, whose UPDATEs and DELETEs fail; at most [`BESIDE_MAX`].
    pub unwritable: Vec<Unwritable>,
    /// How many there are, without that limit.
    pub unwritable_count: u64,
}

/// Maximum number of tables of each kind that are read.
pub const BESIDE_MAX: u32 = 100;

/// A published table on which the application's UPDATEs and DELETEs fail.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "reasons that come together")]
pub struct Unwritable {
    /// Name of the table.
    pub table: TableName,
    /// It has no replica identity (55000).
    pub bare: bool,
    /// Its column list leaves out a part of the replica identity, or the identity is FULL (42P10).
    pub listed: bool,
    /// Its replica identity is FULL and the publication leaves out a stored generated column (42P10; 18+).
    pub generated: bool,
    /// It has a virtual generated column, which FULL cannot hold (42P10; 18+).
    pub is_virtual: bool,
}

/// The publication.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "the booleans of pg_publication")]
pub struct Publication {
    /// Whether this role may alter it.
    pub owned: bool,
    /// `coherd setup` made it for this slot: its comment says so ([`publication_comment`]), or it has the default name
    /// and no comment, and the database has no other slot ([`Database::other_slots`]).
    pub made_here: bool,
    /// `FOR ALL TABLES`.
    pub all_tables: bool,
    /// The tables that the publication leaves out, `EXCEPT (TABLE …)` (19+).
    pub excepted: Vec<TableName>,
    /// It holds whole schemas (15+), and so takes no column lists.
    pub holds_schemas: bool,
    /// Which operations it publishes.
    pub operations: Operations,
    /// `publish_via_partition_root`.
    pub via_root: bool,
    /// It publishes stored generated columns where no column list says otherwise (18+).
    pub generated: bool,
}

/// The comment by which `coherd setup` recognises a publication that it made.
pub fn publication_comment(slot: &str) -> String {
    format!("Made by coherd setup for slot {slot}")
}

/// The publication's name if the configuration gives none.
pub const PUBLICATION_DEFAULT: &str = "coherd";

/// `publish = '…'`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "the four booleans of pg_publication")]
pub struct Operations {
    /// `pubinsert`
    pub insert: bool,
    /// `pubupdate`
    pub update: bool,
    /// `pubdelete`
    pub delete: bool,
    /// `pubtruncate`
    pub truncate: bool,
}

impl Operations {
    /// The names of the operations that are not published.
    pub fn missing(self) -> Vec<&'static str> {
        let all =
            [(self.insert, "insert"), (self.update, "update"), (self.delete, "delete"), (self.truncate, "truncate")];
        all.into_iter().filter(|(there, _)| !there).map(|(_, name)| name).collect()
    }
}
