//! A database as its catalogue describes it: the server, our role, the publication, the slot, the rules' tables. This is
//! the one description of a server; every command and the daemon read it in the same way (`postgres::catalog::look`).

use crate::types::server::{Role, Server};
use crate::types::slot::Slot;
use crate::types::table::{Table, TableName};

/// What one look at the catalogue showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Database {
    /// Its name.
    pub name: String,
    /// The server it is on.
    pub server: Server,
    /// Who is looking.
    pub role: Role,
    /// The publication's name in the configuration.
    pub publication_name: String,
    /// The publication of that name, if it is there.
    pub publication: Option<Publication>,
    /// The slot's name in the configuration.
    pub slot_name: String,
    /// The slot of that name, if it is there.
    pub slot: Option<Slot>,
    /// The comment on the schema `coherd`, which says which version of the functions it holds.
    pub functions: Option<String>,
    /// Whether there is a role `coherd_operator`, whose members may invalidate manually.
    pub operators: bool,
    /// The tables that were asked for.
    pub asked: Vec<TableName>,
    /// Those that are there and all that inherit from one, in the order of their names.
    pub tables: Vec<Table>,
    /// Whether any of them inherits from another.
    pub has_heirs: bool,
    /// Names of other tables, asked for only where one is missing; at most [`OTHERS_MAX`].
    pub others: Vec<TableName>,
    /// The other slots of this database that read with pgoutput, temporary ones left out: each may belong to another
    /// coherd, or to a subscription, that uses the publication or the schema too.
    pub other_slots: Vec<String>,
    /// Relations whose names hold [`IDENTITY_SUFFIX`], which a new index must not have.
    pub taken: Vec<TableName>,
    /// What the configuration and the command line ask for. Not read from the catalogue.
    pub choices: Choices,
}

/// What the indexes that coherd proposes for a replica identity end with.
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

/// Which replica identity is proposed where old rows do not carry what a rule needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Proposal {
    /// FULL, but for wide rows and where column lists are wanted.
    #[default]
    Fitting,
    /// FULL wherever it can be.
    Full,
    /// A UNIQUE constraint wherever one can be.
    Constraint,
}

/// The most names among which the nearest to a missing table is looked for.
pub const OTHERS_MAX: u32 = 10_000;

impl Database {
    /// The table called `name`.
    pub fn table(&self, name: &TableName) -> Option<&Table> {
        let place = self.tables.binary_search_by(|table| table.name.cmp(name)).ok()?;
        self.tables.get(place)
    }

    /// Whether entries of the publication may be changed and removed without asking: coherd made it, for this slot,
    /// and no other slot can be reading from it.
    pub fn owns_publication(&self) -> bool {
        self.publication.as_ref().is_some_and(|held| held.made_here) && self.other_slots.is_empty()
    }

    /// Column lists and row filters came with Postgres 15.
    pub fn has_column_lists(&self) -> bool {
        self.server.version >= 150_000
    }
}

/// What a publication holds beside the tables of rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Beside {
    /// Tables that it names one by one, with whether they are partitioned; at most [`BESIDE_MAX`].
    pub unruled: Vec<(TableName, bool)>,
    /// How many there are.
    pub unruled_count: u64,
    /// Tables, published in whatever way, whose UPDATEs and DELETEs fail; at most [`BESIDE_MAX`].
    pub unwritable: Vec<Unwritable>,
    /// How many there are.
    pub unwritable_count: u64,
}

/// The most tables of each kind that are read.
pub const BESIDE_MAX: u32 = 100;

/// A published table to which the application's UPDATEs and DELETEs fail.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "reasons that come together")]
pub struct Unwritable {
    /// Its name.
    pub table: TableName,
    /// It has no replica identity (55000).
    pub bare: bool,
    /// Its column list leaves out a part of the replica identity, or that is FULL (42P10).
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
    /// and no comment.
    pub made_here: bool,
    /// `FOR ALL TABLES`.
    pub all_tables: bool,
    /// The tables that it leaves out, `EXCEPT (TABLE …)` (19+).
    pub excepted: Vec<TableName>,
    /// Holds whole schemas (15+), and so takes no column lists.
    pub holds_schemas: bool,
    /// What it publishes.
    pub operations: Operations,
    /// `publish_via_partition_root`.
    pub via_root: bool,
    /// Stored generated columns are published where no column list says otherwise (18+).
    pub generated: bool,
}

/// The comment by which `coherd setup` knows a publication that it made.
pub fn publication_comment(slot: &str) -> String {
    format!("Made by coherd setup for slot {slot}")
}

/// The publication's name where the configuration gives none.
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
    /// The names of those that are not published.
    pub fn missing(self) -> Vec<&'static str> {
        let all =
            [(self.insert, "insert"), (self.update, "update"), (self.delete, "delete"), (self.truncate, "truncate")];
        all.into_iter().filter(|(there, _)| !there).map(|(_, name)| name).collect()
    }
}
