//! Key templates: literal text and `{column|filter|filter}`. This module parses them; [`binding`](super::binding)
//! renders them.

use super::filter::{self, FILTERS, Filter};
use super::name;
use crate::types::pattern::escaped;
use crate::types::table::TableName;

/// A key template, parsed.
#[derive(Debug, Clone)]
pub struct Template {
    text: String,
    pieces: Vec<Piece>,
}

/// One piece of a template.
#[derive(Debug, Clone)]
pub enum Piece {
    /// Text that appears in the key as it is.
    Literal(String),
    /// A column's text, passed through filters.
    Column {
        /// The catalogue's name, unquoted.
        name: String,
        /// Applied first to last.
        filters: Vec<&'static Filter>,
    },
}

/// A template that cannot be parsed: what is wrong and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key template {template:?}: {reason}")]
pub struct TemplateError {
    template: String,
    reason: String,
}

impl Template {
    /// Parses a template of a rule for `table`, whose names replace `{schema}` and `{table}`.
    pub fn parse(text: &str, table: &TableName) -> Result<Template, TemplateError> {
        let pieces = parse(text, table).map_err(|reason| TemplateError { template: text.to_owned(), reason })?;
        Ok(Template { text: text.to_owned(), pieces })
    }

    /// The template as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its pieces, in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The columns that it names, unquoted; a column named twice appears twice.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Column { name, .. } => Some(name.as_str()),
            Piece::Literal(_) => None,
        })
    }

    /// Whether it contains literal text. Without any, its scope would be every key in the cache.
    pub fn has_literal(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Literal(_)))
    }

    /// Whether `key` looks like one of its keys: it contains the literals in order, with anything between them.
    pub fn could_make(&self, key: &[u8]) -> bool {
        could_make(&self.pieces, key)
    }

    /// The key that results if every placeholder's text is `filling`.
    pub fn sample(&self, filling: &str) -> String {
        let text = |piece: &Piece| match piece {
            Piece::Literal(text) => text.clone(),
            Piece::Column { .. } => filling.to_owned(),
        };
        self.pieces.iter().map(text).collect()
    }

    /// The glob of every key that it can make: literals escaped for Redis's glob syntax, and `*` for placeholders.
    pub fn scope_pattern(&self) -> String {
        let mut pattern = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => pattern.push_str(&escaped(text)),
                Piece::Column { .. } if pattern.ends_with('*') && !pattern.ends_with("\\*") => {}
                Piece::Column { .. } => pattern.push('*'),
            }
        }
        pattern
    }
}

/// Whether `text` consists of the literals of `pieces` in order, with anything in place of the columns.
pub(super) fn could_make(pieces: &[Piece], text: &[u8]) -> bool {
    let mut rest = text;
    let mut anything = false;
    for (number, piece) in pieces.iter().enumerate() {
        let Piece::Literal(literal) = piece else {
            anything = true;
            continue;
        };
        let literal = literal.as_bytes();
        let last = number + 1 == pieces.len();
        let found = match (anything, last) {
            (false, _) => rest.starts_with(literal).then_some(0),
            (true, true) => rest.ends_with(literal).then(|| rest.len() - literal.len()),
            (true, false) => rest.windows(literal.len()).position(|window| window == literal),
        };
        let Some(after) = found.and_then(|at| rest.get(at + literal.len()..)) else {
            return false;
        };
        rest = after;
        anything = false;
    }
    anything || rest.is_empty()
}

fn parse(text: &str, table: &TableName) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut literal = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, found) = rest.split_at(at);
        literal.push_str(&unglobbed(before)?);
        if let Some(after) = found.strip_prefix("{{") {
            literal.push('{');
            rest = after;
        } else if let Some(after) = found.strip_prefix("}}") {
            literal.push('}');
            rest = after;
        } else if let Some(inside) = found.strip_prefix('{') {
            let end = placeholder_end(inside).ok_or("a { without its }; a literal brace is written {{")?;
            let (inside, after) = inside.split_at(end);
            match placeholder(inside, table)? {
                Piece::Literal(text) => literal.push_str(&text),
                column @ Piece::Column { .. } => {
                    push_literal(&mut pieces, &mut literal);
                    pieces.push(column);
                }
            }
            rest = after.strip_prefix('}').unwrap_or(after);
        } else {
            return Err("a } without its {; a literal brace is written }}".to_owned());
        }
    }
    literal.push_str(&unglobbed(rest)?);
    push_literal(&mut pieces, &mut literal);
    if pieces.is_empty() {
        return Err("it is empty; write the key as the application does, e.g. user:{id}".to_owned());
    }
    Ok(pieces)
}

/// Literal text, in which `\*`, `\?` and `\[` lose their backslash. An unescaped one looks like a glob but would be
/// literal: the rule would remove one key that does not exist.
fn unglobbed(text: &str) -> Result<String, String> {
    let mut literal = String::with_capacity(text.len());
    let mut signs = text.chars().peekable();
    while let Some(sign) = signs.next() {
        match (sign, signs.peek()) {
            ('\\', Some(&escaped @ ('*' | '?' | '['))) => {
                literal.push(escaped);
                signs.next();
            }
            ('*' | '?' | '[', _) => {
                return Err(format!(
                    "{sign} is no wildcard here: the key would contain it literally. Write a {{column}} in its place. \
                     To remove many keys at once, use coherd flush. If the application's keys contain {sign}, write \
                     \\{sign} in single quotes"
                ));
            }
            _ => literal.push(sign),
        }
    }
    Ok(literal)
}

fn push_literal(pieces: &mut Vec<Piece>, literal: &mut String) {
    if !literal.is_empty() {
        pieces.push(Piece::Literal(std::mem::take(literal)));
    }
}

/// The position of the placeholder's `}`; one inside a quoted name does not count.
fn placeholder_end(inside: &str) -> Option<usize> {
    let mut quoted = false;
    inside.char_indices().find_map(|(at, c)| {
        quoted ^= c == '"';
        (c == '}' && !quoted).then_some(at)
    })
}

fn placeholder(inside: &str, table: &TableName) -> Result<Piece, String> {
    let (column, rest) = name::split_identifier(inside).ok_or_else(|| {
        format!("{{{inside}}} names no column; write {{column}}, or {{\"Column\"}} where SQL needs the quotes")
    })?;
    let mut filters = Vec::new();
    if !rest.is_empty() {
        let listed = rest
            .strip_prefix('|')
            .ok_or_else(|| format!("{{{inside}}}: after the column comes a bar and a filter, as in {{email|lower}}"))?;
        for filter in listed.split('|') {
            filters.push(find_filter(filter.trim())?);
        }
    }
    // A quoted name is always a column.
    match inside.trim_start().starts_with('"') {
        false if column == "schema" => Ok(Piece::Literal(filtered(&table.schema, &filters))),
        false if column == "table" => Ok(Piece::Literal(filtered(&table.name, &filters))),
        _ => Ok(Piece::Column { name: column, filters }),
    }
}

fn find_filter(name: &str) -> Result<&'static Filter, String> {
    filter::find(name).ok_or_else(|| {
        let known: Vec<&str> = FILTERS.iter().map(|filter| filter.name).collect();
        let near = super::nearest(name, known.iter().copied());
        let hint = near.map(|near| format!("did you mean {near:?}? ")).unwrap_or_default();
        format!("there is no filter {name:?}; {hint}known: {}", known.join(", "))
    })
}

fn filtered(text: &str, filters: &[&Filter]) -> String {
    let apply = |input: Vec<u8>, filter: &&Filter| {
        let mut out = Vec::new();
        (filter.apply)(&input, &mut out);
        out
    };
    String::from_utf8_lossy(&filters.iter().fold(text.as_bytes().to_vec(), apply)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users() -> TableName {
        TableName { schema: "public".into(), name: "users".into() }
    }

    fn parsed(text: &str) -> Template {
        Template::parse(text, &users()).unwrap()
    }

    fn error(text: &str) -> String {
        Template::parse(text, &users()).unwrap_err().to_string()
    }

    #[test]
    fn literals_columns_and_filters_are_told_apart() {
        let template = parsed("user:{id}:{Email|lower|md5}:{\"Full Name\"}");
        assert_eq!(template.columns().collect::<Vec<_>>(), ["id", "email", "Full Name"]);
        let Piece::Column { filters, .. } = &template.pieces()[3] else { panic!("{template:?}") };
        assert_eq!(filters.iter().map(|f| f.name).collect::<Vec<_>>(), ["lower", "md5"]);
    }

    #[test]
    fn doubled_braces_are_literal_so_that_hash_tags_can_be_written() {
        let template = parsed("user:{{{id}}}:profile");
        assert!(matches!(&template.pieces()[0], Piece::Literal(text) if text == "user:{"));
        assert!(matches!(&template.pieces()[2], Piece::Literal(text) if text == "}:profile"));
        assert_eq!(parsed("{{}}").scope_pattern(), "{}");
    }

    #[test]
    fn schema_and_table_are_literal_and_a_quoted_name_is_a_column() {
        assert_eq!(parsed("{schema}.{table|upper}:{id}").scope_pattern(), "public.USERS:*");
        assert_eq!(parsed("x{\"table\"}").columns().collect::<Vec<_>>(), ["table"]);
        assert_eq!(parsed("x{\"a}b\"}").columns().collect::<Vec<_>>(), ["a}b"]);
    }

    #[test]
    fn a_scope_escapes_what_a_glob_would_read() {
        assert_eq!(parsed(r"a\*b\?\[c]\:{id}{tenant}:z").scope_pattern(), r"a\*b\?\[c\]\\:*:z");
        assert_eq!(parsed(r"a\*{id}").scope_pattern(), r"a\**");
        assert!(!parsed("{id}").has_literal());
    }

    #[test]
    fn what_looks_like_a_glob_is_refused_unless_a_backslash_says_that_it_is_meant() {
        insta::assert_snapshot!(error("user:*"), @r#"key template "user:*": * is no wildcard here: the key would contain it literally. Write a {column} in its place. To remove many keys at once, use coherd flush. If the application's keys contain *, write \* in single quotes"#);
        for wrong in ["*", "user:{id}:*", "u?er:{id}", "user:[0-9]{id}", "{id}*", r"a\\b*{id}"] {
            assert!(error(wrong).contains("is no wildcard here"), "{wrong}");
        }
        for (written, key) in [(r"page:/x\?id={id}", "page:/x?id=7"), (r"\[{id}]", "[7]"), (r"a\\*{id}", r"a\*7")] {
            assert_eq!(parsed(written).sample("7"), key);
        }
        let odd = TableName { schema: "public".into(), name: "a*b[c]?".into() };
        assert_eq!(Template::parse("{table}:{id}", &odd).unwrap().sample("7"), "a*b[c]?:7");
        assert_eq!(parsed("x{\"a*b\"}").columns().collect::<Vec<_>>(), ["a*b"]);
    }

    #[test]
    fn a_key_is_recognised_by_its_literals() {
        let template = parsed("user:{id}:by:{email}:x");
        for (key, expected) in
            [("user:1:by:a@b:x", true), ("user::by::x", true), ("user:1:by:a", false), ("auser:1:by:a:x", false)]
        {
            assert_eq!(template.could_make(key.as_bytes()), expected, "{key}");
        }
        assert!(parsed("fixed").could_make(b"fixed") && !parsed("fixed").could_make(b"fixed2"));
        assert!(parsed("a{id}").could_make(b"a") && !parsed("a{id}b").could_make(b"a"));
    }

    #[test]
    fn what_cannot_be_read_says_what_to_write() {
        insta::assert_snapshot!(error("user:{id"), @r#"key template "user:{id": a { without its }; a literal brace is written {{"#);
        insta::assert_snapshot!(error("user:id}"), @r#"key template "user:id}": a } without its {; a literal brace is written }}"#);
        insta::assert_snapshot!(error("user:{}"), @r#"key template "user:{}": {} names no column; write {column}, or {"Column"} where SQL needs the quotes"#);
        insta::assert_snapshot!(error("u:{id|lowr}"), @r#"key template "u:{id|lowr}": there is no filter "lowr"; did you mean "lower"? known: lower, upper, trim, md5, sha1, sha256, hex, urlencode"#);
        insta::assert_snapshot!(error("u:{id lower}"), @r#"key template "u:{id lower}": {id lower}: after the column comes a bar and a filter, as in {email|lower}"#);
        insta::assert_snapshot!(error(""), @r#"key template "": it is empty; write the key as the application does, e.g. user:{id}"#);
    }
}
