//! Readers of the cache. They read any number of times, arbitrarily slowly, and may die at any point.

use super::setup::{Broken, Pointer, Protocol, Reads, Setup};
use super::system::State;
use super::world::{Position, Row, Token};

/// Where a reader got its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    Cache,
    Primary,
    Replica,
}

impl Reads {
    pub fn places(self) -> &'static [Place] {
        match self {
            Reads::Primary => &[Place::Primary],
            Reads::Replica => &[Place::Replica],
            Reads::Both => &[Place::Primary, Place::Replica],
        }
    }
}

/// The state of a reader. `settled` is the position that it could know to be settled when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reader {
    /// It has not begun, has finished or has died. Another reader may begin in its place.
    Idle,
    /// It knows the version pointer, but not yet the value under it.
    Knows { pointer: Token, settled: Position },
    /// The cache had no value. The token is its lease or the pointer; `None` if no reader can see what it will store.
    Missed { token: Option<Token>, settled: Position },
    /// It has read the database and will store the row under the token.
    Holds { token: Token, row: Row },
    /// It got a value older than what had settled when it began.
    Misled(Place),
}

/// The next step of a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Asks the cache for the row or a lease, or for the version pointer.
    Begin,
    /// Asks the cache for the row under the pointer.
    Look,
    Read(Place),
    Store,
    Die,
}

impl Reader {
    /// Every step that may come next.
    pub fn steps(self, reads: Reads) -> Vec<Step> {
        match self {
            Reader::Idle => vec![Step::Begin],
            Reader::Knows { .. } => vec![Step::Look, Step::Die],
            Reader::Missed { .. } => {
                let places = reads.places().iter().map(|place| Step::Read(*place));
                places.chain([Step::Die]).collect()
            }
            Reader::Holds { .. } => vec![Step::Store, Step::Die],
            Reader::Misled(_) => Vec::new(),
        }
    }

    /// The lease or pointer that the reader has.
    pub fn token(self) -> Option<Token> {
        match self {
            Reader::Knows { pointer: token, .. } | Reader::Holds { token, .. } => Some(token),
            Reader::Missed { token, .. } => token,
            Reader::Idle | Reader::Misled(_) => None,
        }
    }

    /// The pointer under which the reader has yet to look.
    pub fn known(self) -> Option<Token> {
        if let Reader::Knows { pointer, .. } = self { Some(pointer) } else { None }
    }

    /// The same reader, if nobody can read what it stores under its token.
    pub fn bereft(self) -> Reader {
        match self {
            Reader::Missed { settled, .. } => Reader::Missed { token: None, settled },
            Reader::Holds { .. } => Reader::Idle,
            reader => reader,
        }
    }

    /// The same reader, with another name for its token.
    pub fn renamed(self, rename: impl Fn(Token) -> Token) -> Reader {
        match self {
            Reader::Knows { pointer, settled } => Reader::Knows { pointer: rename(pointer), settled },
            Reader::Missed { token, settled } => Reader::Missed { token: token.map(rename), settled },
            Reader::Holds { token, row } => Reader::Holds { token: rename(token), row },
            reader => reader,
        }
    }

    /// The state after the reader has read `row` from the database.
    pub fn has_read(token: Option<Token>, row: Row) -> Reader {
        token.map_or(Reader::Idle, |token| Reader::Holds { token, row })
    }
}

impl Setup {
    pub fn step_of_reader(&self, state: &mut State, index: usize, step: Step) {
        let settled = if state.is_excused || state.is_too_late { 0 } else { state.promised };
        let reader = state.readers[index];
        state.readers[index] = match (reader, step) {
            (Reader::Idle, Step::Begin) => match self.protocol {
                Protocol::Pointer(_) => Reader::Knows { pointer: self.lease_or_pointer(state), settled },
                Protocol::Plain | Protocol::Lease => self.look(state, 0, settled),
            },
            (Reader::Knows { pointer, settled }, Step::Look) => self.look(state, pointer, settled),
            (Reader::Missed { token, settled }, Step::Read(place)) => {
                let replica = Row::at(state.postgres.replayed);
                let row = if place == Place::Replica { replica } else { state.postgres.visible };
                if row.is_older_than(settled) { Reader::Misled(place) } else { Reader::has_read(token, row) }
            }
            (Reader::Holds { token, row }, Step::Store) => {
                match self.protocol {
                    Protocol::Lease if state.cache.token != Some(token) => {}
                    Protocol::Plain | Protocol::Lease => state.cache.put(0, row),
                    Protocol::Pointer(_) => state.cache.put(token, row),
                }
                Reader::Idle
            }
            _ => Reader::Idle,
        };
    }

    fn look(&self, state: &mut State, under: Token, settled: Position) -> Reader {
        match state.cache.get(under) {
            Some(row) if row.is_older_than(settled) => Reader::Misled(Place::Cache),
            Some(_) => Reader::Idle,
            None => {
                let token = if self.protocol == Protocol::Lease { self.lease_or_pointer(state) } else { under };
                Reader::Missed { token: Some(token), settled }
            }
        }
    }

    /// The existing lease or pointer; creates one if there is none. A later reader gets the first reader's lease.
    fn lease_or_pointer(&self, state: &mut State) -> Token {
        let from_the_bottom = self.is(Broken::PointerReborn) || self.protocol == Protocol::Pointer(Pointer::ToCommit);
        let new = if from_the_bottom { 0 } else { state.unused_token() };
        *state.cache.token.get_or_insert(new)
    }
}
