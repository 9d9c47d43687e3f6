//! SQL identifiers in the configuration: folded to lower case unless quoted, as in Postgres.

use crate::types::table::TableName;

/// Splits one identifier off the front of `text`, with the white space around it. Returns it unquoted, and the rest.
pub(super) fn split_identifier(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    let (name, rest) = if let Some(quoted) = text.strip_prefix('"') {
        split_quoted(quoted, '"')?
    } else {
        let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        // In a UTF-8 database, Postgres folds only ASCII letters.
        (name.to_ascii_lowercase(), rest)
    };
    let begins_well = text.starts_with('"') || !name.starts_with(|c: char| c.is_ascii_digit() || c == '$');
    (!name.is_empty() && begins_well).then_some((name, rest.trim_start()))
}

/// Reads what follows an opening `quote` up to the closing one; inside, it is doubled. Returns it and the rest.
pub(super) fn split_quoted(quoted: &str, quote: char) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut rest = quoted;
    loop {
        let (part, after) = rest.split_once(quote)?;
        name.push_str(part);
        match after.strip_prefix(quote) {
            Some(more) => {
                name.push(quote);
                rest = more;
            }
            None => return Some((name, after)),
        }
    }
}

/// Reads `schema.table`, or `table` in schema `public`. Each part is quoted where SQL needs it.
pub fn parse_table(text: &str) -> Result<TableName, String> {
    let wrong = || {
        format!(
            "{text:?} is no table name: write schema.table, with double quotes where SQL needs them \
             (\"Sales\".\"Order Items\")"
        )
    };
    let (first, rest) = split_identifier(text).ok_or_else(wrong)?;
    if rest.is_empty() {
        return Ok(TableName { schema: "public".to_owned(), name: first });
    }
    let (second, rest) = rest.strip_prefix('.').and_then(split_identifier).ok_or_else(wrong)?;
    if !rest.is_empty() {
        return Err(wrong());
    }
    Ok(TableName { schema: first, name: second })
}

/// Reads one column name; the error says what to write.
pub fn parse_column(text: &str) -> Result<String, String> {
    match split_identifier(text) {
        Some((name, "")) => Ok(name),
        _ => Err(format!("{text:?} is no column name: write it as in SQL, in double quotes where SQL needs them")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folded_unless_quoted() {
        for (text, schema, name) in [
            ("public.users", "public", "users"),
            ("Users", "public", "users"),
            ("\"Sales\".\"Order Items\"", "Sales", "Order Items"),
            ("\"a.b\".\"c\"\"d\"", "a.b", "c\"d"),
            (" app . t1 ", "app", "t1"),
            ("Ärger.x", "Ärger", "x"),
        ] {
            let expected = TableName { schema: schema.into(), name: name.into() };
            assert_eq!(parse_table(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", ".", "a.", ".a", "a.b.c", "1a", "a-b", "\"a", "a b", "\"\""] {
            assert!(parse_table(text).is_err(), "{text}");
        }
        assert!(parse_column("a.b").is_err());
    }
}
