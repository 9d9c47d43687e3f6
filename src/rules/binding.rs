//! Rules bound to a relation as it was when its changes were written: placeholders become column numbers. A change goes
//! in, and the keys and scopes to invalidate come out.

use super::config::{MissingOld, Rule};
use super::filter::Filter;
use super::heirs::Heirs;
use super::template::{Piece, Template};
use crate::types::change::{Cell, Change, OldImage, Relation, ReplicaIdentity, Row};
use crate::types::invalidation::{Action, KEY_BYTES_MAX, RuleId, Scope};

/// What a change invalidates. Order and repetition have no meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalidation<'a> {
    /// One key.
    Key {
        /// The rule that made it.
        rule: RuleId,
        /// The action for the key.
        action: Action,
        /// The key.
        key: &'a [u8],
    },
    /// Everything in a scope, because the exact keys cannot be known.
    Scope {
        /// The rule it belongs to.
        rule: RuleId,
        /// The scope.
        scope: &'a Scope,
    },
}

/// Buffers that rendering reuses from row to row.
#[derive(Debug, Default)]
pub struct Scratch {
    key: Vec<u8>,
    filtered: [Vec<u8>; 2],
}

/// The rules of one relation, ready to render. Empty if no rule matches it.
#[derive(Debug, Clone, Default)]
pub struct Binding {
    rules: Vec<BoundRule>,
}

#[derive(Debug, Clone)]
struct BoundRule {
    id: RuleId,
    action: Action,
    on_missing_old: MissingOld,
    templates: Vec<BoundTemplate>,
    /// The columns of `when_changed` and of the keys: a row that moves from one key to another changes what is stored
    /// under both. `None` without `when_changed`, or if one of the columns is gone; then every change counts.
    when_changed: Option<Vec<Compared>>,
    /// Whether the relation's identity is FULL, so that every old row should be whole. An UPDATE without an old row
    /// then comes from a partition with a narrower identity, about which the root's says nothing.
    is_full: bool,
}

#[derive(Debug, Clone, Copy)]
struct Compared {
    index: usize,
    in_identity: bool,
}

#[derive(Debug, Clone)]
struct BoundTemplate {
    scope: Scope,
    /// `None` if one of its columns is gone; then every change flushes the scope.
    pieces: Option<Vec<BoundPiece>>,
    /// Whether the key part of the old row is enough to render it.
    within_identity: bool,
}

#[derive(Debug, Clone)]
enum BoundPiece {
    Literal(Vec<u8>),
    Column { index: usize, in_identity: bool, filters: Vec<&'static Filter> },
}

/// The result of rendering one row image.
enum Rendered {
    Key,
    /// A placeholder is NULL, so there is no such key.
    NoSuchKey,
    /// A value is missing from the image.
    Unknown,
}

impl Binding {
    /// Binds the rules that name the relation or a table that it inherits from.
    pub fn new(rules: &[Rule], relation: &Relation, heirs: &Heirs) -> Self {
        let named = |rule: &&Rule| {
            rule.table.schema == relation.schema && rule.table.name == relation.name
                || heirs.inherits(relation, &rule.table)
        };
        Binding { rules: rules.iter().filter(named).map(|rule| bind_rule(rule, relation)).collect() }
    }

    /// Whether the relation has no rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Calls `invalidation` with everything that one change invalidates.
    pub fn invalidate(
        &self,
        change: &Change<'_>,
        scratch: &mut Scratch,
        invalidation: &mut impl FnMut(Invalidation<'_>),
    ) {
        for rule in &self.rules {
            if let Change::Update { old, new } = change
                && rule.leaves_alone(*old, *new)
            {
                continue;
            }
            for template in &rule.templates {
                template.invalidate(rule, change, scratch, invalidation);
            }
        }
    }

    /// Calls `invalidation` with every scope, because the relation was truncated or nothing more is known.
    pub fn invalidate_scopes(&self, invalidation: &mut impl FnMut(Invalidation<'_>)) {
        for rule in &self.rules {
            for template in &rule.templates {
                invalidation(Invalidation::Scope { rule: rule.id, scope: &template.scope });
            }
        }
    }
}

fn bind_rule(rule: &Rule, relation: &Relation) -> BoundRule {
    let compared = |name: &str| {
        let mut columns = relation.columns.iter().enumerate();
        let (index, column) = columns.find(|(_, column)| column.name == name)?;
        Some(Compared { index, in_identity: relation.carries(column) })
    };
    let templates = rule.keys.iter().enumerate().filter_map(|(number, template)| {
        let scope = rule.scope(number)?.clone();
        let pieces = bind_pieces(template, relation);
        let within =
            |piece: &BoundPiece| matches!(piece, BoundPiece::Literal(_) | BoundPiece::Column { in_identity: true, .. });
        let within_identity = pieces.as_ref().is_some_and(|pieces| pieces.iter().all(within));
        Some(BoundTemplate { scope, pieces, within_identity })
    });
    BoundRule {
        id: rule.id,
        action: rule.action,
        on_missing_old: rule.on_missing_old,
        templates: templates.collect(),
        when_changed: match rule.when_changed.as_slice() {
            [] => None,
            _ => rule.columns().into_iter().map(compared).collect(),
        },
        is_full: relation.identity == ReplicaIdentity::Full,
    }
}

fn bind_pieces(template: &Template, relation: &Relation) -> Option<Vec<BoundPiece>> {
    let bind = |piece: &Piece| match piece {
        Piece::Literal(text) => Some(BoundPiece::Literal(text.clone().into_bytes())),
        Piece::Column { name, filters } => {
            let mut columns = relation.columns.iter().enumerate();
            let (index, column) = columns.find(|(_, column)| column.name == *name)?;
            Some(BoundPiece::Column { index, in_identity: relation.carries(column), filters: filters.clone() })
        }
    };
    template.pieces().iter().map(bind).collect()
}

impl BoundRule {
    /// Whether an UPDATE is known to have left every column of `when_changed` and of the keys unchanged.
    fn leaves_alone(&self, old: OldImage<'_>, new: Row<'_>) -> bool {
        let (Some(columns), OldImage::Full(old)) = (&self.when_changed, old) else {
            return false;
        };
        let same =
            |&Compared { index, in_identity }: &Compared| match (old_cell(old, index, in_identity), new.get(index)) {
                (_, Some(Cell::Unchanged)) => true,
                // Two values that were too large to hold may differ.
                (_, Some(Cell::Cut)) => false,
                (Some(before), Some(after)) => before == after,
                _ => false,
            };
        columns.iter().all(same)
    }
}

impl BoundTemplate {
    fn invalidate(
        &self,
        rule: &BoundRule,
        change: &Change<'_>,
        scratch: &mut Scratch,
        invalidation: &mut impl FnMut(Invalidation<'_>),
    ) {
        let Some(pieces) = &self.pieces else {
            return invalidation(Invalidation::Scope { rule: rule.id, scope: &self.scope });
        };
        let (old, new) = match *change {
            Change::Insert { new } => (None, Some(new)),
            Change::Update { old, new } => (Some(old), Some(new)),
            Change::Delete { old } => (Some(old), None),
        };
        let mut flush = false;
        let mut send = |rendered, scratch: &Scratch| match rendered {
            Rendered::Key => invalidation(Invalidation::Key { rule: rule.id, action: rule.action, key: &scratch.key }),
            Rendered::NoSuchKey => {}
            Rendered::Unknown => flush = true,
        };
        if let Some(new) = new {
            let before = old.unwrap_or(OldImage::Absent);
            send(scratch.render(pieces, |index, in_identity| new_cell(new, before, index, in_identity)), scratch);
        }
        match old {
            None => {}
            Some(OldImage::Full(row)) => {
                send(scratch.render(pieces, |index, in_identity| old_cell(row, index, in_identity)), scratch);
            }
            Some(OldImage::Key(row)) if self.within_identity => {
                send(scratch.render(pieces, |index, _| row.get(index)), scratch);
            }
            // Without an old image, the identity columns are unchanged, and so is a key made only of them.
            Some(OldImage::Absent) if self.within_identity && !rule.is_full && new.is_some() => {}
            // `refuse` rejects such a rule at startup. If the identity has changed since then, only the whole scope is
            // safe.
            Some(_) if rule.on_missing_old != MissingOld::Skip => send(Rendered::Unknown, scratch),
            Some(_) => {}
        }
        if flush {
            invalidation(Invalidation::Scope { rule: rule.id, scope: &self.scope });
        }
    }
}

/// A cell of a full old row. A NULL outside the identity may be a value that was not logged, so it counts as unknown.
fn old_cell(old: Row<'_>, index: usize, in_identity: bool) -> Option<Cell<'_>> {
    old.get(index).filter(|cell| in_identity || *cell != Cell::Null)
}

/// A cell of the new row. The new row lacks a TOASTed value that the UPDATE left unchanged; the old row may have it.
fn new_cell<'a>(new: Row<'a>, old: OldImage<'a>, index: usize, in_identity: bool) -> Option<Cell<'a>> {
    match (new.get(index), old) {
        (Some(Cell::Unchanged), OldImage::Full(row)) => old_cell(row, index, in_identity),
        (Some(Cell::Unchanged), OldImage::Key(row)) if in_identity => row.get(index),
        (cell, _) => cell,
    }
}

impl Scratch {
    fn render<'a>(&mut self, pieces: &[BoundPiece], cell: impl Fn(usize, bool) -> Option<Cell<'a>>) -> Rendered {
        self.key.clear();
        for piece in pieces {
            match piece {
                BoundPiece::Literal(text) => self.key.extend_from_slice(text),
                BoundPiece::Column { index, in_identity, filters } => match cell(*index, *in_identity) {
                    Some(Cell::Text(text)) => self.append(text, filters),
                    Some(Cell::Null) => return Rendered::NoSuchKey,
                    Some(Cell::Unchanged | Cell::Cut) | None => return Rendered::Unknown,
                },
            }
            if self.key.len() > KEY_BYTES_MAX {
                return Rendered::Unknown;
            }
        }
        Rendered::Key
    }

    fn append(&mut self, text: &[u8], filters: &[&Filter]) {
        let [from, to] = &mut self.filtered;
        let Some((last, others)) = filters.split_last() else {
            return self.key.extend_from_slice(text);
        };
        if others.is_empty() {
            return (last.apply)(text, &mut self.key);
        }
        from.clear();
        from.extend_from_slice(text);
        for filter in others {
            to.clear();
            (filter.apply)(from, to);
            std::mem::swap(from, to);
        }
        (last.apply)(from, &mut self.key);
    }
}
