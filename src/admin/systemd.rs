//! Reports to systemd (sd_notify(3)): that the daemon is ready, what it is doing, that it is alive, and that it stops.
//! Reports nothing if `NOTIFY_SOCKET` is not set.

use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior};
use tracing::warn;

use crate::admin::status::{Board, State, Status, summary};

/// How often a changed status line is sent.
const PACE: Duration = Duration::from_millis(500);

/// The last status line.
const FAREWELL: &str = "stopping: what has been read is delivered first";

/// Reports to the service manager until `shutdown` completes, and then reports that the service stops.
pub async fn tell(board: Board, shutdown: impl Future<Output = ()>) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let timeout = sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero());
    let mut pace = every(PACE);
    // sd_watchdog_enabled(3) recommends half of the timeout.
    let mut feed = timeout.map(|timeout| every(timeout / 2));
    let mut shutdown = pin!(shutdown);
    let mut teller = Teller::default();
    loop {
        let words = tokio::select! {
            biased;
            () = &mut shutdown => break,
            () = tick(&mut feed) => food(&board.status(), Instant::now()),
            _ = pace.tick() => teller.news(&board.status()),
        };
        teller.send(words).await;
    }
    teller.send(vec![Word::Stopping, Word::Status(FAREWELL.to_owned())]).await;
}

fn every(pace: Duration) -> Interval {
    let mut interval = tokio::time::interval(pace);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Word {
    Ready,
    Status(String),
    Watchdog,
    Stopping,
}

/// Sends the watchdog message only while the loop turns: systemd is to end a loop that hangs.
fn food(status: &Status, now: Instant) -> Vec<Word> {
    if status.is_alive(now) { vec![Word::Watchdog] } else { Vec::new() }
}

#[derive(Debug, Default)]
struct Teller {
    is_ready: bool,
    said: String,
    failed: bool,
}

impl Teller {
    fn news(&mut self, status: &Status) -> Vec<Word> {
        let mut words = Vec::new();
        // A standby is a working service. So is a halted daemon: it has to stay up until a person decides, and systemd
        // would end a daemon that never reports ready.
        let works = matches!(status.state, State::Streaming | State::Standby { .. });
        if works && !self.is_ready {
            self.is_ready = true;
            words.push(Word::Ready);
        }
        let line = summary(status);
        if line != self.said {
            self.said.clone_from(&line);
            words.push(Word::Status(line));
        }
        words
    }

    /// Sends one datagram. Uses another thread, because the socket blocks while systemd is busy, and nothing may hold
    /// up the loop.
    async fn send(&mut self, words: Vec<Word>) {
        if words.is_empty() {
            return;
        }
        let sent = tokio::task::spawn_blocking(move || {
            let states = words.iter().map(|word| match word {
                Word::Ready => NotifyState::Ready,
                Word::Status(line) => NotifyState::Status(line),
                Word::Watchdog => NotifyState::Watchdog,
                Word::Stopping => NotifyState::Stopping,
            });
            sd_notify::notify(&states.collect::<Vec<_>>())
        });
        let failed = match sent.await {
            Ok(Ok(())) => false,
            Ok(Err(error)) => self.complain(&error.to_string()),
            Err(_) => self.complain("the thread that tells it has ended"),
        };
        self.failed = failed;
    }

    /// Warns once per series of failures.
    fn complain(&self, error: &str) -> bool {
        if !self.failed {
            warn!("cannot report the state to systemd (NOTIFY_SOCKET): {error}; with a watchdog, systemd ends coherd");
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::TURN_MAX;

    fn board() -> Board {
        Board::new("coherd", "coherd", [("cache", "redis")])
    }

    #[test]
    fn ready_is_said_once_and_not_while_it_starts() {
        let (board, mut teller) = (board(), Teller::default());
        let is_ready = |teller: &mut Teller| teller.news(&board.status()).contains(&Word::Ready);
        assert!(!is_ready(&mut teller));
        board.enter(State::Reconnecting { reason: "refused".to_owned() });
        assert!(!is_ready(&mut teller));
        board.enter(State::Standby { reason: "slot in use".to_owned() });
        assert!(is_ready(&mut teller), "a standby is a working service");
        board.enter(State::Streaming);
        assert!(!is_ready(&mut teller));
    }

    #[test]
    fn a_daemon_that_halts_at_its_start_is_not_ended_for_never_being_ready() {
        let board = board();
        board.enter(State::Streaming);
        board.target(0, |target| target.halted = Some("the slot is lost".to_owned()));
        let words = Teller::default().news(&board.status());
        let [Word::Ready, Word::Status(status)] = words.as_slice() else { panic!("{words:?}") };
        assert!(status.starts_with("halted: target cache: the slot is lost"), "{status}");
    }

    #[test]
    fn the_status_line_is_written_only_where_it_has_changed() {
        let (board, mut teller) = (board(), Teller::default());
        assert_eq!(teller.news(&board.status()).len(), 1);
        assert_eq!(teller.news(&board.status()), []);
        board.enter(State::Draining);
        assert_eq!(teller.news(&board.status()), [Word::Status("draining: delivering what has been read".to_owned())]);
    }

    #[test]
    fn a_loop_that_hangs_is_not_fed() {
        let status = board().status();
        assert_eq!(food(&status, Instant::now()), [Word::Watchdog]);
        assert_eq!(food(&status, Instant::now() + TURN_MAX), []);
    }
}
