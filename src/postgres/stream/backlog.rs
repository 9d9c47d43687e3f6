//! Whether the stream reads a backlog, and whether its next read waits for the socket to fill.
//!
//! A walsender makes one send per message. Reading each message as it arrives wakes coherd as often, and takes that time
//! from the walsender and the writers. On the same machine the walsender may then never catch up: it was seen to stay
//! 16 ms behind for hundreds of milliseconds, at only five commits a millisecond. So when much arrives, or the walsender
//! is late, coherd sleeps for [`PAUSE`] before it reads.
//!
//! The thread really sleeps: a poller reports edges, so it would wake the thread at each arrival all the same. Reading
//! much less often is slower again (`docs/architecture/speed.md`).

use std::time::Duration;

use tokio::time::Instant;

use crate::pgoutput::PgTime;

/// This much within [`WINDOW`] is a backlog: fifty commits of one row in each millisecond.
const BEHIND_BYTES: usize = 16 * 1024;
/// This much is enough for pauses: eight such commits.
const BUSY_BYTES: usize = 2560;
const WINDOW: Duration = Duration::from_millis(2);
const PAUSE: Duration = Duration::from_micros(200);

/// A walsender is late if it sends a commit this much later than usual, in microseconds.
const LATE_MICROS: i64 = 2000;
/// How long the least lateness counts as usual, at least.
const USUAL_FOR: Duration = Duration::from_secs(10);

/// What was read lately.
pub(super) struct Backlog {
    /// Whether pauses pay when much arrives. They do not over a unix socket, whose buffer is small.
    pauses: bool,
    began: Instant,
    bytes: usize,
    /// Bytes of the window before, if this one follows it at once: a backlog does not end with each window.
    bytes_before: usize,
    read: Instant,
    /// The next read waits.
    pub(super) is_due: bool,
    /// How late the walsender sends commits at least, in microseconds, since `least_since` and in the period before: the
    /// time from a commit to its message, both by the server's clock. The flush to disk is part of it, and so is
    /// decoding, so what is late is late compared with this.
    least: [i64; 2],
    least_since: Instant,
    is_late: bool,
}

impl Backlog {
    pub(super) fn new(pauses: bool) -> Backlog {
        let (now, least, is_due, is_late) = (Instant::now(), [i64::MAX; 2], false, false);
        Backlog { pauses, began: now, bytes: 0, bytes_before: 0, read: now, is_due, least, least_since: now, is_late }
    }

    /// So many bytes were read.
    pub(super) fn read(&mut self, count: usize) {
        let now = Instant::now();
        if now.duration_since(self.began) > WINDOW {
            let follows = now.duration_since(self.began) <= 2 * WINDOW;
            (self.bytes_before, self.bytes) = (if follows { self.bytes } else { 0 }, 0);
            self.began = now;
        }
        self.bytes = self.bytes.saturating_add(count);
        self.read = now;
        self.is_due = self.is_late || (self.pauses && self.arrived() >= BUSY_BYTES);
    }

    /// The most bytes in a window, of this one and the one before.
    fn arrived(&self) -> usize {
        self.bytes.max(self.bytes_before)
    }

    /// A commit was read, and when the server sent it.
    pub(super) fn committed(&mut self, at: PgTime, sent: PgTime) {
        let late = sent.0.saturating_sub(at.0);
        if self.read.duration_since(self.least_since) > USUAL_FOR {
            (self.least, self.least_since) = ([i64::MAX, self.least[0]], self.read);
        }
        self.least[0] = self.least[0].min(late);
        self.is_late = late.saturating_sub(self.least[0].min(self.least[1])) > LATE_MICROS;
    }

    pub(super) fn is_here(&self) -> bool {
        self.arrived() >= BEHIND_BYTES && self.began.elapsed() <= 2 * WINDOW
    }

    /// Pauses before the next read, once.
    pub(super) fn pause(&mut self) {
        if std::mem::take(&mut self.is_due) {
            std::thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walsender_is_late_compared_with_what_is_usual_on_its_server() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut backlog = Backlog::new(true);
        let mut is_late = |micros: i64, now| {
            backlog.read = now;
            backlog.committed(PgTime(7), PgTime(7 + micros));
            backlog.is_late
        };
        assert!(!is_late(9_000, now), "a slow disk, or the other clock of a standby");
        assert!(!is_late(10_900, now) && is_late(11_100, now) && !is_late(9_500, now));
        assert!(is_late(12_000, after(12)), "the period before still counts");
        assert!(!is_late(13_000, after(24)), "what has lasted is usual");
        assert!(!is_late(-5, after(24)) && is_late(2_500, after(24)));
    }

    #[test]
    fn a_read_waits_only_when_much_arrives_or_the_walsender_is_late() {
        let mut backlog = Backlog::new(true);
        backlog.read(200);
        assert!(!backlog.is_due && !backlog.is_here());
        backlog.read(BUSY_BYTES);
        assert!(backlog.is_due && !backlog.is_here());
        backlog.pause();
        assert!(!backlog.is_due, "once");
        backlog.read(BEHIND_BYTES);
        assert!(backlog.is_due && backlog.is_here());
        backlog.began = Instant::now().checked_sub(WINDOW + Duration::from_micros(1)).unwrap();
        backlog.read(200);
        assert!(backlog.is_due && backlog.is_here(), "the window before counts, if this one follows it");
        backlog.began = Instant::now().checked_sub(3 * WINDOW).unwrap();
        backlog.read(200);
        assert!(!backlog.is_due && !backlog.is_here(), "there was a pause between");

        let mut unix = Backlog::new(false);
        unix.read(BEHIND_BYTES);
        assert!(!unix.is_due && unix.is_here());
        unix.committed(PgTime(0), PgTime(300));
        unix.committed(PgTime(0), PgTime(LATE_MICROS + 301));
        unix.read(200);
        assert!(unix.is_due, "late on either transport");
    }
}
