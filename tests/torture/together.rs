//! Faults that coincide: the daemon cannot reach the cache and `wal_budget` is used up; the table leaves the
//! publication, changes and comes back; the walsender stops; the replica lags. Each happens alone and together.

use std::time::{Duration, Instant};

use super::Promise;
use super::faults::{Fault, Faults, Repair, State};
use super::rows::Announced;
use crate::support::process::{Signal, send_signal};
use crate::support::wait::until_within;

/// How much log the slot may hold back: little, so that it is used up soon.
pub const BUDGET: &str = "8MiB";
/// How long using it up may take.
const SPEND_MOST: Duration = Duration::from_secs(4);
const WRITE: &str = "INSERT INTO bulk SELECT repeat('x', 1000) FROM generate_series(1, 4000)";
/// Below this, the slot has released its log.
const FREE_BYTES: u64 = 2 << 20;
/// Rows that change while their table is not published.
const DRIFT_ROWS: usize = 12;
/// How long the daemon may take to look at the catalogue after everything is fixed.
const LOOK_MOST: Duration = Duration::from_mins(1);

/// How often each of these faults happens, relative to all others.
pub const WEIGHTS: &[(u32, Fault)] =
    &[(5, Fault::CacheAway), (8, Fault::Suspend), (8, Fault::Drift), (5, Fault::StopWalsender), (40, Fault::Together)];

/// Writes that are in no stream. They count as settled only once the daemon has looked at the catalogue.
pub struct Unseen {
    committed: Instant,
    writes: Vec<Announced>,
}

impl Faults {
    /// Starts a fault. Returns whether it makes sense at the moment.
    pub fn inflict_together(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::CacheAway => self.cache_away(),
            Fault::Suspend => self.cache_away() && self.spend_budget(),
            Fault::Drift => self.drift(),
            Fault::StopWalsender => self.stop_walsender(),
            Fault::Together => self.all_at_once(),
            _ => false,
        }
    }

    /// Starts all faults. Writers should pause afterwards until everything is fixed.
    fn all_at_once(&mut self) -> bool {
        self.network.refuse(true);
        self.network.cut();
        let is_suspended = self.spend_budget();
        // A commit that waits makes the daemon repeat the flush with the keys of later commits, which would hide a
        // missing flush.
        self.follow_standby("");
        // The target misses what comes now, or the stream has not read it, and the replica has not replayed it but is
        // waited for.
        let (back_ms, replayed_ms) = if self.world.promise == Promise::Always { (1500, 2500) } else { (400, 500) };
        let stops = self.rng.u32(..3) == 0;
        if stops {
            self.stop_walsender();
        }
        self.hold_replay();
        let writes = Duration::from_millis(self.rng.u64(50..300));
        self.tend_until(Instant::now() + writes);
        let drifted = self.rng.bool() && self.drift();
        let back = self.rng.u64(50..back_ms);
        self.at(back, Repair::Cache);
        let replayed = back + self.rng.u64(200..replayed_ms);
        self.at(replayed, Repair::Replay);
        is_suspended || drifted || stops
    }

    fn cache_away(&mut self) -> bool {
        self.network.refuse(true);
        self.network.cut();
        self.later(2500, Repair::Cache)
    }

    /// Writes log until the target is suspended, and until the slot has released the log. Otherwise the daemon would
    /// suspend the target again as soon as it is back, and flush it again.
    fn spend_budget(&mut self) -> bool {
        let end = Instant::now() + SPEND_MOST;
        let mut is_suspended = false;
        while self.daemon_is == State::Up && Instant::now() < end {
            let status = self.daemon.status();
            is_suspended |= status["targets"][0]["suspended"] == true;
            let is_free = status["slot_retained_bytes"].as_u64().is_some_and(|bytes| bytes < FREE_BYTES);
            if is_suspended && is_free {
                break;
            }
            self.sql.run(if is_suspended { "CHECKPOINT" } else { WRITE });
        }
        self.world.history.count("targets: suspended", usize::from(is_suspended));
        is_suspended
    }

    fn stop_walsender(&mut self) -> bool {
        let slot = &self.world.slot;
        let rows = self.sql.rows(&format!("SELECT active_pid FROM pg_replication_slots WHERE slot_name = '{slot}'"));
        let pid = rows.first().and_then(|row| row[0].parse().ok());
        pid.is_some_and(|pid| {
            send_signal(pid, Signal::Stop);
            self.later(2500, Repair::Walsender(pid))
        })
    }

    /// Changes rows in a transaction in which their table is not published. Nothing of it is in the stream.
    fn drift(&mut self) -> bool {
        let publication = self.world.slot.clone();
        let columns = self.sql.one(PUBLISHED_COLUMNS);
        self.sql
            .run(&format!("BEGIN; SET LOCAL lock_timeout = '500ms'; ALTER PUBLICATION {publication} DROP TABLE hot"));
        let mut writes = Vec::new();
        for _ in 0..self.rng.usize(1..=DRIFT_ROWS) {
            let row = super::writers::row(&mut self.rng);
            let update = format!(
                "UPDATE hot SET v = nextval('v') WHERE id = (SELECT id FROM hot WHERE id = {row} FOR UPDATE SKIP LOCKED) RETURNING v"
            );
            let value = self.sql.rows(&update).first().map(|its| its[0].parse().expect("a version"));
            if let Some(value) = value {
                writes.push(self.world.rows.announce(row, Some(value)));
                self.world.tell(row, &format!("{value} is written while the table is not published"));
            }
        }
        self.sql.run(&format!("ALTER PUBLICATION {publication} ADD TABLE hot {columns}; COMMIT"));
        self.world.history.count("writes: in no stream", writes.len());
        self.unseen.push(Unseen { committed: Instant::now(), writes });
        true
    }

    /// Marks the unpublished writes that the daemon has seen in the catalogue by now. All of them must settle before
    /// any later commit.
    pub fn see(&mut self) {
        if self.unseen.is_empty() || self.daemon_is != State::Up {
            return;
        }
        // Read the clock first: the look is then no earlier than computed.
        let now = Instant::now();
        let Some(age) = self.daemon.status()["catalogue_age_seconds"].as_f64() else { return };
        let looked = now.checked_sub(Duration::from_secs_f64(age));
        let is_seen = |unseen: &Unseen| looked.is_some_and(|looked| unseen.committed < looked);
        if !self.unseen.iter().any(is_seen) {
            return;
        }
        // This position lies past everything that may have settled before the look.
        self.sql.run("SELECT pg_logical_emit_message(true, 'torture', 'behind the look')");
        let token: u64 = self.sql.one("SELECT coherd.token()").parse().expect("a position");
        for unseen in self.unseen.extract_if(.., |unseen| is_seen(unseen)) {
            for write in unseen.writes {
                self.world.rows.committed(write, token);
                self.world.tell(write.row, &format!("the look at the catalogue came before {token}"));
            }
        }
    }

    /// Waits until the daemon has seen all of these writes.
    pub fn see_all(&mut self) {
        until_within(LOOK_MOST, "the daemon has looked at the catalogue", || {
            self.see();
            self.unseen.is_empty().then_some(())
        });
    }
}

/// `(id)`, or the empty string if all columns are published.
const PUBLISHED_COLUMNS: &str = "SELECT coalesce('(' || (SELECT string_agg(a.attname, ', ') FROM pg_attribute a
    WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs::int2[])) || ')', '')
    FROM pg_publication_rel r WHERE r.prrelid = 'hot'::regclass";
