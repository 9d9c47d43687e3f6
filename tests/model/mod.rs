//! Why coherd waits until a commit is visible, and why it invalidates twice.
//!
//! The model has one key, whose row a writer changes; a cache; readers that fill it; a replica that replays at any
//! time; and the daemon, which is **the shipped core** ([`coherd::core::Core`]) and may be killed at any point. The
//! checker tries *every* order of their steps. Promise 3 must hold: *once the settled watermark has passed a commit, no
//! reader that follows a read protocol, on the primary or on a held replica, is ever served an older value.*
//!
//! # Why coherd works this way
//!
//! An invalidation removes an old value. It must come after everything that could put the old row back:
//!
//! 4. A pointer must move each time, to a value that it never had. If it held the commit's position, the replica pass
//!    would not move it, and values stored in between would remain.
//!
//! [`table`] has one test for each cell of that table. In a safe cell the checker visits every state; in a stale cell
//! it must find a counterexample. [`broken`] removes one mechanism at a time, and [`together`] combines several events.
//! `COHERD_MODEL_STORIES=1` prints each path that the checker found:
//!
//! ```text
//! COHERD_MODEL_STORIES=1 cargo test --test coherd model:: -- --nocapture
//! ```
//!
//! # What "served" means
//!
//! A reader *begins* when it asks the cache for the row or for the version pointer. It notes what is promised at that
//! moment: the highest position shown by the daemon's watermark, by the record in the cache, or by the slot while the
//! daemon attests it. What it is served, by the cache then or by the database later, must show every commit up to that
//! position. A row is the set of commits that show in it, so "older" means that one of those is missing. Two exceptions
//! are part of the design and documented for users:
//!
//! - While a replica is not held, nothing is promised, until the daemon says that it is held again.
//!
//! # How each part is modelled
//!
//! - **A flush** removes the one key. Other tests show that a flush finds every key, and removes a lease no later than
//!   its key.
//!
//! # What is not modelled and could hide an error
//!
//! - Assumptions about the layers below: that Redis executes a script as one step, and that `pg_current_snapshot()` and
//!   `pg_last_wal_replay_lsn()` mean what the manual says (`tests/postgres` asks real servers).
//!
//! For a longer run: `COHERD_MODEL_READERS=3`, `COHERD_MODEL_COMMITS=2`, `COHERD_MODEL_FAULTS=3`,
//! `COHERD_MODEL_CRASHES=2`, `COHERD_MODEL_THREADS=2`, or `make model`. `make mutations` removes one line of the core
//! at a time (`mutations.tsv`); a unit test or the model must fail each time.

mod broken;
mod check;
mod daemon;
mod form;
mod going_back;
mod reader;
mod setup;
mod story;
mod system;
mod table;
mod together;
mod world;
