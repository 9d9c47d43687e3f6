//! A database as its catalogue describes it: the server, our role, the publication, the slot, the rules' tables.

use std::time::Duration;

use crate::types::lsn::Lsn;
use crate::types::table::{Table, TableName, quote_identifier};

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

/// The server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Server {
    /// `server_version_num`, e.g. 150018.
    pub version: u32,
    /// `wal_level`. Logical decoding needs `logical`; from 19 on `replica` is enough, because making a slot turns it on.
    pub wal_level: String,
    /// `max_replication_slots`.
    pub slots_max: u32,
    /// Slots there are.
    pub slots_used: u32,
    /// `max_wal_senders`.
    pub senders_max: u32,
    /// WAL senders at work.
    pub senders_used: u32,
    /// `wal_sender_timeout`; zero means none.
    pub sender_timeout: Duration,
    /// `max_slot_wal_keep_size` in MiB; -1 means without bound.
    pub slot_keep_mib: i64,
    /// `synchronous_commit` as new sessions of this role have it.
    pub synchronous_commit: String,
    /// `synchronous_standby_names`.
    pub synchronous_standby_names: String,
    /// What the standbys that stream from it are called, as far as this role may see them (`pg_monitor`).
    pub standbys: Vec<String>,
    /// A standby.
    pub in_recovery: bool,
    /// `server_encoding`.
    pub encoding: String,
}

/// The role of the session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// `rolsuper`.
    pub superuser: bool,
    /// May replicate: `rolreplication`, superuser, or member of `rds_replication`.
    pub replication: bool,
    /// May create publications and schemas in this database.
    pub may_create: bool,
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

/// What only a thorough check asks about the server and the slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// Who runs the server, which decides how its settings are changed.
    pub hosting: Hosting,
    /// `IDENTIFY_SYSTEM`'s `systemid`, where this role may ask for it (`pg_control_system`).
    pub system_id: Option<u64>,
    /// `pg_postmaster_start_time()`: together with the system, one life of one server.
    pub started: String,
    /// The server's own address and port, as it sees the connection; `None` over a unix socket.
    pub address: Option<String>,
    /// The database's clock minus this machine's, in ms, give or take half the round trip.
    pub clock_ahead_ms: i64,
    /// The round trip of that question, in ms.
    pub clock_doubt_ms: i64,
    /// Where `synchronous_commit` is off.
    pub loose_commits: Vec<LooseCommits>,
    /// `idle_replication_slot_timeout` (18+); zero means none.
    pub idle_slot_timeout: Duration,
    /// `synchronized_standby_slots` (17+); `None` before.
    pub synchronized_standby_slots: Option<String>,
    /// The physical slots that standbys follow at the moment.
    pub standby_slots: Vec<String>,
    /// `failover` of our slot (17+).
    pub slot_failover: Option<bool>,
    /// Why our slot is invalid: `invalidation_reason` (17+), or a conflict with recovery (16).
    pub slot_invalidation: Option<String>,
    /// The functions of the server that send messages, as SQL names them, which every role may call.
    pub public_senders: Vec<String>,
    /// Whether the role may call the functions in the schema `coherd`; `true` where there are none.
    pub functions_usable: bool,
}

/// A place from which sessions take `synchronous_commit = off`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LooseCommits {
    /// The server's own settings.
    Server,
    /// `ALTER DATABASE`, of ours.
    Database,
    /// `ALTER ROLE`.
    Role(String),
    /// `ALTER ROLE … IN DATABASE`, of ours.
    RoleInDatabase(String),
}

/// Who runs the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hosting {
    /// Somebody who may use ALTER SYSTEM.
    Own,
    /// Amazon RDS or Aurora.
    AmazonRds,
    /// Google Cloud SQL.
    CloudSql,
    /// Azure Database for Postgres.
    Azure,
}

/// The slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// `plugin`; `None` for a physical slot.
    pub plugin: Option<String>,
    /// The database it follows.
    pub database: Option<String>,
    /// The process that streams from it.
    pub active_pid: Option<i32>,
    /// `wal_status`: `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// `confirmed_flush_lsn`.
    pub confirmed: Option<Lsn>,
    /// `two_phase`: prepared transactions would arrive without their rows.
    pub two_phase: bool,
}

/// What to do about a slot that coherd did not make. Dropping it could cost its owner a standby or a subscription.
pub const ANOTHER_NAME: &str = "it is not coherd's, so choose another name (source.slot)";

/// Why a slot cannot be one that coherd made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfOthers<'a> {
    /// It is for a standby or a backup.
    Physical,
    /// It follows another database.
    Database(&'a str),
    /// It has another output plugin than pgoutput.
    Plugin(&'a str),
    /// coherd makes none that sends prepared transactions early.
    TwoPhase,
}

impl OfOthers<'_> {
    /// Why it is of no use to `ours`. Reads on after "the slot ".
    pub fn text(&self, ours: &str) -> String {
        let why = match self {
            OfOthers::Physical => "is a physical one, made for a standby or a backup".to_owned(),
            OfOthers::Database(of) => {
                format!("belongs to database {}, not to {}", quote_identifier(of), quote_identifier(ours))
            }
            OfOthers::Plugin(plugin) => {
                format!("was made with the output plugin {plugin}, and coherd reads pgoutput")
            }
            OfOthers::TwoPhase => "sends prepared transactions early (two_phase), without their rows".to_owned(),
        };
        format!("{why}; {ANOTHER_NAME}")
    }
}

impl Slot {
    /// Why the slot cannot be one that coherd made for database `ours`; `None` where it can.
    pub fn belongs_to_others(&self, ours: &str) -> Option<OfOthers<'_>> {
        let Some(plugin) = self.plugin.as_deref() else { return Some(OfOthers::Physical) };
        match self.database.as_deref() {
            Some(of) if of == ours => {}
            of => return Some(OfOthers::Database(of.unwrap_or_default())),
        }
        if plugin != "pgoutput" {
            return Some(OfOthers::Plugin(plugin));
        }
        self.two_phase.then_some(OfOthers::TwoPhase)
    }
}
