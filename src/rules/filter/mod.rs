//! Template filters. Each has one file and one entry in [`FILTERS`].

mod case;
mod digest;
mod escape;
mod trim;

/// Turns a column's text into the text in the key.
#[derive(Debug)]
pub struct Filter {
    /// The name that a template uses after the bar.
    pub name: &'static str,
    /// One line for the documentation.
    pub about: &'static str,
    /// Appends the filtered input to the output. Filters that work on characters leave bytes that are not UTF-8 (as in
    /// an SQL_ASCII database) unchanged.
    pub apply: fn(&[u8], &mut Vec<u8>),
}

/// Every filter that a template can name.
pub const FILTERS: &[Filter] =
    &[case::LOWER, case::UPPER, trim::TRIM, digest::MD5, digest::SHA1, digest::SHA256, escape::HEX, escape::URLENCODE];

/// The filter called `name`.
pub fn find(name: &str) -> Option<&'static Filter> {
    FILTERS.iter().find(|filter| filter.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(name: &str, input: &[u8]) -> Vec<u8> {
        let mut out = b"before:".to_vec();
        (find(name).unwrap().apply)(input, &mut out);
        out.split_off(b"before:".len())
    }

    #[test]
    fn every_filter_does_what_its_name_says() {
        for (name, input, expected) in [
            ("lower", "ÄB-c", "äb-c"),
            ("upper", "straße", "STRASSE"),
            ("trim", " \t a b\n", "a b"),
            ("md5", "abc", "900150983cd24fb0d6963f7d28e17f72"),
            ("sha1", "abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            ("sha256", "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            ("hex", "aZ~", "615a7e"),
            ("urlencode", "a b/ü-_.~", "a%20b%2F%C3%BC-_.~"),
        ] {
            assert_eq!(String::from_utf8(apply(name, input.as_bytes())).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_pass_through_the_character_filters() {
        assert_eq!(apply("lower", b"A\xFFB"), b"a\xFFb");
        assert_eq!(apply("upper", b"a\xFFb"), b"A\xFFB");
        assert_eq!(apply("trim", b" \xFF "), b"\xFF");
    }
}
