//! Globs as Redis reads them (`stringmatchlen` in its `util.c`): `*`, `?`, `[a-z]`, `[^a]`, and a backslash before what is
//! to mean itself. Bytes are compared, not characters.

/// Whether `pattern` covers all of `text`. Takes time in proportion to the product of their lengths at most.
pub fn covers(pattern: &[u8], text: &[u8]) -> bool {
    let (mut pattern_at, mut text_at) = (0, 0);
    // Where to go on when what follows the last `*` does not fit: it then takes one byte more.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let rest = pattern.get(pattern_at..).unwrap_or_default();
        if rest.first() == Some(&b'*') {
            pattern_at += 1;
            retry = Some((pattern_at, text_at));
            continue;
        }
        match (text.get(text_at), rest.is_empty()) {
            (None, true) => return true,
            (Some(&byte), false) => {
                if let Some(length) = one(rest, byte) {
                    pattern_at += length;
                    text_at += 1;
                    continue;
                }
            }
            (None, false) => return false,
            (Some(_), true) => {}
        }
        match &mut retry {
            Some((after_star, at)) => {
                *at += 1;
                (pattern_at, text_at) = (*after_star, *at);
            }
            None => return false,
        }
    }
}

/// The length of what stands first in the pattern, if it covers `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [b'[', class @ ..] => {
            let (is_in, length) = in_class(class, byte);
            is_in.then_some(length + 1)
        }
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// Whether a class covers `byte`, and its length with the bracket that ends it; one without an end ends with the pattern.
fn in_class(class: &[u8], byte: u8) -> (bool, usize) {
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    loop {
        match class.get(at..).unwrap_or_default() {
            [] => return (found != negated, at),
            [b']', ..] => return (found != negated, at + 1),
            [b'\\', escaped, ..] => {
                found |= *escaped == byte;
                at += 2;
            }
            [from, b'-', to, ..] => {
                found |= (*from.min(to)..=*from.max(to)).contains(&byte);
                at += 3;
            }
            [one, ..] => {
                found |= *one == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_are_read_as_redis_reads_them() {
        for (pattern, text, expected) in [
            ("user:*", "user:7", true),
            ("user:*", "user:", true),
            ("user:*", "users:7", false),
            ("*:*:z", "a:b:c:z", true),
            ("*:*:z", "a:b:c:y", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            (r"a\*b", "a*b", true),
            (r"a\*b", "axb", false),
            (r"[\]]", "]", true),
            ("", "", true),
            ("", "a", false),
            ("***a", "bba", true),
        ] {
            assert_eq!(covers(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn many_stars_take_no_long_time() {
        assert!(!covers(format!("{}c", "a*".repeat(50)).as_bytes(), "a".repeat(5000).as_bytes()));
    }
}
