//! A database as its catalogue describes it: the server, our role, the publication, the slot, the rules' tables.

use std::time::Duration;

use crate::lsn::Lsn;
use crate::table::{Table, TableName};

/// What one look at the catalogue showed.
#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// The tables that were asked for and are there, in the order of their names.
    pub tables: Vec<Table>,
    /// Names of other tables, asked for only where one is missing; at most [`OTHERS_MAX`].
    pub others: Vec<TableName>,
}

/// The most names among which the nearest to a missing table is looked for.
pub const OTHERS_MAX: u32 = 10_000;

impl Database {
    /// The table called `name`.
    pub fn table(&self, name: &TableName) -> Option<&Table> {
        let place = self.tables.binary_search_by(|table| table.name.cmp(name)).ok()?;
        self.tables.get(place)
    }

    /// Column lists and row filters came with Postgres 15.
    pub fn has_column_lists(&self) -> bool {
        self.server.version >= 150_000
    }
}

/// The server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `server_version_num`, e.g. 150018.
    pub version: u32,
    /// `wal_level`; logical decoding needs `logical`.
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
#[derive(Debug, Clone, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "the booleans of pg_publication")]
pub struct Publication {
    /// Whether this role may alter it.
    pub owned: bool,
    /// `FOR ALL TABLES`.
    pub all_tables: bool,
    /// Holds whole schemas (15+), and so takes no column lists.
    pub holds_schemas: bool,
    /// What it publishes.
    pub operations: Operations,
    /// `publish_via_partition_root`.
    pub via_root: bool,
    /// Stored generated columns are published where no column list says otherwise (18+).
    pub generated: bool,
}

/// `publish = '…'`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
