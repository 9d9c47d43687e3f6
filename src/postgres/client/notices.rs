//! Notices that servers send unasked. Anybody may answer as the server until it has proved its identity, and a server
//! may repeat a notice for ever. So coherd logs a few per minute, and counts the others.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::server_error::ServerError;

/// Maximum number of notices that coherd logs in [`WINDOW`], over all connections.
const LOGGED_MAX: u32 = 20;

/// Maximum number of characters of a server's text that coherd shows.
const WORDS_CHARS_MAX: usize = 1_000;

const WINDOW: Duration = Duration::from_mins(1);

static PACE: Mutex<Pace> = Mutex::new(Pace { began: None, logged: 0, skipped: 0 });

struct Pace {
    began: Option<Instant>,
    logged: u32,
    skipped: u64,
}

/// What happens to a notice.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// Logged; holds how many were skipped since the last one that was logged.
    Logged(u64),
    /// The last one that is logged in this window.
    Last,
    Skipped,
}

impl Pace {
    fn next(&mut self, now: Instant) -> Fate {
        if self.began.is_none_or(|began| now.duration_since(began) >= WINDOW) {
            (self.began, self.logged) = (Some(now), 0);
        }
        self.logged = self.logged.saturating_add(1);
        match self.logged {
            ..LOGGED_MAX => Fate::Logged(std::mem::take(&mut self.skipped)),
            LOGGED_MAX => Fate::Last,
            _ => {
                self.skipped = self.skipped.saturating_add(1);
                Fate::Skipped
            }
        }
    }
}

/// A server's text, cut to the length that a log should hold.
pub(in crate::postgres) fn shortened(text: &str) -> String {
    match text.char_indices().nth(WORDS_CHARS_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// Logs a notice, or only counts it.
pub(in crate::postgres) fn log_notice(notice: &ServerError) {
    let fate = PACE.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next(Instant::now());
    let ServerError { code, message, detail, .. } = notice;
    match fate {
        Fate::Logged(0) => tracing::info!(code, message, detail, "notice from Postgres"),
        Fate::Logged(skipped) => {
            tracing::info!(code, message, detail, "notice from Postgres; {skipped} before it were not logged");
        }
        Fate::Last => {
            let seconds = WINDOW.as_secs();
            tracing::info!(
                code,
                message,
                detail,
                "notice from Postgres, which sends many: those of the next {seconds} s are only counted"
            );
        }
        Fate::Skipped => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_are_logged_in_a_window_and_the_others_are_counted() {
        let (mut pace, began) = (Pace { began: None, logged: 0, skipped: 0 }, Instant::now());
        let mut fates: Vec<Fate> = (0..1_000).map(|_| pace.next(began)).collect();
        assert!(fates.drain(..19).all(|fate| fate == Fate::Logged(0)));
        assert_eq!(fates.remove(0), Fate::Last);
        assert!(fates.iter().all(|fate| *fate == Fate::Skipped));
        assert_eq!(pace.next(began + WINDOW), Fate::Logged(980));
        assert_eq!(pace.next(began + WINDOW), Fate::Logged(0));
    }
}
