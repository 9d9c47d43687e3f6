//! How a value is written in a key: as the output function of its type prints it. For some types that differs from a
//! cast to text and from what applications write; docs/rules.md has the whole table.

/// How the type's text differs from what people expect; `None` if it does not. `type_name` is as the catalogue formats
/// it, e.g. `character(4)`.
pub fn text_form(type_name: &str) -> Option<&'static str> {
    if type_name.ends_with("[]") {
        return Some("as {a,b}, with quotes where an element needs them");
    }
    // `timestamp(3) with time zone`
    let precision = type_name.split_once('(').and_then(|(name, rest)| Some((name, rest.split_once(')')?.1)));
    let (name, tail) = precision.unwrap_or((type_name, ""));
    Some(match (name, tail) {
        ("boolean", _) => "as t or f, not true or false",
        ("character", _) => "padded with blanks to its length; |trim removes them",
        ("timestamp with time zone", _) | ("timestamp", " with time zone") => {
            "as 2026-02-03 04:05:06+00, always in UTC"
        }
        ("timestamp without time zone" | "timestamp", _) => "as 2026-02-03 04:05:06",
        ("time with time zone", _) | ("time", " with time zone") => {
            "as 04:05:06+02, in the zone that it was stored with"
        }
        ("interval", _) => "as 1 day 02:00:00",
        ("numeric", _) => "with the digits of its scale: 1.50",
        ("real" | "double precision", _) => "as the shortest text that reads back as the same number: 0.1",
        ("money", _) => "as lc_monetary of the server says: $12.34",
        ("bytea", _) => "as \\x and two hexadecimal digits a byte",
        ("inet", _) => "without /32 or /128 for a single address",
        ("cidr", _) => "with the length of its network",
        ("json", _) => "as it was written, blanks included",
        ("jsonb", _) => "with a blank after each colon and comma, and its keys sorted by length, then bytewise",
        ("regclass" | "regtype" | "regproc", _) => "as a name, with its schema unless that is pg_catalog",
        _ if name.ends_with("range") => "in canonical form: [1,5)",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_known_with_and_without_their_modifiers() {
        for (type_name, part) in [
            ("boolean", "t or f"),
            ("character(4)", "padded"),
            ("character", "padded"),
            ("timestamp(3) with time zone", "UTC"),
            ("timestamp with time zone", "UTC"),
            ("numeric(10,2)", "1.50"),
            ("inet", "/128"),
            ("text[]", "{a,b}"),
            ("numeric(3,1)[]", "{a,b}"),
            ("int4range", "[1,5)"),
        ] {
            assert!(text_form(type_name).is_some_and(|form| form.contains(part)), "{type_name}");
        }
        assert!(text_form("timestamp(3) without time zone").is_some_and(|form| !form.contains("UTC")));
        for plain in ["integer", "bigint", "text", "character varying(20)", "uuid", "date", "public.mood"] {
            assert_eq!(text_form(plain), None, "{plain}");
        }
    }
}
