//! Key templates: literal text and `{column|filter|filter}`. This module parses them; [`binding`](super::binding)
//! renders them.

mod parse;

use std::collections::BTreeMap;

use super::filter::Use;
use super::value::json::Step;
use crate::types::pattern::escaped;
use crate::types::table::{TableName, quote_identifier, quote_literal};

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
    /// A column's text, or a part of it, passed through filters.
    Column(Placeholder),
    /// The pieces' text, hashed.
    Hashed {
        /// No literal text alone, and no other hash.
        pieces: Vec<Piece>,
        /// The hash.
        hash: Use,
    },
}

/// A placeholder: `{column->>path[]|filter}`.
#[derive(Debug, Clone)]
pub struct Placeholder {
    /// The column's name in the catalogue, unquoted.
    pub column: String,
    /// The path into its JSON; empty for the column itself.
    pub path: Vec<Step>,
    /// `[]`: one key for each element of the array.
    pub each: bool,
    /// Applied first to last.
    pub filters: Vec<Use>,
}

impl Placeholder {
    /// As the template writes it, without braces: `settings->>theme|lower`.
    pub fn written(&self) -> String {
        let mut written = quote_identifier(&self.column);
        for (place, step) in self.path.iter().enumerate() {
            written.push_str(if place + 1 == self.path.len() && !self.each { "->>" } else { "->" });
            match step {
                Step::Name(name) => written.push_str(&quote_literal(name)),
                Step::Index(index) => written.push_str(&index.to_string()),
            }
        }
        written.push_str(if self.each { "[]" } else { "" });
        let filters = self.filters.iter().map(Use::written);
        std::iter::once(written).chain(filters).collect::<Vec<_>>().join("|")
    }

    /// Whether it stands for the column's whole text, without filters.
    pub fn is_plain(&self) -> bool {
        self.path.is_empty() && !self.each && self.filters.is_empty()
    }
}

/// The values of each variable of a rule, by its name.
pub type Vars = BTreeMap<String, Vec<String>>;

/// What a rule says about all its templates.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Its names replace `{schema}` and `{table}`.
    pub table: &'a TableName,
    /// Names that are no columns.
    pub vars: &'a Vars,
    /// Hashes what follows the literal text at the beginning.
    pub hash: Option<&'a Use>,
}

/// A template that cannot be parsed: what is wrong and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key template {template:?}: {reason}")]
pub struct TemplateError {
    template: String,
    reason: String,
}

impl Template {
    /// Parses a template of a rule for `table`, whose names replace `{schema}` and `{table}`. The rule has no variables
    /// and no hash.
    pub fn parse(text: &str, table: &TableName) -> Result<Template, TemplateError> {
        let none = || TemplateError { template: text.to_owned(), reason: "it gives no key".to_owned() };
        Template::parse_each(text, &Context { table, vars: &Vars::new(), hash: None })?.pop().ok_or_else(none)
    }

    /// Parses a template: one for each combination of the values of the variables that it names.
    pub fn parse_each(text: &str, context: &Context<'_>) -> Result<Vec<Template>, TemplateError> {
        parse::each(text, context)
    }

    /// The template as it was written, with the values of its variables.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its pieces, in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The columns that it names, unquoted; a column named twice appears twice.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        placeholders(&self.pieces).map(|its| its.column.as_str())
    }

    /// Its placeholders, in order.
    pub fn placeholders(&self) -> impl Iterator<Item = &Placeholder> {
        placeholders(&self.pieces)
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
            Piece::Column(_) | Piece::Hashed { .. } => filling.to_owned(),
        };
        self.pieces.iter().map(text).collect()
    }

    /// The glob of every key that it can make: literals escaped for Redis's glob syntax, and `*` for placeholders.
    pub fn scope_pattern(&self) -> String {
        let mut pattern = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(text) => pattern.push_str(&escaped(text)),
                Piece::Column(_) | Piece::Hashed { .. } if pattern.ends_with('*') && !pattern.ends_with("\\*") => {}
                Piece::Column(_) | Piece::Hashed { .. } => pattern.push('*'),
            }
        }
        pattern
    }
}

fn placeholders(pieces: &[Piece]) -> Box<dyn Iterator<Item = &Placeholder> + '_> {
    Box::new(pieces.iter().flat_map(|piece| -> Box<dyn Iterator<Item = &Placeholder>> {
        match piece {
            Piece::Literal(_) => Box::new(std::iter::empty()),
            Piece::Column(placeholder) => Box::new(std::iter::once(placeholder)),
            Piece::Hashed { pieces, .. } => placeholders(pieces),
        }
    }))
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
        let Piece::Column(Placeholder { filters, .. }) = &template.pieces()[3] else { panic!("{template:?}") };
        assert_eq!(filters.iter().map(Use::written).collect::<Vec<_>>(), ["lower", "md5"]);
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
        insta::assert_snapshot!(error("u:{id|lowr}"), @r#"key template "u:{id|lowr}": {id|lowr}: there is no filter "lowr"; did you mean "lower"? known: lower, upper, trim, default, bool, date, pad, md5, sha1, sha256, hex, base64, urlencode"#);
        insta::assert_snapshot!(error("u:{id lower}"), @r#"key template "u:{id lower}": {id lower}: after the column comes a bar and a filter, as in {email|lower}"#);
        insta::assert_snapshot!(error(""), @r#"key template "": it is empty; write the key as the application does, e.g. user:{id}"#);
    }
}
