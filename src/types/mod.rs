//! Plain data, which everything else speaks of.

pub mod change;
pub mod database;
pub mod finding;
pub mod invalidation;
pub mod lsn;
pub mod observation;
pub mod pattern;
pub mod policy;
pub mod record;
pub mod server;
pub mod slot;
pub mod snapshot;
pub mod table;
pub mod timeline;
