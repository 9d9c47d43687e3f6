//! Those who read through the cache: any number of times, arbitrarily slowly, and they may die at any point.

use super::setup::{Broken, Pointer, Protocol, Reads, Setup};
use super::system::State;
use super::world::{Position, Row, Token};

/// Who gave a reader its row.
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

/// How far a reader has come. `settled` is what readers could know to be settled when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reader {
    /// It has not begun, or is done, or dead; another one may begin in its place.
    Idle,
    /// It knows the version pointer, and not yet what stands under it.
    Knows { pointer: Token, settled: Position },
    /// The cache had nothing. The token is its lease or the pointer; `None` where nothing it stores can count any more.
    Missed { token: Option<Token>, settled: Position },
    /// It has read the database and will store this under the token.
    Holds { token: Token, row: Row },
    /// It was served something older than what had settled when it began.
    Misled(Place),
}

/// What a reader does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Asks the cache: for the row or a lease, or for the version pointer.
    Begin,
    /// Asks the cache for the row under the pointer.
    Look,
    Read(Place),
    Store,
    Die,
}

impl Reader {
    /// Everything it may do next.
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

    /// The lease or pointer in its hands.
    pub fn token(self) -> Option<Token> {
        match self {
            Reader::Knows { pointer: token, .. } | Reader::Holds { token, .. } => Some(token),
            Reader::Missed { token, .. } => token,
            Reader::Idle | Reader::Misled(_) => None,
        }
    }

    /// The pointer under which it has still to look.
    pub fn known(self) -> Option<Token> {
        if let Reader::Knows { pointer, .. } = self { Some(pointer) } else { None }
    }

    /// The same reader, where what it stores under its token can never be read.
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

    /// It has read `row` from the database.
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

    /// The lease that stands, or the pointer; made where there is none. A follower gets the lease of the first.
    fn lease_or_pointer(&self, state: &mut State) -> Token {
        let from_the_bottom = self.is(Broken::PointerReborn) || self.protocol == Protocol::Pointer(Pointer::ToCommit);
        let new = if from_the_bottom { 0 } else { state.unused_token() };
        *state.cache.token.get_or_insert(new)
    }
}
