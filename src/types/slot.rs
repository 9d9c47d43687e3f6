//! A replication slot, and what coherd can do with it.

use crate::types::lsn::Lsn;
use crate::types::table::quote_identifier;

/// A slot's row in `pg_replication_slots`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slot {
    /// `plugin`; `None` for a physical slot.
    pub plugin: Option<String>,
    /// The database it follows.
    pub database: Option<String>,
    /// The process that streams from the slot, or creates it.
    pub active_pid: Option<i32>,
    /// `wal_status`: `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// `confirmed_flush_lsn`; `None` while the slot is being created.
    pub confirmed: Option<Lsn>,
    /// `two_phase`: prepared transactions would arrive without their rows.
    pub two_phase: bool,
    /// `failover` (17+).
    pub failover: Option<bool>,
    /// Why the slot is invalid: `invalidation_reason` (17+), or a conflict with recovery (16).
    pub invalidation: Option<String>,
    /// The slot is synchronized from the primary, and the server is a standby: it can be used after a promotion (17+).
    pub is_copy: bool,
}

/// What coherd can do with a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState<'a> {
    /// coherd did not make it.
    OfOthers(OfOthers<'a>),
    /// The log that it needs is gone.
    Lost {
        /// `invalidation_reason`, or the nearest thing that the version has.
        reason: &'a str,
    },
    /// coherd can follow the primary's slot, but not this copy of it.
    Copy,
    /// The server still waits for running transactions.
    Creating {
        /// The server process that creates the slot, if one does.
        by: Option<i32>,
    },
    /// coherd can follow the slot, unless another process does so.
    Usable {
        /// `confirmed_flush_lsn`.
        confirmed: Lsn,
    },
}

/// What to do about a slot that coherd did not make. Dropping it could cost its owner a standby or a subscription.
pub const ANOTHER_NAME: &str = "it is not coherd's, so choose another name (source.slot)";

/// Why a slot cannot be one that coherd made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OfOthers<'a> {
    /// It is for a standby or a backup.
    Physical,
    /// It belongs to another database.
    Database(&'a str),
    /// It has another output plugin than pgoutput.
    Plugin(&'a str),
    /// It sends prepared transactions early, which no slot of coherd's does.
    TwoPhase,
}

impl OfOthers<'_> {
    /// Why the slot is of no use to the database `ours`. Continues a sentence that begins with "the slot ".
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
    /// What coherd, which follows database `ours`, can do with the slot.
    pub fn state(&self, ours: &str) -> SlotState<'_> {
        if let Some(why) = self.of_others(ours) {
            return SlotState::OfOthers(why);
        }
        match (&self.invalidation, self.wal_status.as_deref(), self.confirmed) {
            (Some(reason), ..) => SlotState::Lost { reason },
            (None, Some("lost"), _) => SlotState::Lost { reason: "wal_removed" },
            _ if self.is_copy => SlotState::Copy,
            (None, _, Some(confirmed)) => SlotState::Usable { confirmed },
            (None, _, None) => SlotState::Creating { by: self.active_pid },
        }
    }

    fn of_others(&self, ours: &str) -> Option<OfOthers<'_>> {
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

/// How this process got its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SlotOrigin {
    /// There was no slot: earlier changes are not in it.
    CreatedHere,
    /// The slot existed, and everything up to the position has been acknowledged.
    Found {
        /// `confirmed_flush_lsn`.
        confirmed: Lsn,
    },
}
