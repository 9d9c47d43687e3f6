//! Template filters. Each has one file and one entry in [`FILTERS`].

mod base64;
mod bool;
mod case;
mod date;
mod default;
mod digest;
mod escape;
mod pad;
mod trim;

use std::fmt;
use std::sync::Arc;

/// Appends the filtered input to the output. Returns `false` if the input is not of the kind that the filter reads; then
/// the key cannot be known.
pub type Apply = dyn Fn(&[u8], &mut Vec<u8>) -> bool + Send + Sync;

/// Turns a column's text into the text in the key.
#[derive(Debug)]
pub struct Filter {
    /// The name that a template uses after the bar.
    pub name: &'static str,
    /// What may follow the name and a colon, e.g. `FORMAT`; empty if nothing may.
    pub argument: &'static str,
    /// One line for the documentation.
    pub about: &'static str,
    kind: Kind,
}

/// How a filter becomes a function. Filters that work on characters leave bytes that are not UTF-8 (as in an SQL_ASCII
/// database) unchanged.
enum Kind {
    /// Without an argument.
    Plain(fn(&[u8], &mut Vec<u8>)),
    /// The argument decides: the text after the colon, or `None`. An error says what to write.
    Argued(fn(Option<&str>) -> Result<Arc<Apply>, String>),
    /// The argument is the text for NULL; any other value stays.
    Default,
}

/// Every filter that a template can name.
pub const FILTERS: &[Filter] = &[
    case::LOWER,
    case::UPPER,
    trim::TRIM,
    default::DEFAULT,
    bool::BOOL,
    date::DATE,
    pad::PAD,
    digest::MD5,
    digest::SHA1,
    digest::SHA256,
    escape::HEX,
    base64::BASE64,
    escape::URLENCODE,
];

/// A filter as a template uses it.
#[derive(Clone)]
pub struct Use {
    /// The filter.
    pub filter: &'static Filter,
    /// The text after the colon.
    pub argument: Option<String>,
    apply: How,
}

#[derive(Clone)]
enum How {
    Plain(fn(&[u8], &mut Vec<u8>)),
    Argued(Arc<Apply>),
    Default,
}

impl Filter {
    const fn plain(name: &'static str, about: &'static str, apply: fn(&[u8], &mut Vec<u8>)) -> Filter {
        Filter { name, argument: "", about, kind: Kind::Plain(apply) }
    }

    /// Prepares the filter for one place in a template. `argument` is the text after the colon.
    pub fn prepare(&'static self, argument: Option<&str>) -> Result<Use, String> {
        let apply = match (&self.kind, argument) {
            (Kind::Plain(apply), None) => How::Plain(*apply),
            (Kind::Plain(_), Some(argument)) => {
                return Err(format!("{} takes no argument; leave out :{argument}", self.name));
            }
            (Kind::Argued(prepare), _) => How::Argued(prepare(argument)?),
            (Kind::Default, Some(_)) => How::Default,
            (Kind::Default, None) => return Err("default needs the text for NULL: default:none".to_owned()),
        };
        Ok(Use { filter: self, argument: argument.map(str::to_owned), apply })
    }

    /// As a template may write it, for help: `date:FORMAT`.
    pub fn written(&self) -> String {
        if self.argument.is_empty() { self.name.to_owned() } else { format!("{}:{}", self.name, self.argument) }
    }
}

impl Use {
    /// Appends the filtered input. Returns `false` if the input cannot be read.
    pub fn apply(&self, input: &[u8], out: &mut Vec<u8>) -> bool {
        match &self.apply {
            How::Plain(apply) => apply(input, out),
            How::Argued(apply) => return apply(input, out),
            How::Default => out.extend_from_slice(input),
        }
        true
    }

    /// The text that replaces NULL, if the filter gives one.
    pub fn for_null(&self) -> Option<&str> {
        matches!(self.apply, How::Default).then_some(self.argument.as_deref()).flatten()
    }

    /// As the template writes it: `date:%Y`.
    pub fn written(&self) -> String {
        match &self.argument {
            None => self.filter.name.to_owned(),
            Some(argument) => format!("{}:{argument}", self.filter.name),
        }
    }
}

impl fmt::Debug for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written())
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Plain(_) => "plain",
            Kind::Argued(_) => "argued",
            Kind::Default => "default",
        })
    }
}

/// The filter called `name`.
pub fn find(name: &str) -> Option<&'static Filter> {
    FILTERS.iter().find(|filter| filter.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result of a filter as a template writes it; `None` if the input cannot be read.
    pub(super) fn filtered(written: &str, input: &[u8]) -> Option<Vec<u8>> {
        let (name, argument) =
            written.split_once(':').map_or((written, None), |(name, argument)| (name, Some(argument)));
        let mut out = b"before:".to_vec();
        let read = find(name).unwrap().prepare(argument).unwrap().apply(input, &mut out);
        read.then(|| out.split_off(b"before:".len()))
    }

    pub(super) fn text(written: &str, input: &str) -> Option<String> {
        filtered(written, input.as_bytes()).map(|text| String::from_utf8(text).unwrap())
    }

    pub(super) fn error(name: &str, argument: Option<&str>) -> String {
        find(name).unwrap().prepare(argument).unwrap_err()
    }

    #[test]
    fn every_filter_does_what_its_name_says() {
        for (written, input, expected) in [
            ("lower", "ÄB-c", "äb-c"),
            ("upper", "straße", "STRASSE"),
            ("trim", " \t a b\n", "a b"),
            ("default:none", "x", "x"),
            ("bool:true,false", "t", "true"),
            ("date:%Y-%m", "2026-02-03", "2026-02"),
            ("pad:4", "7", "0007"),
            ("md5", "abc", "900150983cd24fb0d6963f7d28e17f72"),
            ("sha1", "abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            ("sha256", "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            ("hex", "aZ~", "615a7e"),
            ("base64", "a b/ü", "YSBiL8O8"),
            ("urlencode", "a b/ü-_.~", "a%20b%2F%C3%BC-_.~"),
        ] {
            assert_eq!(text(written, input).as_deref(), Some(expected), "{written}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_pass_through_the_character_filters() {
        assert_eq!(filtered("lower", b"A\xFFB").unwrap(), b"a\xFFb");
        assert_eq!(filtered("upper", b"a\xFFb").unwrap(), b"A\xFFB");
        assert_eq!(filtered("trim", b" \xFF ").unwrap(), b"\xFF");
    }

    #[test]
    fn an_argument_is_wanted_or_refused() {
        assert_eq!(error("lower", Some("x")), "lower takes no argument; leave out :x");
        for filter in FILTERS {
            assert_eq!(
                filter.prepare(None).is_err(),
                matches!(filter.name, "default" | "bool" | "date" | "pad"),
                "{filter:?}"
            );
        }
    }
}
