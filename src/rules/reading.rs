//! Reads a key backwards: from a template and a key to the column values of the rows that have that key.

use super::filter::Use;
use super::template::{Piece, Placeholder, Template, could_make};

/// The text that a key implies for one column, if its template made it.
#[derive(Debug, Clone)]
pub struct Implied {
    /// What made it: the column, a path, filters.
    pub placeholder: Placeholder,
    /// The text in the key: the value, or the output of the filters.
    pub text: Vec<u8>,
    /// Whether the text could also end elsewhere, because the literal after it occurs more than once in the key.
    pub ambiguous: bool,
}

/// The placeholder whose text has begun.
#[derive(Clone, Copy)]
enum Open<'a> {
    Column(&'a Placeholder),
    Hashed(&'a Use),
}

/// What `key` implies for the template's columns: one entry per placeholder, in order. `None` if no row can have the
/// key: a literal is missing, or a text is not a possible output of its last filter.
pub fn read(template: &Template, key: &[u8]) -> Option<Vec<Implied>> {
    if !template.could_make(key) {
        return None;
    }
    let mut implied = Vec::new();
    let mut rest = key;
    // The placeholder whose text has begun, and whether another placeholder comes directly before it.
    let mut open: Option<(Open<'_>, bool)> = None;
    for (number, piece) in template.pieces().iter().enumerate() {
        let its = match piece {
            Piece::Literal(literal) => {
                let literal = literal.as_bytes();
                let is_last = number + 1 == template.pieces().len();
                let at = match (&open, is_last) {
                    (None, _) => 0,
                    (Some(_), true) => rest.len().checked_sub(literal.len())?,
                    (Some(_), false) => find(rest, literal)?,
                };
                let (text, after) = rest.split_at_checked(at)?;
                rest = after.get(literal.len()..)?;
                if let Some(open) = open.take() {
                    let later = template.pieces().get(number + 1..).unwrap_or_default();
                    let again = !is_last && ends_elsewhere(after.get(1..)?, literal, later);
                    implied.extend(close(open, text, again)?);
                }
                continue;
            }
            Piece::Column(placeholder) => Open::Column(placeholder),
            Piece::Hashed { hash, .. } => Open::Hashed(hash),
        };
        // Two placeholders with nothing between them: the first one's text can be empty or anything.
        let ambiguous = open.is_some();
        if let Some(open) = open.take() {
            implied.extend(close(open, b"", true)?);
        }
        open = Some((its, ambiguous));
    }
    if let Some(open) = open {
        implied.extend(close(open, rest, false)?);
    }
    Some(implied)
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len().max(1)).position(|window| window == part)
}

/// Whether a value of the type, named as in the catalogue, can print as this text. True when in doubt.
pub fn can_print(type_name: &str, text: &[u8]) -> bool {
    let digits = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    match type_name {
        "smallint" | "integer" | "bigint" => digits(text.strip_prefix(b"-").unwrap_or(text)),
        "boolean" => matches!(text, b"t" | b"f"),
        "uuid" => text.len() == 36 && text.iter().all(|byte| *byte == b'-' || is_hex(&[*byte])),
        _ => true,
    }
}

/// Whether the literal occurs again in `text`, followed by something that `later` can make.
fn ends_elsewhere(text: &[u8], literal: &[u8], later: &[Piece]) -> bool {
    let behind = (0..text.len()).filter_map(|at| text.get(at..)?.strip_prefix(literal));
    behind.into_iter().any(|behind| could_make(later, behind))
}

/// `None` if no value gives this text; nothing in it if the text implies no value.
fn close((open, touching): (Open<'_>, bool), text: &[u8], ambiguous: bool) -> Option<Vec<Implied>> {
    let ambiguous = ambiguous || touching;
    let last = match open {
        Open::Column(placeholder) => placeholder.filters.last(),
        Open::Hashed(hash) => Some(hash),
    };
    let can_be = ambiguous || last.is_none_or(|filter| can_give(filter, text));
    let implied =
        |placeholder: &Placeholder| Implied { placeholder: placeholder.clone(), text: text.to_vec(), ambiguous };
    can_be.then(|| match open {
        Open::Column(placeholder) => vec![implied(placeholder)],
        Open::Hashed(_) => Vec::new(),
    })
}

/// Whether the filter can output this text.
fn can_give(filter: &Use, text: &[u8]) -> bool {
    let hex = |digits: usize| text.len() == digits && is_hex(text);
    match filter.filter.name {
        "md5" => hex(32),
        "sha1" => hex(40),
        "sha256" => hex(64),
        "hex" => text.len().is_multiple_of(2) && is_hex(text),
        // These filters leave their own output unchanged.
        "lower" | "upper" | "trim" | "pad" => {
            let mut again = Vec::new();
            filter.apply(text, &mut again) && again == text
        }
        _ => true,
    }
}

fn is_hex(text: &[u8]) -> bool {
    text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::table::TableName;

    fn told(template: &str, key: &str) -> Option<Vec<String>> {
        let table = TableName { schema: "public".into(), name: "users".into() };
        let template = Template::parse(template, &table).unwrap();
        let implied = read(&template, key.as_bytes())?;
        let one = |its: &Implied| {
            let text = String::from_utf8_lossy(&its.text);
            format!(
                "{}{}={text}{}",
                its.placeholder.column,
                its.placeholder.filters.iter().map(Use::written).collect::<Vec<_>>().join("|"),
                if its.ambiguous { "?" } else { "" }
            )
        };
        Some(implied.iter().map(one).collect())
    }

    #[test]
    fn a_key_tells_what_stands_at_its_placeholders() {
        let told = |template, key| told(template, key).unwrap();
        assert_eq!(told("user:{id}", "user:7"), ["id=7"]);
        assert_eq!(told("seat:{flight}:{seat}:x", "seat:LH1:7:x"), ["flight=LH1", "seat=7"]);
        assert_eq!(told("mail:{email|lower}", "mail:a:b@x"), ["emaillower=a:b@x"]);
        assert_eq!(told("{{{id}}}:p", "{7}:p"), ["id=7"]);
        assert_eq!(told("{a}:{b}", "x:y:z"), ["a=x?", "b=y:z"]);
        assert_eq!(told("k{a}{b}", "kxy"), ["a=?", "b=xy?"]);
        assert!(told("fixed", "fixed").is_empty());
    }

    #[test]
    fn a_key_that_no_row_has_is_told_from_one_that_looks_right() {
        for (template, key) in [
            ("user:{id}", "usr:7"),
            ("m:{email|lower}", "m:Ann@x"),
            ("m:{email|md5}", "m:abc"),
            ("h:{x|hex}", "h:abc"),
            ("t:{x|trim}", "t: a"),
        ] {
            assert_eq!(told(template, key), None, "{template} {key}");
        }
        assert!(can_print("bigint", b"-7") && can_print("text", b"x") && can_print("boolean", b"t"));
        assert!(!can_print("integer", b"by-email:x") && !can_print("uuid", b"7") && !can_print("bigint", b"-"));
        assert!(told("m:{email|md5}", "m:900150983cd24fb0d6963f7d28e17f72").is_some());
    }
}
