//! `where`: a condition over a row, in a subset of SQL. [`parse()`] reads it, and this module evaluates it.
//!
//! A value may be unknown: it is not in the old row, or an UPDATE left it unchanged and it is not in the log. A
//! comparison may also be undecided, because only Postgres knows whether two texts are equal for a type or a collation.
//! So the result is the set of truth values that the condition can have ([`Truths`]), and the row counts unless TRUE is
//! impossible.

mod parse;

use std::borrow::Cow;
use std::cmp::Ordering;

pub use parse::{PredicateError, parse};

use super::value::decimal;
use super::value::json::{self, Step};
use crate::types::change::Cell;

/// The truth values that a condition can have, as bits: SQL knows three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truths(u8);

impl Truths {
    const TRUE: Truths = Truths(1);
    const FALSE: Truths = Truths(2);
    const NULL: Truths = Truths(4);
    const UNDECIDED: Truths = Truths(1 | 2);
    const UNKNOWN: Truths = Truths(1 | 2 | 4);
    const EACH: [Truths; 3] = [Truths::TRUE, Truths::FALSE, Truths::NULL];

    /// Whether the condition can be true.
    pub fn can_be_true(self) -> bool {
        self.has(Truths::TRUE)
    }

    fn has(self, one: Truths) -> bool {
        self.0 & one.0 != 0
    }

    fn is(truth: bool) -> Truths {
        if truth { Truths::TRUE } else { Truths::FALSE }
    }

    fn not(self) -> Truths {
        let swapped = |one: Truths, other: Truths| if self.has(one) { other.0 } else { 0 };
        Truths(swapped(Truths::TRUE, Truths::FALSE) | swapped(Truths::FALSE, Truths::TRUE) | (self.0 & Truths::NULL.0))
    }

    /// Every result of `join` for one value from each set. `join` is AND or OR of SQL.
    fn joined(self, other: Truths, join: fn(Truths, Truths) -> Truths) -> Truths {
        let mut all = 0;
        for one in Truths::EACH.into_iter().filter(|one| self.has(*one)) {
            for two in Truths::EACH.into_iter().filter(|two| other.has(*two)) {
                all |= join(one, two).0;
            }
        }
        Truths(all)
    }
}

fn and(one: Truths, other: Truths) -> Truths {
    match (one, other) {
        (Truths::FALSE, _) | (_, Truths::FALSE) => Truths::FALSE,
        (Truths::TRUE, Truths::TRUE) => Truths::TRUE,
        _ => Truths::NULL,
    }
}

fn or(one: Truths, other: Truths) -> Truths {
    and(one.not(), other.not()).not()
}

/// A condition. `C` is how it names a column: its name, or its place in a relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Predicate<C> {
    /// All of them.
    And(Vec<Predicate<C>>),
    /// At least one of them.
    Or(Vec<Predicate<C>>),
    /// The opposite.
    Not(Box<Predicate<C>>),
    /// `value IS NULL`.
    IsNull(Value<C>),
    /// `value = literal`, or another comparison. A boolean column alone is compared with TRUE.
    Compare(Value<C>, Comparison, Literal),
    /// `value LIKE 'prefix%'`.
    Prefix(Value<C>, String),
}

/// A column, or a place in its JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value<C> {
    /// The column.
    pub column: C,
    /// The path into its JSON; empty for the column itself.
    pub path: Vec<Step>,
}

/// How a value is compared with a literal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// A literal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Literal {
    /// Decimal digits.
    Number(String),
    /// TRUE or FALSE.
    Bool(bool),
    /// Text in quotes.
    Text(String),
}

/// How the values of a column compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// As numbers.
    Number,
    /// `t` or `f`.
    Bool,
    /// Equal if their texts are.
    Exact,
    /// Perhaps equal though their texts differ: dates, citext, char(n), some collations, types that coherd does not know.
    Unsure,
}

/// A column of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Its place in a row.
    pub index: usize,
    /// Whether old rows always hold it.
    pub in_identity: bool,
    /// How it compares.
    pub kind: Kind,
}

impl Predicate<String> {
    /// Every column that it reads, in order; one that is named twice appears twice.
    pub fn columns(&self) -> Vec<&str> {
        match self {
            Predicate::And(all) | Predicate::Or(all) => all.iter().flat_map(Predicate::columns).collect(),
            Predicate::Not(one) => one.columns(),
            Predicate::IsNull(value) | Predicate::Compare(value, ..) | Predicate::Prefix(value, _) => {
                vec![&value.column]
            }
        }
    }

    /// The condition over a relation. `None` if one of its columns is gone; then every row counts.
    pub fn bind(&self, place: &impl Fn(&str) -> Option<Place>) -> Option<Predicate<Place>> {
        let value = |value: &Value<String>| Some(Value { column: place(&value.column)?, path: value.path.clone() });
        let all = |all: &[Predicate<String>]| all.iter().map(|one| one.bind(place)).collect::<Option<Vec<_>>>();
        Some(match self {
            Predicate::And(each) => Predicate::And(all(each)?),
            Predicate::Or(each) => Predicate::Or(all(each)?),
            Predicate::Not(one) => Predicate::Not(Box::new(one.bind(place)?)),
            Predicate::IsNull(its) => Predicate::IsNull(value(its)?),
            Predicate::Compare(its, comparison, literal) => {
                Predicate::Compare(value(its)?, *comparison, literal.clone())
            }
            Predicate::Prefix(its, prefix) => Predicate::Prefix(value(its)?, prefix.clone()),
        })
    }
}

impl Predicate<Place> {
    /// What it can be for a row. `cell` gives the value at a place, `None` if it is not known.
    pub fn of<'a>(&self, cell: &impl Fn(usize, bool) -> Option<Cell<'a>>) -> Truths {
        match self {
            Predicate::And(all) => joined(all, cell, Truths::TRUE, and),
            Predicate::Or(all) => joined(all, cell, Truths::FALSE, or),
            Predicate::Not(one) => one.of(cell).not(),
            Predicate::IsNull(value) => match value.read(cell) {
                Read::Unknown => Truths::UNDECIDED,
                Read::Null => Truths::TRUE,
                Read::Text(_) => Truths::FALSE,
            },
            Predicate::Compare(value, comparison, literal) => {
                value.tested(cell, |kind, text| compared(kind, text, *comparison, literal))
            }
            Predicate::Prefix(value, prefix) => value.tested(cell, |kind, text| match kind {
                Kind::Exact => Truths::is(text.starts_with(prefix.as_bytes())),
                Kind::Number | Kind::Bool | Kind::Unsure => Truths::UNDECIDED,
            }),
        }
    }
}

/// What `all` are together, from `neutral` on, up to the first one that decides it.
fn joined<'a>(
    all: &[Predicate<Place>],
    cell: &impl Fn(usize, bool) -> Option<Cell<'a>>,
    neutral: Truths,
    join: fn(Truths, Truths) -> Truths,
) -> Truths {
    let mut so_far = neutral;
    for one in all {
        if so_far == neutral.not() {
            break;
        }
        so_far = so_far.joined(one.of(cell), join);
    }
    so_far
}

/// A value of a row.
enum Read<'a> {
    Unknown,
    Null,
    Text(Cow<'a, [u8]>),
}

impl Value<Place> {
    fn read<'a>(&self, cell: &impl Fn(usize, bool) -> Option<Cell<'a>>) -> Read<'a> {
        let text = match cell(self.column.index, self.column.in_identity) {
            Some(Cell::Text(text)) => text,
            Some(Cell::Null) => return Read::Null,
            Some(Cell::Unchanged | Cell::Cut) | None => return Read::Unknown,
        };
        if self.path.is_empty() {
            return Read::Text(Cow::Borrowed(text));
        }
        match json::find(text, &self.path) {
            Ok(None) => Read::Null,
            Ok(Some(found)) => match json::text(found) {
                Ok(None) => Read::Null,
                Ok(Some(Cow::Borrowed(text))) => Read::Text(Cow::Borrowed(text.as_bytes())),
                Ok(Some(Cow::Owned(text))) => Read::Text(Cow::Owned(text.into_bytes())),
                Err(json::Unreadable) => Read::Unknown,
            },
            Err(json::Unreadable) => Read::Unknown,
        }
    }

    fn tested<'a>(
        &self,
        cell: &impl Fn(usize, bool) -> Option<Cell<'a>>,
        test: impl FnOnce(Kind, &[u8]) -> Truths,
    ) -> Truths {
        // What `->>` gives is text.
        let kind = if self.path.is_empty() { self.column.kind } else { Kind::Exact };
        match self.read(cell) {
            Read::Unknown => Truths::UNKNOWN,
            Read::Null => Truths::NULL,
            Read::Text(text) => test(kind, &text),
        }
    }
}

fn compared(kind: Kind, text: &[u8], comparison: Comparison, literal: &Literal) -> Truths {
    let ordering = match (kind, literal) {
        (Kind::Number | Kind::Exact, Literal::Number(number)) => decimal::compare(text, number.as_bytes()),
        (Kind::Number, Literal::Text(number)) => decimal::compare(text, number.as_bytes()),
        (Kind::Bool | Kind::Exact, Literal::Bool(wanted)) => boolean(text).map(|is| is.cmp(wanted)),
        (Kind::Bool, Literal::Text(word)) => {
            let wanted = boolean(word.as_bytes());
            boolean(text).zip(wanted).map(|(is, wanted)| is.cmp(&wanted))
        }
        // Postgres cuts a literal for a `name`.
        (Kind::Exact, Literal::Text(wanted)) if wanted.len() > NAME_BYTES_MAX => None,
        (Kind::Exact, Literal::Text(wanted)) => Some(text.cmp(wanted.as_bytes())),
        (Kind::Unsure, Literal::Text(wanted)) => (text == wanted.as_bytes()).then_some(Ordering::Equal),
        (Kind::Number, Literal::Bool(_)) | (Kind::Bool, Literal::Number(_)) => None,
        (Kind::Unsure, Literal::Number(_) | Literal::Bool(_)) => None,
    };
    let Some(ordering) = ordering else { return Truths::UNDECIDED };
    Truths::is(match comparison {
        Comparison::Equal => ordering.is_eq(),
        Comparison::Less => ordering.is_lt(),
        Comparison::LessOrEqual => ordering.is_le(),
        Comparison::Greater => ordering.is_gt(),
        Comparison::GreaterOrEqual => ordering.is_ge(),
    })
}

/// As Postgres prints a boolean, or JSON.
fn boolean(text: &[u8]) -> Option<bool> {
    match text {
        b"t" | b"true" => Some(true),
        b"f" | b"false" => Some(false),
        _ => None,
    }
}

/// The longest `name` (NAMEDATALEN, less the byte at its end).
const NAME_BYTES_MAX: usize = 63;

/// How values of a type (`pg_type.oid`) compare with a literal. One date, timestamp or uuid can be written in many ways,
/// and floating-point numbers are equal to literals with other digits, so only Postgres compares those.
pub fn kind_of(type_oid: u32) -> Kind {
    match type_oid {
        // int8, int2, int4, oid, numeric
        20 | 21 | 23 | 26 | 1700 => Kind::Number,
        16 => Kind::Bool,
        // name
        19 => Kind::Exact,
        _ => Kind::Unsure,
    }
}

#[cfg(test)]
mod tests;
