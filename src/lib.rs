//! coherd keeps caches coherent with Postgres: it follows the write-ahead log and invalidates the cache keys of every
//! row that has changed. This is its library; the program is [`cli`].
//!
//! A tour, in the order that a change travels:
//!
//! 1. [`postgres`] follows a replication slot and yields frames of the log.
//! 2. [`pgoutput`] decodes a frame into a message that borrows from it.
//! 3. [`rules`] are bound to a table as the log describes it, and render the cache keys of a row.
//!    [`transaction`] passes them on.
//! 4. [`core`] gathers the keys for each target and decides everything else: when they may leave, what a target has
//!    missed, how far the slot may be acknowledged. It does no IO and reads no clock.
//! 5. [`targets`] sends batches of invalidations and confirms them.
//! 6. [`runtime`] connects them: it reports events to the core, and does what the core says.
//!
//! The core also works without any target: a commit may then be acknowledged at once.
//!
//! ```
//! use std::time::Instant;
//!
//! use coherd::core::{Core, Input, Output};
//! use coherd::types::lsn::Lsn;
//! use coherd::pgoutput::PgTime;
//! use coherd::types::snapshot::Commit;
//!
//! let mut core = Core::without_targets(Lsn::new(100));
//! core.begun(Commit { xid: 7, at: Lsn::new(190) }, PgTime(0));
//! core.committed(Lsn::new(200));
//! core.step(Instant::now(), Input::Read(false));
//! assert_eq!(core.watermarks().settled, Lsn::new(200));
//! assert_eq!(core.acknowledge().map(|position| position.lsn()), Some(Lsn::new(200)));
//! let mut outputs: Vec<Output> = Vec::new();
//! core.take_outputs(&mut outputs);
//! ```
//!
//! The modules below are in the order in which data flows. A file imports only from modules above it, which
//! `tests/tidy.rs` checks. ARCHITECTURE.md says why it is built this way.

// Plain data.
pub mod types;

// Decisions, without IO, clock or environment.
pub mod pgoutput;
pub mod rules;
pub mod transaction;
pub mod core;
pub mod backoff;

// Adapters: Postgres, the caches, HTTP and the service manager.
pub mod tls;
pub mod postgres;
pub mod targets;
pub mod admin;

// Connects them.
pub mod runtime;

// Entry points: the configuration and the command line.
pub mod config;
pub mod cli;
