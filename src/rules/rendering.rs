//! Renders the keys of one row image: literals, values, elements of arrays, hashes.

use super::filter::Use;
use super::value::array;
use super::value::json::{self, Step};
use crate::types::change::Cell;
use crate::types::invalidation::KEY_BYTES_MAX;

/// The most keys that one template gives for one row image. A row with longer arrays flushes the scope.
const ELEMENTS_MAX: usize = 1000;

/// A part of a key, bound to a relation.
#[derive(Debug, Clone)]
pub(super) enum BoundPiece {
    Literal(Vec<u8>),
    Column(BoundPlaceholder),
    /// What follows up to [`BoundPiece::Hash`] is hashed.
    HashFromHere,
    Hash(Use),
}

#[derive(Debug, Clone)]
pub(super) struct BoundPlaceholder {
    pub(super) index: usize,
    pub(super) in_identity: bool,
    pub(super) path: Vec<Step>,
    /// Whether the column, or what is at the path, is JSON.
    pub(super) is_json: bool,
    pub(super) each: bool,
    pub(super) filters: Vec<Use>,
}

/// Buffers that rendering reuses from row to row.
#[derive(Debug, Default)]
pub struct Scratch {
    key: Vec<u8>,
    /// Where the part of the key that is hashed begins.
    hashed_from: usize,
    filtered: [Vec<u8>; 2],
    keys: usize,
}

/// A value is missing from the image, or cannot be read, so that a key is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unknown;

impl Scratch {
    /// Calls `send` with each key of the image whose cells `cell` gives: none if a placeholder is NULL, more than one if a
    /// placeholder stands for each element of an array.
    pub(super) fn render<'a>(
        &mut self,
        pieces: &[BoundPiece],
        cell: &dyn Fn(usize, bool) -> Option<Cell<'a>>,
        send: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Unknown> {
        self.key.clear();
        self.keys = 0;
        self.rest(pieces, cell, send)
    }

    /// Renders what follows what is already in the key.
    fn rest<'a>(
        &mut self,
        pieces: &[BoundPiece],
        cell: &dyn Fn(usize, bool) -> Option<Cell<'a>>,
        send: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Unknown> {
        let mut hash = None;
        for (number, piece) in pieces.iter().enumerate() {
            match piece {
                BoundPiece::Literal(text) => self.key.extend_from_slice(text),
                BoundPiece::HashFromHere => self.hashed_from = self.key.len(),
                BoundPiece::Hash(its) => hash = Some(its),
                BoundPiece::Column(its) if its.each => {
                    let rest = pieces.get(number + 1..).unwrap_or_default();
                    return self.for_each(its, rest, cell, send);
                }
                BoundPiece::Column(its) => {
                    if !self.append_value(its, cell(its.index, its.in_identity))? {
                        return Ok(());
                    }
                }
            }
            if self.key.len() > KEY_BYTES_MAX {
                return Err(Unknown);
            }
        }
        self.keys += 1;
        if self.keys > ELEMENTS_MAX || self.key.len() > KEY_BYTES_MAX {
            return Err(Unknown);
        }
        match hash {
            None => send(&self.key),
            Some(hash) => send(self.hashed(hash)?),
        }
        Ok(())
    }

    /// Appends a value. Returns `false` if it is NULL.
    fn append_value(&mut self, its: &BoundPlaceholder, cell: Option<Cell<'_>>) -> Result<bool, Unknown> {
        let text = match cell {
            Some(Cell::Text(text)) => text,
            Some(Cell::Null) => return self.append_null(&its.filters),
            Some(Cell::Unchanged | Cell::Cut) | None => return Err(Unknown),
        };
        if its.path.is_empty() {
            return self.append(text, &its.filters).map(|()| true);
        }
        match json::find(text, &its.path)?.map(json::text).transpose()?.flatten() {
            None => self.append_null(&its.filters),
            Some(text) => self.append(text.as_bytes(), &its.filters).map(|()| true),
        }
    }

    /// Renders `rest` once for each element of an array.
    fn for_each<'a>(
        &mut self,
        its: &BoundPlaceholder,
        rest: &[BoundPiece],
        cell: &dyn Fn(usize, bool) -> Option<Cell<'a>>,
        send: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Unknown> {
        let text = match cell(its.index, its.in_identity) {
            Some(Cell::Text(text)) => text,
            Some(Cell::Null) => return Ok(()),
            Some(Cell::Unchanged | Cell::Cut) | None => return Err(Unknown),
        };
        let begin = self.key.len();
        let mut outcome = Ok(());
        let mut with = |element: Option<&[u8]>| {
            if self.keys > ELEMENTS_MAX {
                return;
            }
            self.key.truncate(begin);
            let appended = match element {
                None => self.append_null(&its.filters),
                Some(text) => self.append(text, &its.filters).map(|()| true),
            };
            let rendered = match appended {
                Ok(true) => self.rest(rest, cell, send),
                Ok(false) => Ok(()),
                Err(unknown) => Err(unknown),
            };
            outcome = outcome.and(rendered);
        };
        elements(its, text, &mut with)?;
        outcome
    }

    /// The key with its end hashed. The key itself stays: the next element of an array continues it.
    fn hashed(&mut self, hash: &Use) -> Result<&[u8], Unknown> {
        let (begin, end) = self.key.split_at_checked(self.hashed_from).ok_or(Unknown)?;
        let [out, _] = &mut self.filtered;
        out.clear();
        out.extend_from_slice(begin);
        if hash.apply(end, out) { Ok(out) } else { Err(Unknown) }
    }

    /// Appends the text of `default`, after the filters behind it. Returns `false` without that filter.
    fn append_null(&mut self, filters: &[Use]) -> Result<bool, Unknown> {
        let given = filters.iter().enumerate().find_map(|(at, filter)| Some((at, filter.for_null()?)));
        let Some((at, text)) = given else { return Ok(false) };
        self.append(text.as_bytes(), filters.get(at + 1..).unwrap_or_default()).map(|()| true)
    }

    fn append(&mut self, text: &[u8], filters: &[Use]) -> Result<(), Unknown> {
        let [from, to] = &mut self.filtered;
        let Some((last, others)) = filters.split_last() else {
            self.key.extend_from_slice(text);
            return Ok(());
        };
        let mut is_read = true;
        if others.is_empty() {
            is_read = last.apply(text, &mut self.key);
        } else {
            from.clear();
            from.extend_from_slice(text);
            for filter in others {
                to.clear();
                is_read &= filter.apply(from, to);
                std::mem::swap(from, to);
            }
            is_read &= last.apply(from, &mut self.key);
        }
        if is_read { Ok(()) } else { Err(Unknown) }
    }
}

/// Calls `element` with each element of an array, or of the JSON array at the path. Nothing at the path is an empty array.
fn elements(its: &BoundPlaceholder, text: &[u8], element: &mut dyn FnMut(Option<&[u8]>)) -> Result<(), Unknown> {
    if !its.is_json {
        return Ok(array::elements(text, &mut Vec::new(), element)?);
    }
    let Some(array) = json::find(text, &its.path)?.filter(|json| *json != "null") else { return Ok(()) };
    let mut outcome = Ok(());
    json::elements(array, &mut |json| match json::text(json) {
        Ok(text) => element(text.as_deref().map(str::as_bytes)),
        Err(json::Unreadable) => outcome = Err(Unknown),
    })?;
    outcome
}

impl From<json::Unreadable> for Unknown {
    fn from(json::Unreadable: json::Unreadable) -> Unknown {
        Unknown
    }
}

impl From<array::Unreadable> for Unknown {
    fn from(array::Unreadable: array::Unreadable) -> Unknown {
        Unknown
    }
}
