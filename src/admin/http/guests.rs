//! The open connections, and how long each has had no request. A probe must get an answer however many connections
//! others hold open, so the connection that has been silent longest makes room.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

/// How long a connection may be open without a request.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// How long a request head may take from its first byte to its end.
const HEAD_WITHIN: Duration = Duration::from_secs(5);

/// The most bytes of a request head. Without this limit, each connection could use 400 kB (hyper's limit).
const HEAD_BYTES_MAX: usize = 16 << 10;

/// All connections.
#[derive(Debug, Clone, Default)]
pub(super) struct Guests(Arc<Mutex<Idle>>);

/// The connections without a request, the one that has been silent longest first.
#[derive(Debug, Default)]
struct Idle {
    next: u64,
    guests: BTreeMap<u64, Arc<Mutex<State>>>,
}

/// One connection.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    all: Guests,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// Its place among the connections without a request; `None` while a request is being answered.
    place: Option<u64>,
    since: Instant,
    /// When the first byte of a request head arrived, and how many bytes have arrived.
    head: Option<(Instant, usize)>,
    /// Whether it must close to make room.
    evicted: bool,
    waker: Option<Waker>,
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Leave {
    #[error("others need the connection")]
    Evicted,
    #[error("no request came in time")]
    Late,
    #[error("the head of the request has more than {HEAD_BYTES_MAX} bytes")]
    TooLarge,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Guests {
    /// Registers a new connection.
    pub(super) fn admit(&self) -> Guest {
        let state = State { place: None, since: Instant::now(), head: None, evicted: false, waker: None };
        let guest = Guest { all: self.clone(), state: Arc::new(Mutex::new(state)) };
        guest.falls_silent();
        guest
    }

    /// Makes the connection that has been silent longest close. False if every connection has a request.
    pub(super) fn evict_one(&self) -> bool {
        let Some((_, state)) = lock(&self.0).guests.pop_first() else { return false };
        let mut state = lock(&state);
        (state.place, state.evicted) = (None, true);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        true
    }
}

/// While this value lives, a request of the connection is being answered.
pub(super) struct Asking(Guest);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.falls_silent();
    }
}

impl Guest {
    /// Its request head is complete, and the request is being answered.
    pub(super) fn asks(&self) -> Asking {
        self.leaves_the_idle();
        lock(&self.state).head = None;
        Asking(self.clone())
    }

    /// Lock order: always the lock of all connections before that of one.
    fn falls_silent(&self) {
        let mut idle = lock(&self.all.0);
        let mut state = lock(&self.state);
        if state.evicted {
            return;
        }
        idle.next += 1;
        (state.place, state.since, state.head) = (Some(idle.next), Instant::now(), None);
        let next = idle.next;
        idle.guests.insert(next, self.state.clone());
    }

    fn leaves_the_idle(&self) {
        let mut idle = lock(&self.all.0);
        if let Some(place) = lock(&self.state).place.take() {
            idle.guests.remove(&place);
        }
    }

    /// Unregisters a closed connection.
    pub(super) fn left(&self) {
        self.leaves_the_idle();
        lock(&self.state).evicted = true;
    }

    /// Until when it may stay silent. `waker` is woken if it is evicted. `None` while a request is being answered.
    pub(super) fn deadline(&self, waker: &Waker) -> Result<Option<Instant>, Leave> {
        let mut state = lock(&self.state);
        if state.evicted {
            return Err(Leave::Evicted);
        }
        state.waker = Some(waker.clone());
        let deadline = match state.head {
            Some((began, _)) => began + HEAD_WITHIN,
            None => state.since + IDLE_MAX,
        };
        if state.place.is_none() {
            return Ok(None);
        }
        if Instant::now() >= deadline { Err(Leave::Late) } else { Ok(Some(deadline)) }
    }

    /// Counts bytes of a request head that have arrived.
    pub(super) fn said(&self, bytes: usize) -> Result<(), Leave> {
        let mut state = lock(&self.state);
        if state.place.is_none() || bytes == 0 {
            return Ok(());
        }
        let (_, count) = state.head.get_or_insert((Instant::now(), 0));
        *count += bytes;
        if *count > HEAD_BYTES_MAX { Err(Leave::TooLarge) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_been_silent_for_longest_makes_room_and_who_asks_does_not() {
        let guests = Guests::default();
        let [first, second, third] = [(); 3].map(|()| guests.admit());
        let asking = first.asks();
        let is_out = |guest: &Guest| guest.deadline(Waker::noop()) == Err(Leave::Evicted);
        assert!(guests.evict_one() && is_out(&second) && !is_out(&third));
        // From here on, the first is behind the third.
        drop(asking);
        assert!(guests.evict_one() && is_out(&third) && !is_out(&first));
        first.left();
        assert!(!guests.evict_one(), "nobody is left");
    }

    #[test]
    fn a_head_is_bounded_and_counts_from_its_first_byte_and_an_answer_begins_anew() {
        let guest = Guests::default().admit();
        let first = guest.deadline(Waker::noop()).unwrap().unwrap();
        guest.said(HEAD_BYTES_MAX).unwrap();
        let then = guest.deadline(Waker::noop()).unwrap().unwrap();
        assert!(then < first && then > Instant::now());
        assert_eq!(guest.said(1), Err(Leave::TooLarge));
        let asking = guest.asks();
        assert_eq!((guest.deadline(Waker::noop()), guest.said(1 << 20)), (Ok(None), Ok(())));
        drop(asking);
        assert!(guest.deadline(Waker::noop()).unwrap().unwrap() > then && guest.said(1).is_ok());
    }
}
