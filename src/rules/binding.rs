//! Rules bound to a relation as it was when its changes were written: placeholders become column numbers. A change goes
//! in, and the keys and scopes to invalidate come out.

use super::config::{MissingOld, Rule};
use super::heirs::Heirs;
use super::predicate::{self, Place, Predicate, Truths};
pub use super::rendering::Scratch;
use super::rendering::{BoundPiece, BoundPlaceholder, Unknown};
use super::template::Piece;
use crate::types::change::{Cell, Change, Column, OldImage, Relation, ReplicaIdentity, Row};
use crate::types::invalidation::{Action, RuleId, Scope};

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
    /// `None` without `where`, or if one of its columns is gone; then every row counts.
    predicate: Option<Predicate<Place>>,
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
            if rule.predicate.as_ref().is_some_and(|predicate| !may_match(predicate, change, rule.is_full)) {
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

fn find<'r>(relation: &'r Relation, name: &str) -> Option<(usize, &'r Column)> {
    relation.columns.iter().enumerate().find(|(_, column)| column.name == name)
}

fn bind_rule(rule: &Rule, relation: &Relation) -> BoundRule {
    let compared = |name: &str| {
        let (index, column) = find(relation, name)?;
        Some(Compared { index, in_identity: relation.carries(column) })
    };
    let place = |name: &str| {
        let (index, column) = find(relation, name)?;
        Some(Place { index, in_identity: relation.carries(column), kind: predicate::kind_of(column.type_oid) })
    };
    let templates = rule.keys.iter().enumerate().filter_map(|(number, template)| {
        let scope = rule.scope(number)?.clone();
        let mut pieces = Some(Vec::new());
        for piece in template.pieces() {
            bind_piece(piece, relation, &mut pieces);
        }
        let is_within = |piece: &BoundPiece| !matches!(piece, BoundPiece::Column(its) if !its.in_identity);
        let within_identity = pieces.as_ref().is_some_and(|pieces| pieces.iter().all(is_within));
        Some(BoundTemplate { scope, pieces, within_identity })
    });
    BoundRule {
        id: rule.id,
        action: rule.action,
        on_missing_old: rule.on_missing_old,
        templates: templates.collect(),
        predicate: rule.predicate.as_ref().and_then(|predicate| predicate.bind(&place)),
        when_changed: match rule.when_changed.as_slice() {
            [] => None,
            _ => rule.columns().into_iter().map(compared).collect(),
        },
        is_full: relation.identity == ReplicaIdentity::Full,
    }
}

/// Adds a piece to `bound`, which becomes `None` if the piece's column is gone.
fn bind_piece(piece: &Piece, relation: &Relation, bound: &mut Option<Vec<BoundPiece>>) {
    let Some(pieces) = bound else { return };
    match piece {
        Piece::Literal(text) => pieces.push(BoundPiece::Literal(text.clone().into_bytes())),
        Piece::Column(its) => match find(relation, &its.column) {
            None => *bound = None,
            Some((index, column)) => pieces.push(BoundPiece::Column(BoundPlaceholder {
                index,
                in_identity: relation.carries(column),
                path: its.path.clone(),
                is_json: !its.path.is_empty() || JSON.contains(&column.type_oid),
                each: its.each,
                filters: its.filters.clone(),
            })),
        },
        Piece::Hashed { pieces: hashed, hash } => {
            pieces.push(BoundPiece::HashFromHere);
            for piece in hashed {
                bind_piece(piece, relation, bound);
            }
            if let Some(pieces) = bound {
                pieces.push(BoundPiece::Hash(hash.clone()));
            }
        }
    }
}

/// Whether the condition may be true for the old or the new row. A row that enters or leaves it counts.
fn may_match(predicate: &Predicate<Place>, change: &Change<'_>, is_full: bool) -> bool {
    let (old, new) = images(change);
    let may = |truths: Truths| truths.can_be_true();
    let before = old.unwrap_or(OldImage::Absent);
    new.is_some_and(|new| may(predicate.of(&|index, in_identity| new_cell(new, before, index, in_identity))))
        || match old {
            None => false,
            Some(OldImage::Full(row)) => may(predicate.of(&|index, in_identity| old_cell(row, index, in_identity))),
            Some(OldImage::Key(row)) => may(predicate.of(&|index, in_identity| row.get(index).filter(|_| in_identity))),
            // The identity's columns are unchanged; if it is FULL, see [`BoundRule::is_full`].
            Some(OldImage::Absent) => {
                may(predicate.of(&|index, in_identity| new?.get(index).filter(|_| in_identity && !is_full)))
            }
        }
}

/// The old and the new row of a change.
fn images<'a>(change: &Change<'a>) -> (Option<OldImage<'a>>, Option<Row<'a>>) {
    match *change {
        Change::Insert { new } => (None, Some(new)),
        Change::Update { old, new } => (Some(old), Some(new)),
        Change::Delete { old } => (Some(old), None),
    }
}

/// `json` and `jsonb` (`pg_type.oid`).
const JSON: [u32; 2] = [114, 3802];

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
        let (old, new) = images(change);
        let mut send = |key: &[u8]| invalidation(Invalidation::Key { rule: rule.id, action: rule.action, key });
        let mut rendered = Ok(());
        if let Some(new) = new {
            let before = old.unwrap_or(OldImage::Absent);
            let cell = |index, in_identity| new_cell(new, before, index, in_identity);
            rendered = scratch.render(pieces, &cell, &mut send);
        }
        let of_old = match old {
            None => Ok(()),
            Some(OldImage::Full(row)) => {
                scratch.render(pieces, &|index, in_identity| old_cell(row, index, in_identity), &mut send)
            }
            Some(OldImage::Key(row)) if self.within_identity => {
                scratch.render(pieces, &|index, _| row.get(index), &mut send)
            }
            // Without an old image, the identity columns are unchanged, and so is a key made only of them.
            Some(OldImage::Absent) if self.within_identity && !rule.is_full && new.is_some() => Ok(()),
            // `refuse` rejects such a rule at startup. If the identity has changed since then, only the whole scope is
            // safe.
            Some(_) if rule.on_missing_old != MissingOld::Skip => Err(Unknown),
            Some(_) => Ok(()),
        };
        let flush = rendered.and(of_old).is_err();
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
