//! Where invalidations wait to leave for the first time.

/// A place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Nobody has asked whether they may.
    Gathering,
    /// That has been asked.
    Asked,
    /// The answer was no, or none came in time.
    Blocked,
    /// They may leave.
    Ready,
}

/// Something for each [`Place`].
#[derive(Debug, Default)]
pub struct Places<T> {
    gathering: T,
    asked: T,
    blocked: T,
    ready: T,
}

impl<T> Places<T> {
    /// What is for this one.
    pub const fn at(&self, place: Place) -> &T {
        match place {
            Place::Gathering => &self.gathering,
            Place::Asked => &self.asked,
            Place::Blocked => &self.blocked,
            Place::Ready => &self.ready,
        }
    }

    /// What is for this one.
    pub const fn at_mut(&mut self, place: Place) -> &mut T {
        match place {
            Place::Gathering => &mut self.gathering,
            Place::Asked => &mut self.asked,
            Place::Blocked => &mut self.blocked,
            Place::Ready => &mut self.ready,
        }
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        [&self.gathering, &self.asked, &self.blocked, &self.ready].into_iter()
    }

    /// All of them.
    pub fn all_mut(&mut self) -> impl Iterator<Item = &mut T> {
        [&mut self.gathering, &mut self.asked, &mut self.blocked, &mut self.ready].into_iter()
    }
}
