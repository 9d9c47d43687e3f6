//! Why coherd waits until a commit is visible, and why it strikes a second time.
//!
//! One key, whose row a writer changes; a cache; readers who fill it; a replica that replays when it likes; the daemon,
//! which may be killed at any point. The checker tries **every** order in which their steps can follow one another. What
//! must hold is promise 3: *once the settled watermark has passed a commit, no reader that follows a read protocol, on the
//! primary or on a listed replica, is ever served an older value.*
//!
//! # Why it is built like that
//!
//! A strike removes what is old. It must come after everything that could put the old row back:
//!
//! 1. A commit is in the log, and so with the daemon, before it is visible. Struck then, the key is filled with the old
//!    row again by the next reader of the primary. Hence **the gate** (`coherd::core::Visibility`, used here as it is).
//! 2. A replica replays later. Struck when the commit is visible, the key is filled with the old row by a reader of the
//!    replica. Hence **the second strike**, when it has replayed. Only then does the commit count as settled.
//! 3. A reader may have read before all of that and store afterwards, however late. No strike helps; a **lease** that
//!    falls with its key does, or a **version pointer**, so that what is stored late is stored where nobody looks.
//! 4. A pointer has to move each time it is struck, and to a value it never had. Set to the position of the commit it
//!    would stay where it is at the second strike, and what was stored in between would stay with it.
//!
//! [`table`] has the table of that, one test a cell: the safe ones are looked at state by state, the stale ones must show
//! how. [`broken`] takes away one mechanism after the other. `COHERD_MODEL_STORIES=1` tells each way that was found:
//!
//! ```text
//! COHERD_MODEL_STORIES=1 cargo test --test coherd model:: -- --nocapture
//! ```
//!
//! # What "served" means
//!
//! A reader *begins* when it asks the cache: for the row, or for the version pointer. It notes what is promised at that
//! moment: the highest position that the daemon's watermark or the record in the cache has shown. What it is served, by
//! the cache then or by the database later, must show every commit up to there. A row is the set of commits that show in
//! it, so "older" means that one of those is missing. The two exceptions are part of the design and are told to users:
//!
//! - A cache that goes back in time takes its record with it; promised is what that record says, until the daemon has
//!   asked the cache again. Whoever asks the daemon instead of the record (`/wait`) within that moment can be wrong.
//! - While a replica is so far behind that it is not waited for (`max_replica_lag`), nothing is promised, until it is
//!   waited for again and what its readers may have stored is struck.
//!
//! # What is modelled how
//!
//! - **Commits** may change two rows that make one key, so that one is in the log, and decoded, while another is still
//!   invisible, and they become visible in either order. One row, which is locked until its writer is visible, has fewer
//!   ways. The replica shows a commit when it has replayed it, be it visible on the primary or not.
//! - **Readers** begin again for ever, take any time and die at any point. A lease is given to all who ask while it
//!   stands, and outlives a fill: more can happen than with one that is for the first reader only.
//! - **Leases and pointers** are names; a new one is any that nobody holds. That is what a nonce is, and a pointer that
//!   moves to max(old + 1, clock), as long as the cache's clock does not go back behind an evicted or restored pointer.
//! - **The cache** drops anything at any moment, and goes back once to one saved state. Expiry is eviction.
//! - **The daemon** is coherd's gate and coherd's verdict on a record, and between them a small one of the model's own
//!   with the same stages as the core. One delivery is in flight, everything ready leaves with it, the record behind the
//!   strike. A key whose commits are replayed everywhere before the first strike leaves is struck once.
//! - **A standby as source** may have a commit decoded before it is replayed, which Postgres does not do.
//! - **A crash** loses its memory; slot and cache stay. What it had sent last may be carried out at any time later.
//! - **A gap** is healed by a strike of the one key: that a flush finds every key, and a lease no later than its key, is
//!   for other tests to show.
//!
//! # What is not modelled, and could hide something
//!
//! - Several deliveries in flight. They are carried out in order on one connection, so the record of a later one is
//!   behind the strikes of an earlier one; a refusal in between is modelled within one delivery.
//! - The pieces of a large transaction, keys that become scopes, several targets, several keys: their watermarks are the
//!   core's, whose own tests cover them.
//! - A lost replication connection, a lost slot, failover of Postgres, the WAL budget. What the answer of the source is
//!   worth after it reconnects is `Visibility::start_over`'s.
//! - Several replicas: waiting for the slowest of them is waiting for one.
//! - Time. Every step may take any time, so time-outs are steps like any other; only that something does *not* take
//!   longer cannot be used, and nothing here relies on it. `repeat_after` narrows the window of plain readers and closes
//!   nothing, so it has no cell.
//! - Hidden loss below the model: that Redis carries out a function as one step, and that `pg_current_snapshot()` and
//!   `pg_last_wal_replay_lsn()` mean what the manual says (`tests/source` asks real servers).
//!
//! A longer run: `COHERD_MODEL_READERS=3`, `COHERD_MODEL_COMMITS=2`, `COHERD_MODEL_FAULTS=1`, `COHERD_MODEL_THREADS=2`, or `make model`.

mod broken;
mod check;
mod daemon;
mod reader;
mod setup;
mod story;
mod system;
mod table;
mod world;
