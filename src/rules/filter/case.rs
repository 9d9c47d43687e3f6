//! `lower` and `upper`, by Unicode's rules without a locale.

use super::Filter;

pub(super) const LOWER: Filter = Filter {
    name: "lower",
    about: "lower case, by Unicode's rules without a locale",
    apply: |input, out| map_chars(input, out, char::to_lowercase),
};

pub(super) const UPPER: Filter = Filter {
    name: "upper",
    about: "upper case, by Unicode's rules without a locale",
    apply: |input, out| map_chars(input, out, char::to_uppercase),
};

fn map_chars<I: Iterator<Item = char>>(input: &[u8], out: &mut Vec<u8>, map: fn(char) -> I) {
    for chunk in input.utf8_chunks() {
        for c in chunk.valid().chars().flat_map(map) {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        }
        out.extend_from_slice(chunk.invalid());
    }
}
