//! Which keys: all, those with a prefix, or those that a glob matches. The one place that reads globs.
//!
//! The grammar is that of Redis's `MATCH` (`stringmatchlen` in its util.c): `*`, `?`, `[a-z]`, `[^a]`, and a backslash before
//! a character that stands for itself. A class without an end ends with the glob.

use std::fmt;
use std::sync::Arc;

/// Some of the keys of a target. Its text form is a glob.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Extent {
    /// Every key.
    All,
    /// Every key that begins with this text.
    Prefix(Arc<str>),
    /// Every key that the glob matches.
    Pattern(Pattern),
}

impl Extent {
    /// Reads a glob.
    pub fn read(glob: &str) -> Extent {
        let pattern = Pattern::read(glob);
        match &*pattern.segments {
            [Segment::Text(first), rest @ ..] if !rest.is_empty() && rest.iter().all(Segment::is_empty) => {
                let extent = match std::str::from_utf8(first) {
                    Ok("") => Extent::All,
                    Ok(prefix) => Extent::Prefix(prefix.into()),
                    Err(_) => return Extent::Pattern(pattern),
                };
                // Its text stays what it was: stored records hold a hash of it.
                if extent.to_string() == glob { extent } else { Extent::Pattern(pattern) }
            }
            _ => Extent::Pattern(pattern),
        }
    }

    /// Whether `key` is one of them.
    pub fn covers(&self, key: &[u8]) -> bool {
        match self {
            Extent::All => true,
            Extent::Prefix(prefix) => key.starts_with(prefix.as_bytes()),
            Extent::Pattern(pattern) => pattern.matches(key),
        }
    }

    /// What all of them begin with: a target that can only remove by prefix removes these. Empty where that is nothing.
    pub fn prefix(&self) -> &[u8] {
        match self {
            Extent::All => &[],
            Extent::Prefix(prefix) => prefix.as_bytes(),
            Extent::Pattern(pattern) => &pattern.prefix,
        }
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Extent::All => f.write_str("*"),
            Extent::Prefix(prefix) => write!(f, "{}*", escaped(prefix)),
            Extent::Pattern(pattern) => f.write_str(&pattern.glob),
        }
    }
}

/// `text` as a glob that matches only itself.
pub fn escaped(text: &str) -> String {
    let mut glob = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\') {
            glob.push('\\');
        }
        glob.push(character);
    }
    glob
}

/// A glob that was read.
#[derive(Debug, Clone)]
pub struct Pattern {
    glob: Arc<str>,
    /// What stands before, between and behind the stars; at least one.
    segments: Arc<[Segment]>,
    prefix: Arc<[u8]>,
    /// A class has a byte beyond ASCII.
    has_wide_class: bool,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.glob == other.glob
    }
}

impl Eq for Pattern {}

impl std::hash::Hash for Pattern {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.glob.hash(state);
    }
}

/// A part of a glob without stars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Text that stands for itself.
    Text(Vec<u8>),
    /// One byte of each set, in order.
    Sets(Vec<ByteSet>),
}

/// Some of all 256 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSet([u64; 4]);

impl ByteSet {
    /// Every byte.
    pub const ALL: ByteSet = ByteSet([u64::MAX; 4]);

    /// These bytes.
    pub fn of(bytes: impl IntoIterator<Item = u8>) -> ByteSet {
        let mut set = ByteSet::default();
        for byte in bytes {
            if let Some(word) = set.0.get_mut(usize::from(byte >> 6)) {
                *word |= 1 << (byte & 63);
            }
        }
        set
    }

    /// Every byte but those of `self`.
    #[must_use]
    pub fn negated(self) -> ByteSet {
        ByteSet(self.0.map(|word| !word))
    }

    /// Whether `byte` is in it.
    pub fn has(self, byte: u8) -> bool {
        self.0.get(usize::from(byte >> 6)).is_some_and(|word| word >> (byte & 63) & 1 == 1)
    }

    /// Whether both have a byte in common.
    pub fn meets(self, other: ByteSet) -> bool {
        self.0.iter().zip(&other.0).any(|(one, other)| one & other != 0)
    }

    /// The byte, where it is only one.
    pub fn only(self) -> Option<u8> {
        let mut bytes = (0..=u8::MAX).filter(|byte| self.has(*byte));
        bytes.next().filter(|_| bytes.next().is_none())
    }
}

impl Segment {
    /// The set of each of its bytes.
    pub fn sets(&self) -> Vec<ByteSet> {
        match self {
            Segment::Text(text) => text.iter().map(|byte| ByteSet::of([*byte])).collect(),
            Segment::Sets(sets) => sets.clone(),
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn len(&self) -> usize {
        match self {
            Segment::Text(text) => text.len(),
            Segment::Sets(sets) => sets.len(),
        }
    }

    /// Whether all of `bytes` is of this form.
    fn is(&self, bytes: &[u8]) -> bool {
        match self {
            Segment::Text(text) => text == bytes,
            Segment::Sets(sets) => {
                sets.len() == bytes.len() && sets.iter().zip(bytes).all(|(set, byte)| set.has(*byte))
            }
        }
    }

    /// `within` without the first part of this form and all before it.
    fn skip_to<'a>(&self, within: &'a [u8]) -> Option<&'a [u8]> {
        let length = self.len();
        if length == 0 {
            return Some(within);
        }
        let at = within.windows(length).position(|window| self.is(window))?;
        within.get(at + length..)
    }
}

impl Pattern {
    /// Reads a glob. Each one has a meaning.
    pub fn read(glob: &str) -> Pattern {
        let mut segments = Vec::new();
        let (mut text, mut sets, mut has_wide_class) = (Vec::new(), Vec::<ByteSet>::new(), false);
        let mut rest = glob.as_bytes();
        let mut end = |text: &mut Vec<u8>, sets: &mut Vec<ByteSet>| {
            if sets.is_empty() {
                segments.push(Segment::Text(std::mem::take(text)));
            } else {
                sets.extend(text.drain(..).map(|byte| ByteSet::of([byte])));
                segments.push(Segment::Sets(std::mem::take(sets)));
            }
        };
        while let Some((&first, after)) = rest.split_first() {
            rest = after;
            match first {
                b'*' => end(&mut text, &mut sets),
                b'?' | b'[' => {
                    sets.extend(text.drain(..).map(|byte| ByteSet::of([byte])));
                    let set;
                    (set, rest) = if first == b'?' { (ByteSet::ALL, after) } else { class(after) };
                    let inside = after.get(..after.len() - rest.len()).unwrap_or_default();
                    has_wide_class |= !inside.is_ascii();
                    sets.push(set);
                }
                // At the very end it stands for itself.
                b'\\' => match after.split_first() {
                    Some((&escaped, after)) => {
                        text.push(escaped);
                        rest = after;
                    }
                    None => text.push(first),
                },
                other => text.push(other),
            }
        }
        end(&mut text, &mut sets);
        let first = segments.first().map(Segment::sets).unwrap_or_default();
        let prefix = first.iter().map_while(|set| set.only()).collect();
        Pattern { glob: glob.into(), segments: segments.into(), prefix, has_wide_class }
    }

    /// Whether a class has a character beyond ASCII. A class stands for one byte, such a character has several, and whether
    /// they are in a range depends on the machine that Redis runs on.
    pub fn has_wide_class(&self) -> bool {
        self.has_wide_class
    }

    /// The parts before, between and behind the stars; at least one.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The first part begins the key, the last one ends it, and the others follow one another. The first place for each is
    /// the best: it leaves the most to those that follow.
    fn matches(&self, key: &[u8]) -> bool {
        let [first, between @ ..] = &*self.segments else { return false };
        let [between @ .., last] = between else { return first.is(key) };
        let Some((begin, mut rest)) = key.split_at_checked(first.len()) else { return false };
        if !first.is(begin) {
            return false;
        }
        for segment in between {
            match segment.skip_to(rest) {
                Some(behind) => rest = behind,
                None => return false,
            }
        }
        let end = rest.len().checked_sub(last.len()).and_then(|at| rest.get(at..));
        end.is_some_and(|end| last.is(end))
    }
}

/// `[a-z]` or `[^x]`, from behind the bracket; also gives what follows it.
fn class(after: &[u8]) -> (ByteSet, &[u8]) {
    let (negated, mut rest) = match after.split_first() {
        Some((b'^', rest)) => (true, rest),
        _ => (false, after),
    };
    let mut members = Vec::new();
    while let Some((&first, more)) = rest.split_first() {
        rest = more;
        match (first, more) {
            (b']', _) => break,
            (b'\\', [escaped, more @ ..]) => {
                members.push(*escaped);
                rest = more;
            }
            (from, [b'-', to, more @ ..]) => {
                members.extend(from.min(*to)..=from.max(*to));
                rest = more;
            }
            (byte, _) => members.push(byte),
        }
    }
    let set = ByteSet::of(members);
    (if negated { set.negated() } else { set }, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_as_redis_matches_them() {
        for (glob, key, expected) in [
            ("", "", true),
            ("", "a", false),
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("*", "anything", true),
            ("user:*", "user:", true),
            ("user:*", "user:7", true),
            ("user:*", "users:7", false),
            ("*:lease", "x:lease", true),
            ("*:lease", "x:lease2", false),
            ("*:*:z", "a:b:c:z", true),
            ("*:*:z", "a:b:c:y", false),
            ("user:*:name", "user::name", true),
            ("user:*:name", "user:1:x:name", true),
            ("user:*:name", "user:name", false),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("***a", "bba", true),
            ("*ab*ab*", "abab", true),
            ("*ab*ab*", "aab", false),
            ("*ab*b", "ab", false),
            ("*ab*b", "abb", true),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("*?c*", "c", false),
            ("*?c*", "xxbcy", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("[a-]", "^", true),
            ("[a-]", "-", false),
            ("x*[0-9]", "x:7", true),
            ("x*[0-9]", "x:", false),
            ("[", "a", false),
            (r"a\*b", "a*b", true),
            (r"a\*b", "axb", false),
            (r"[\]]", "]", true),
            (r"\[x\]\?*", "[x]?y", true),
            (r"a\\*", r"a\b", true),
            ("a\\", r"a\", true),
        ] {
            assert_eq!(Extent::read(glob).covers(key.as_bytes()), expected, "{glob} {key}");
        }
    }

    #[test]
    fn all_and_a_prefix_are_told_from_a_pattern_and_keep_their_text() {
        for (glob, kind, prefix) in [
            ("*", "all", ""),
            ("**", "pattern", ""),
            ("user:*", "prefix", "user:"),
            (r"a\*b:*", "prefix", "a*b:"),
            (r"a\**", "prefix", "a*"),
            ("user:**", "pattern", "user:"),
            (r"a\:*", "pattern", "a:"),
            ("user:*:name", "pattern", "user:"),
            ("user:?*", "pattern", "user:"),
            ("user:[7]?*", "pattern", "user:7"),
            ("user:7", "pattern", "user:7"),
            (r"user:7\*", "pattern", "user:7*"),
            ("", "pattern", ""),
        ] {
            let extent = Extent::read(glob);
            let its = match &extent {
                Extent::All => "all",
                Extent::Prefix(_) => "prefix",
                Extent::Pattern(_) => "pattern",
            };
            assert_eq!((its, extent.prefix()), (kind, prefix.as_bytes()), "{glob}");
            assert_eq!(extent.to_string(), glob);
        }
    }
}
