//! coherd keeps caches coherent with Postgres.
//!
//! The modules below stand in the order in which data flows. A file imports only from modules above it;
//! `tests/tidy.rs` holds the house to that.

// Words: what the rest speaks about.
pub mod change;
pub mod database;
pub mod finding;
pub mod invalidation;
pub mod lsn;
pub mod observation;
pub mod record;
pub mod snapshot;
pub mod table;

// Thought: pure decisions, without IO, clock or environment.
pub mod manual;
pub mod pgoutput;
pub mod rules;
pub mod transaction;
pub mod core;
pub mod backoff;

// Edges: Postgres, the caches, HTTP, the service manager.
pub mod tls;
pub mod source;
pub mod target;
pub mod status;
pub mod metrics;
pub mod admin;
pub mod systemd;

// Will: what happens next.
pub mod runtime;
pub mod shutdown;

// Doors: how people come in.
pub mod config;
pub mod cli;
