//! Globs of nothing but text and stars, which is what the scopes of templates are: so simple that one pass over all keys can
//! match many of them here, as Redis would (`stringmatchlen` in its util.c) in one pass for each. A glob with `?` or a class
//! is left to Redis.

/// The text before, between and behind the stars; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stars {
    texts: Vec<Vec<u8>>,
}

impl Stars {
    /// Reads a glob; `None` where it is more than text and stars.
    pub(super) fn read(pattern: &[u8]) -> Option<Stars> {
        let mut texts = Vec::new();
        let mut text = Vec::new();
        let mut bytes = pattern.iter();
        while let Some(&byte) = bytes.next() {
            match byte {
                b'*' => texts.push(std::mem::take(&mut text)),
                b'?' | b'[' => return None,
                // At the very end it means itself.
                b'\\' => text.push(*bytes.next().unwrap_or(&byte)),
                _ => text.push(byte),
            }
        }
        texts.push(text);
        Some(Stars { texts })
    }

    /// Whether it matches all of `key`: the first text begins it, the last one ends it, the others follow one another.
    pub(super) fn cover(&self, key: &[u8]) -> bool {
        let [first, between @ ..] = self.texts.as_slice() else { return false };
        let Some(mut rest) = key.strip_prefix(first.as_slice()) else { return false };
        let [between @ .., last] = between else { return rest.is_empty() };
        for text in between {
            match find(rest, text) {
                Some(behind) => rest = behind,
                None => return false,
            }
        }
        rest.ends_with(last)
    }

    /// What every key that it matches begins with.
    pub(super) fn prefix(&self) -> &[u8] {
        self.texts.first().map_or(&[], Vec::as_slice)
    }
}

/// What stands behind the first `text` in `within`. The first is the best: it leaves the most to those that follow.
fn find<'a>(within: &'a [u8], text: &[u8]) -> Option<&'a [u8]> {
    if text.is_empty() {
        return Some(within);
    }
    let at = within.windows(text.len()).position(|window| window == text)?;
    within.get(at + text.len()..)
}

/// A glob that matches whatever begins with all that `prefixes` have in common; `None` where that is nothing.
pub(super) fn beginning<'a>(prefixes: impl IntoIterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let common = |one: &'a [u8], other: &'a [u8]| {
        let length = one.iter().zip(other).take_while(|(one, other)| one == other).count();
        one.get(..length).unwrap_or_default()
    };
    let common = prefixes.into_iter().reduce(common).filter(|common| !common.is_empty())?;
    let mut glob = Vec::with_capacity(2 * common.len() + 1);
    for &byte in common {
        if matches!(byte, b'*' | b'?' | b'[' | b']' | b'\\') {
            glob.push(b'\\');
        }
        glob.push(byte);
    }
    glob.push(b'*');
    Some(glob)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(pattern: &str, key: &str) -> bool {
        Stars::read(pattern.as_bytes()).expect("text and stars").cover(key.as_bytes())
    }

    #[test]
    fn text_and_stars_match_as_redis_matches_them() {
        for (pattern, key, expected) in [
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
            (r"a\*b", "a*b", true),
            (r"a\*b", "axb", false),
            (r"\[x\]\?*", "[x]?y", true),
            (r"a\\*", r"a\b", true),
            ("a\\", r"a\", true),
        ] {
            assert_eq!(covers(pattern, key), expected, "{pattern} {key}");
        }
    }

    #[test]
    fn other_globs_are_left_to_redis() {
        assert_eq!(["a?c", "[ab]", "user:[0-9]*"].map(|pattern| Stars::read(pattern.as_bytes())), [None, None, None]);
    }

    #[test]
    fn what_all_begin_with_is_found_and_means_itself() {
        let of = |prefixes: &[&str]| beginning(prefixes.iter().map(|prefix| prefix.as_bytes()));
        assert_eq!(of(&["user:", "user:by:", "us"]).as_deref(), Some(b"us*".as_slice()));
        assert_eq!(of(&["a*[x", "a*[y"]).as_deref(), Some(br"a\*\[*".as_slice()));
        assert_eq!((of(&["user:", "order:"]), of(&["user:", ""]), of(&[])), (None, None, None));
    }
}
