//! `lower` and `upper`, by Unicode's rules without a locale. The result is that of `lower()` and `toLowerCase()` in
//! Python, JavaScript, Java and Rust, whose clients make the same keys.

use super::Filter;

pub(super) const LOWER: Filter = Filter::plain("lower", "lower case, by Unicode's rules without a locale", lower);

pub(super) const UPPER: Filter = Filter::plain("upper", "upper case, by Unicode's rules without a locale", upper);

/// The only letter whose lower case depends on its neighbours (SpecialCasing.txt, `Final_Sigma`): ς at the end of a
/// word.
const SIGMA: char = 'Σ';

fn lower(input: &[u8], out: &mut Vec<u8>) {
    for chunk in input.utf8_chunks() {
        let text = chunk.valid();
        if text.contains(SIGMA) {
            // Allocates, which other text avoids.
            out.extend_from_slice(text.to_lowercase().as_bytes());
        } else {
            map_chars(text, out, char::to_lowercase);
        }
        out.extend_from_slice(chunk.invalid());
    }
}

fn upper(input: &[u8], out: &mut Vec<u8>) {
    for chunk in input.utf8_chunks() {
        map_chars(chunk.valid(), out, char::to_uppercase);
        out.extend_from_slice(chunk.invalid());
    }
}

fn map_chars<I: Iterator<Item = char>>(text: &str, out: &mut Vec<u8>, map: fn(char) -> I) {
    for c in text.chars().flat_map(map) {
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use crate::rules::filter::tests::text;

    /// `python3 -c 'for w in WORDS: print(w, w.lower())'`, Python 3.11; Node 20 gives the same.
    const LOWERED: &[(&str, &str)] = &[
        ("ΑΣ", "ας"),
        ("ΑΣ.", "ας."),
        ("Σ", "σ"),
        ("ΑΣΑ", "ασα"),
        ("İ", "i\u{307}"),
        ("ΟΔΥΣΣΕΥΣ", "οδυσσευς"),
        ("ΟΔΥΣΣΕΥΣ ΚΑΙ ΠΗΝΕΛΟΠΗ", "οδυσσευς και πηνελοπη"),
        ("Σ Σ", "σ σ"),
        ("ΑΣ'Α", "ασ'α"),
        ("ΑΣ’", "ας’"),
        ("ΑΣ\u{301}", "ας\u{301}"),
        ("Α\u{301}Σ", "α\u{301}ς"),
        ("ΑΣ\u{301}Α", "ασ\u{301}α"),
        ("ΑΣ\u{ad}Α", "ασ\u{ad}α"),
        ("Α.Σ.", "α.ς."),
        ("Α:Σ", "α:ς"),
        ("1Σ", "1σ"),
        ("1ΣΑ", "1σα"),
        ("aΣ", "aς"),
        ("ΣΣ", "σς"),
        ("ΑΣΣ", "ασς"),
        ("ǅΣ", "ǆς"),
        ("ʰΣ", "ʰσ"),
        ("ªΣ", "ªς"),
        ("ⓐΣ", "ⓐς"),
        ("AΣ-B", "aς-b"),
        ("x\u{200d}Σ", "x\u{200d}ς"),
        ("Σας", "σας"),
        ("ΑΣ😀", "ας😀"),
        ("𐐀Σ", "𐐨ς"),
        ("ΑΣ^Α", "ασ^α"),
        ("ΑΣ·", "ας·"),
        ("I", "i"),
        ("İI", "i\u{307}i"),
        ("ẞ", "ß"),
        ("ÄÖÜ", "äöü"),
        ("K", "k"),
        ("Å", "å"),
        ("Ω", "ω"),
        ("ǅ", "ǆ"),
        ("Ἀι", "ἀι"),
        ("ᾼ", "ᾳ"),
        ("Ϊ\u{301}", "ϊ\u{301}"),
        ("ЖЩ", "жщ"),
        ("Ա", "ա"),
        ("Ა", "ა"),
    ];

    /// The same with `upper()`.
    const UPPERED: &[(&str, &str)] = &[
        ("ß", "SS"),
        ("ŉ", "ʼN"),
        ("ﬃ", "FFI"),
        ("ﬄ", "FFL"),
        ("ﬅ", "ST"),
        ("ǰ", "J\u{30c}"),
        ("ΐ", "Ι\u{308}\u{301}"),
        ("և", "ԵՒ"),
        ("ẖ", "H\u{331}"),
        ("ᾳ", "ΑΙ"),
        ("ᾼ", "ΑΙ"),
        ("ῷ", "Ω\u{342}Ι"),
        ("ı", "I"),
        ("i", "I"),
        ("ſ", "S"),
        ("ς", "Σ"),
        ("ǆ", "Ǆ"),
        ("ǅ", "Ǆ"),
        ("straße", "STRASSE"),
        ("ა", "Ა"),
        ("ᲀ", "В"),
        ("ⓐ", "Ⓐ"),
        ("µ", "Μ"),
        ("ÿ", "Ÿ"),
        ("ﬗ", "ՄԽ"),
        ("ẚ", "Aʾ"),
        ("ὖ", "Υ\u{313}\u{342}"),
        ("é", "É"),
        ("e\u{301}", "E\u{301}"),
        ("𐐨", "𐐀"),
    ];

    #[test]
    fn cases_are_those_of_the_languages_that_make_the_keys() {
        for (words, filter) in [(LOWERED, "lower"), (UPPERED, "upper")] {
            for (word, expected) in words {
                assert_eq!(text(filter, word).as_deref(), Some(*expected), "{word}|{filter}");
            }
        }
    }
}
