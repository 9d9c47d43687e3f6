//! What a key can look like, as a sequence of byte sets, and whether two such sequences have a key in common. A glob
//! that covers a key has one in common with it.

use super::filter::Use;
use super::template::{Piece, Placeholder, Template};
use crate::types::pattern::{ByteSet, Pattern};
use crate::types::table::Table;

/// One byte from a set, or any number of them if `repeated`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) bytes: ByteSet,
    pub(super) repeated: bool,
}

/// All keys that a template can make, or that a glob matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    units: Vec<Unit>,
}

impl Shape {
    /// The keys of `template`, as far as the column types restrict them. Without a table, a placeholder's text can be
    /// anything.
    pub fn of_template(template: &Template, table: Option<&Table>) -> Shape {
        let mut shape = Shape { units: Vec::new() };
        for piece in template.pieces() {
            match piece {
                Piece::Literal(text) => shape.text(text.as_bytes()),
                Piece::Hashed { .. } => shape.run(ByteSet::of(*b"0123456789abcdef")),
                Piece::Column(Placeholder { column, path, each, filters }) => {
                    let is_hex = |its: &Use| matches!(its.filter.name, "md5" | "sha1" | "sha256" | "hex");
                    let is_part = !path.is_empty() || *each;
                    // The others keep the signs of a number, a uuid and a boolean.
                    let makes_others = |its: &Use| its.argument.is_some() || its.filter.name == "base64";
                    let is_changed = is_part || filters.iter().any(makes_others);
                    let type_name = table.and_then(|table| table.column(column)).map(|its| its.type_name.as_str());
                    match type_name {
                        _ if filters.last().is_some_and(is_hex) => shape.run(ByteSet::of(*b"0123456789abcdef")),
                        _ if is_changed => shape.units.push(Unit { bytes: ByteSet::ALL, repeated: true }),
                        _ if filters.iter().any(is_hex) => shape.run(ByteSet::of(*b"0123456789abcdefABCDEF")),
                        Some("smallint" | "integer" | "bigint") => shape.run(ByteSet::of(*b"-0123456789")),
                        Some("uuid") => shape.run(ByteSet::of(*b"-0123456789abcdefABCDEF")),
                        Some("boolean") => shape.run(ByteSet::of(*b"tfTF")),
                        _ => shape.units.push(Unit { bytes: ByteSet::ALL, repeated: true }),
                    }
                }
            }
        }
        shape
    }

    /// The keys of `template` if each placeholder can stand for any text, including empty text.
    pub fn of_any_text(template: &Template) -> Shape {
        let mut shape = Shape { units: Vec::new() };
        for piece in template.pieces() {
            match piece {
                Piece::Literal(text) => shape.text(text.as_bytes()),
                Piece::Column(_) | Piece::Hashed { .. } => {
                    shape.units.push(Unit { bytes: ByteSet::ALL, repeated: true });
                }
            }
        }
        shape
    }

    /// Whether `longer` is this shape followed by `byte`.
    pub(super) fn is_followed_in(&self, longer: &Shape, byte: u8) -> bool {
        let last = Unit { bytes: ByteSet::of([byte]), repeated: false };
        longer.units.split_last().is_some_and(|(its, rest)| *its == last && rest == self.units)
    }

    pub(super) fn units(&self) -> &[Unit] {
        &self.units
    }

    /// The keys that a glob matches.
    pub fn of_glob(glob: &str) -> Shape {
        let mut shape = Shape { units: Vec::new() };
        for (index, segment) in Pattern::read(glob).segments().iter().enumerate() {
            if index > 0 {
                shape.units.push(Unit { bytes: ByteSet::ALL, repeated: true });
            }
            shape.units.extend(segment.sets().into_iter().map(|bytes| Unit { bytes, repeated: false }));
        }
        shape
    }

    /// Exactly one key.
    pub fn of_key(key: &[u8]) -> Shape {
        let mut shape = Shape { units: Vec::new() };
        shape.text(key);
        shape
    }

    /// The number of units that allow exactly one byte.
    pub fn literals(&self) -> usize {
        let one = |unit: &&Unit| !unit.repeated && unit.bytes.only().is_some();
        self.units.iter().filter(one).count()
    }

    fn text(&mut self, text: &[u8]) {
        self.units.extend(text.iter().map(|byte| Unit { bytes: ByteSet::of([*byte]), repeated: false }));
    }

    /// Appends one or more bytes of the set.
    fn run(&mut self, bytes: ByteSet) {
        self.units.extend([Unit { bytes, repeated: false }, Unit { bytes, repeated: true }]);
    }

    /// Whether some key has both shapes: whether a walk through both, step by step, reaches both ends together.
    pub fn meets(&self, other: &Shape) -> bool {
        // Most pairs already differ in their prefixes.
        let fixed = self.units.iter().zip(&other.units).take_while(|(ours, theirs)| !ours.repeated && !theirs.repeated);
        if fixed.into_iter().any(|(ours, theirs)| !ours.bytes.meets(theirs.bytes)) {
            return false;
        }
        let (rows, columns) = (self.units.len() + 1, other.units.len() + 1);
        let mut seen = vec![false; rows * columns];
        let mut open = vec![(0, 0)];
        while let Some((i, j)) = open.pop() {
            let here = seen.get_mut(i * columns + j);
            if here.is_some_and(|here| std::mem::replace(here, true)) {
                continue;
            }
            let (ours, theirs) = (self.units.get(i), other.units.get(j));
            if ours.is_none() && theirs.is_none() {
                return true;
            }
            if ours.is_some_and(|unit| unit.repeated) {
                open.push((i + 1, j));
            }
            if theirs.is_some_and(|unit| unit.repeated) {
                open.push((i, j + 1));
            }
            let (Some(ours), Some(theirs)) = (ours, theirs) else { continue };
            if ours.bytes.meets(theirs.bytes) {
                open.push((i + usize::from(!ours.repeated), j + usize::from(!theirs.repeated)));
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_meet_where_some_key_is_of_both() {
        for (one, other, expected) in [
            ("user:*", "user:1", true),
            ("user:*", "users:1", false),
            ("user:*", "*:profile", true),
            ("user:[0-9]*", "user:by-email:*", false),
            ("user:[^0-9]*", "user:by-email:*", true),
            ("user:[^0-9]*", "user:[0-9]", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a\\*c", "abc", false),
            ("a\\*c", "a*c", true),
            ("[a-c][x\\]]", "b]", true),
            ("", "*", true),
            ("", "?", false),
            ("*a*b*", "ba", false),
            ("*a*b*", "xaxbx", true),
            ("[", "a", false),
        ] {
            let met = Shape::of_glob(one).meets(&Shape::of_glob(other));
            assert_eq!(met, expected, "{one} and {other}");
            assert_eq!(Shape::of_glob(other).meets(&Shape::of_glob(one)), expected, "{other} and {one}");
        }
    }

    #[test]
    fn many_stars_take_no_long_time() {
        let stars = Shape::of_glob(&format!("{}c", "a*".repeat(50)));
        assert!(!stars.meets(&Shape::of_key("a".repeat(5000).as_bytes())));
    }

    #[test]
    fn what_is_given_is_counted() {
        assert_eq!((Shape::of_glob("*:*").literals(), Shape::of_glob("us[er]:*").literals()), (1, 3));
    }
}
