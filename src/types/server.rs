//! A Postgres server and the role that asks it.

use std::time::Duration;

use crate::types::lsn::Lsn;

/// A server: what it is, and the settings that decide whether coherd can follow it. Fields marked *check* are read for
/// `coherd check` only (`catalog::complete`), because none of them must keep the daemon from following the log; elsewhere they
/// have their defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Server {
    /// `server_version_num`, e.g. 150018.
    pub version: u32,
    /// The server is a standby (`pg_is_in_recovery()`).
    pub in_recovery: bool,
    /// `server_encoding`.
    pub encoding: String,
    /// *check* Who runs the server, which decides how its settings are changed.
    pub hosting: Hosting,
    /// *check* Which server this is, and since when it has been running.
    pub life: Life,
    /// *check* The server's own address and port, as it sees the connection; `None` over a unix socket.
    pub address: Option<String>,
    /// `wal_level`. Logical decoding needs `logical`; from 19 on, `replica` is enough: creating a slot turns it on.
    pub wal_level: String,
    /// `wal_sender_timeout`; zero means no timeout.
    pub sender_timeout: Duration,
    /// Replication slots (`max_replication_slots`).
    pub slots: Room,
    /// WAL senders (`max_wal_senders`).
    pub senders: Room,
    /// `max_slot_wal_keep_size` in MiB; -1 means no limit.
    pub slot_keep_mib: i64,
    /// *check* `idle_replication_slot_timeout` (18+); zero means no timeout.
    pub idle_slot_timeout: Duration,
    /// The standbys that follow the server.
    pub standbys: Standbys,
    /// *check* Where `synchronous_commit` is off.
    pub loose_commits: Vec<LooseCommits>,
    /// *check* The functions that send logical messages and that every role may call, as SQL names them.
    pub public_senders: Vec<String>,
}

/// Resources that a setting limits: how many are in use, and how many there can be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// How many are in use.
    pub used: u32,
    /// The limit.
    pub max: u32,
}

impl Room {
    /// Whether none is free.
    pub const fn is_full(self) -> bool {
        self.used >= self.max
    }
}

/// One run of one server: two answers with the same life came from the same server process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Life {
    /// The system identifier; `None` if the role may not ask for it (`pg_control_system`).
    pub system_id: Option<u64>,
    /// `pg_postmaster_start_time()`, as text.
    pub started: String,
}

impl Life {
    /// Whether both may be the same run. An identifier that one side does not know decides nothing.
    pub fn is_of(&self, other: &Life) -> bool {
        let same_system = self.system_id.zip(other.system_id).is_none_or(|(ours, theirs)| ours == theirs);
        same_system && self.started == other.started
    }
}

/// What the server knows of its standbys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standbys {
    /// The `application_name` of each standby that streams, as far as this role may see it (`pg_monitor`).
    pub names: Vec<String>,
    /// *check* The physical slots that are in use.
    pub slots: Vec<String>,
    /// `synchronous_standby_names`.
    pub synchronous: String,
    /// *check* `synchronized_standby_slots` (17+); `None` before.
    pub synchronized_slots: Option<String>,
}

/// A place from which sessions get `synchronous_commit = off`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LooseCommits {
    /// The server's own settings.
    Server,
    /// `ALTER DATABASE`, of our database.
    Database,
    /// `ALTER ROLE`.
    Role(String),
    /// `ALTER ROLE … IN DATABASE`, of our database.
    RoleInDatabase(String),
}

/// Who runs the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Hosting {
    /// Somebody who may use ALTER SYSTEM.
    #[default]
    Own,
    /// Amazon RDS or Aurora.
    AmazonRds,
    /// Google Cloud SQL.
    CloudSql,
    /// Azure Database for Postgres.
    Azure,
}

/// The role of the session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is one privilege")]
pub struct Role {
    /// Name of the role.
    pub name: String,
    /// `rolsuper`.
    pub superuser: bool,
    /// May replicate: `rolreplication`, superuser, or member of `rds_replication`.
    pub replication: bool,
    /// May create publications and schemas in this database.
    pub may_create: bool,
    /// *check* May call the functions in the schema `coherd`; `true` if there are none.
    pub may_call_functions: bool,
}

/// How far the server's clock and this machine's are apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Clock {
    /// The server's clock minus this machine's, in ms, give or take half of [`Clock::doubt_ms`].
    pub ahead_ms: i64,
    /// The round trip of the question, in ms.
    pub doubt_ms: i64,
}

/// What a server says of its log over a replication connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct System {
    /// The system identifier (`IDENTIFY_SYSTEM`'s `systemid`).
    pub id: u64,
    /// The timeline that it writes, or replays (`timeline`).
    pub timeline: u32,
    /// The end of the flushed log (`xlogpos`).
    pub wal_end: Lsn,
    /// Where its log left earlier timelines (`TIMELINE_HISTORY`), oldest first; empty on timeline 1, and where the server
    /// could not say.
    pub forks: Vec<Fork>,
}

/// Where the log switched from one timeline to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fork {
    /// The timeline that was left.
    pub timeline: u32,
    /// What was written to the old timeline after this position is not part of the server's history.
    pub at: Lsn,
}
