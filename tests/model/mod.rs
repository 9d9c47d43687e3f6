//! Why coherd waits until a commit is visible, and why it invalidates a second time.
//!
//! One key, whose row a writer changes; a cache; readers who fill it; a replica that replays when it likes; and the daemon,
//! which is **the shipped core** ([`coherd::core::Core`]) and may be killed at any point. The checker tries *every* order in
//! which their steps can follow one another. What must hold is promise 3: *once the settled watermark has passed a commit, no
//! reader that follows a read protocol, on the primary or on a held replica, is ever served an older value.*
//!
//! # Why it is built like that
//!
//! An invalidation removes what is old. It must come after everything that could put the old row back:
//!
//! 1. A commit is in the log, and so with the daemon, before it is visible. Invalidated then, the key is filled with the old
//!    row again by the next reader of the primary. Hence **the gate**.
//! 2. A replica replays later. Invalidated when the commit is visible, the key is filled with the old row by a reader of the
//!    replica. Hence **the replica pass**, when it has replayed. Only then does the commit count as settled.
//! 3. A reader may have read before all of that and store afterwards, however late. No invalidation helps; a **lease** that
//!    goes with its key does, or a **version pointer**, so that what is stored late is stored where nobody looks.
//! 4. A pointer has to move each time, and to a value it never had. Set to the position of the commit it would stay where it
//!    is in the replica pass, and what was stored in between would stay with it.
//!
//! [`table`] has the table of that, one test a cell: the safe ones are looked at state by state, the stale ones must show
//! how. [`broken`] takes away one mechanism after the other, and [`together`] lets several things happen at once.
//! `COHERD_MODEL_STORIES=1` tells each way that was found:
//!
//! ```text
//! COHERD_MODEL_STORIES=1 cargo test --test coherd model:: -- --nocapture
//! ```
//!
//! # What "served" means
//!
//! A reader *begins* when it asks the cache: for the row, or for the version pointer. It notes what is promised at that
//! moment: the highest position that the daemon's watermark, the record in the cache, or the slot where the daemon attests it
//! has shown. What it is served, by the cache then or by the database later, must show every commit up to there. A row is the
//! set of commits that show in it, so "older" means that one of those is missing. The two exceptions are part of the design
//! and are told to users:
//!
//! - A cache that goes back in time takes its record with it; promised is what that record says, until the daemon has loaded
//!   it, and taken back its attestation. Whoever asks the daemon or SQL instead of the record within that moment can be wrong.
//! - While a replica is not held, nothing is promised, until the daemon says that it is held again.
//!
//! # What is modelled how
//!
//! - **The daemon** is the core, driven as the runtime drives it, and a worker of the model's own that does what
//!   `targets::delivery` does: it sends deliveries in order, flushes beside them, loads the record when the connection was lost
//!   or the record was changed, and sends again what is not confirmed.
//! - **Time** has three lengths: a moment, in which whatever is paced is due; long enough for an answer to be late; and long
//!   enough for a silent replica to be left. Every step may take any of them where the cell has it. After each step the clock
//!   is set back ([`coherd::core::Core::rest`]), and sequences are numbered anew in their order.
//! - **Commits** may change two rows that make one key, so that one is in the log, and decoded, while another is still
//!   invisible, and they become visible in either order. The replica shows a commit when it has replayed it, be it visible on
//!   the primary or not.
//! - **Readers** begin again for ever, take any time and die at any point. A lease is given to all who ask while it
//!   stands, and outlives a fill: more can happen than with one that is for the first reader only.
//! - **Leases and pointers** are names; a new one is any that nobody holds. That is what a nonce is, and a pointer that
//!   moves to max(old + 1, clock), as long as the cache's clock does not go back behind an evicted or restored pointer.
//! - **The cache** drops anything at any moment, and goes back once to one saved state, whether the connection breaks then or
//!   not. It writes a record only for the connection that has read it last. Expiry is eviction.
//! - **The strategies** of the table are all the same core: what differs is what the source answers and whether the replica is
//!   listed.
//! - **A standby as source** may have a commit decoded before it is replayed, which Postgres does not do.
//! - **A crash** loses the process; slot and cache stay. What it had sent last may be carried out at any time later.
//! - **A flush** removes the one key: that it finds every key, and a lease no later than its key, is for other tests to show.
//!
//! # What is not modelled, and could hide something
//!
//! - The pieces of a large transaction, keys that become scopes because there are many, several keys.
//! - A lost slot, failover of Postgres, several timelines.
//! - Several replicas: waiting for the slowest of them is waiting for one.
//! - Hidden loss below the model: that Redis carries out a script as one step, and that `pg_current_snapshot()` and
//!   `pg_last_wal_replay_lsn()` mean what the manual says (`tests/postgres` asks real servers).
//!
//! A longer run: `COHERD_MODEL_READERS=3`, `COHERD_MODEL_COMMITS=2`, `COHERD_MODEL_FAULTS=3`, `COHERD_MODEL_CRASHES=2`,
//! `COHERD_MODEL_THREADS=2`, or `make model`. `make mutations` takes away one line of the core after the other
//! (`mutations.tsv`), and wants a unit test or the model to fail each time.

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
