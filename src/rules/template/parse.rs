//! Parses templates, and replaces variables by their values.

use std::collections::BTreeMap;

use super::{Context, Piece, Placeholder, Template, TemplateError, Vars};
use crate::rules::filter::{self, FILTERS, Use};
use crate::rules::value::json::Step;
use crate::rules::{name, nearest};
use crate::types::table::TableName;

/// A part of a template, and how the template writes it.
struct Part {
    is: Is,
    written: String,
}

enum Is {
    Literal(String),
    /// A variable of the rule, unquoted, and the filters for its value.
    Var(String, Vec<Use>),
    Column(Placeholder),
}

/// The most templates that the variables of one may make.
const TEMPLATES_MAX: usize = 1000;

/// Parses `text` into one template for each combination of the variables' values that it names.
pub(super) fn each(text: &str, context: &Context<'_>) -> Result<Vec<Template>, TemplateError> {
    let fail = |reason| TemplateError { template: text.to_owned(), reason };
    let parts = parts(text, context.table, context.vars).map_err(fail)?;
    let mut named: Vec<&str> = Vec::new();
    for part in &parts {
        if let Is::Var(name, _) = &part.is
            && !named.contains(&name.as_str())
        {
            named.push(name);
        }
    }
    let mut chosen: Vec<BTreeMap<&str, &str>> = vec![BTreeMap::new()];
    for name in named {
        let values = context.vars.get(name).map(Vec::as_slice).unwrap_or_default();
        if chosen.len().saturating_mul(values.len()) > TEMPLATES_MAX {
            return Err(fail(format!(
                "its variables have more than {TEMPLATES_MAX} combinations; use fewer of them in one template"
            )));
        }
        let with = |chosen: &BTreeMap<_, _>, value| {
            let mut chosen = chosen.clone();
            chosen.insert(name, value);
            chosen
        };
        chosen =
            chosen.iter().flat_map(|chosen| values.iter().map(move |value| with(chosen, value.as_str()))).collect();
    }
    chosen.iter().map(|chosen| assembled(&parts, chosen, context.hash)).collect::<Result<_, _>>().map_err(fail)
}

/// The template with these values of its variables.
fn assembled(parts: &[Part], chosen: &BTreeMap<&str, &str>, hash: Option<&Use>) -> Result<Template, String> {
    let (mut pieces, mut literal, mut written) = (Vec::new(), String::new(), String::new());
    // The number of pieces before the first placeholder. A variable's value is hashed too.
    let mut before_hash = None;
    for part in parts {
        match &part.is {
            Is::Literal(text) => {
                literal.push_str(text);
                written.push_str(&part.written);
            }
            Is::Var(name, filters) => {
                let value = filtered(chosen.get(name.as_str()).copied().unwrap_or_default(), filters)?;
                written.push_str(&as_written(&value));
                if hash.is_some() && before_hash.is_none() {
                    push_literal(&mut pieces, &mut literal);
                    before_hash = Some(pieces.len());
                }
                literal.push_str(&value);
            }
            Is::Column(placeholder) => {
                push_literal(&mut pieces, &mut literal);
                before_hash.get_or_insert(pieces.len());
                pieces.push(Piece::Column(placeholder.clone()));
                written.push_str(&part.written);
            }
        }
    }
    push_literal(&mut pieces, &mut literal);
    if pieces.is_empty() {
        return Err("it is empty; write the key as the application does, e.g. user:{id}".to_owned());
    }
    if let Some(hash) = hash {
        let Some(before_hash) = before_hash else {
            return Err(
                "nothing in it is hashed: hash: applies to what follows the literal text at its start".to_owned()
            );
        };
        let hashed = pieces.split_off(before_hash);
        pieces.push(Piece::Hashed { pieces: hashed, hash: hash.clone() });
    }
    Ok(Template { text: written, pieces })
}

fn parts(text: &str, table: &TableName, vars: &Vars) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let literal = |text: String, written: &str| Part { is: Is::Literal(text), written: written.to_owned() };
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, found) = rest.split_at(at);
        parts.push(literal(unglobbed(before)?, before));
        if let Some(after) = found.strip_prefix("{{") {
            parts.push(literal("{".to_owned(), "{{"));
            rest = after;
        } else if let Some(after) = found.strip_prefix("}}") {
            parts.push(literal("}".to_owned(), "}}"));
            rest = after;
        } else if let Some(inside) = found.strip_prefix('{') {
            let end = placeholder_end(inside).ok_or("a { without its }; a literal brace is written {{")?;
            let (inside, after) = inside.split_at(end);
            parts.push(Part { is: placeholder(inside, table, vars)?, written: format!("{{{inside}}}") });
            rest = after.strip_prefix('}').unwrap_or(after);
        } else {
            return Err("a } without its {; a literal brace is written }}".to_owned());
        }
    }
    parts.push(literal(unglobbed(rest)?, rest));
    Ok(parts)
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

/// Literal text as a template writes it.
fn as_written(literal: &str) -> String {
    let mut written = String::with_capacity(literal.len());
    for sign in literal.chars() {
        match sign {
            '{' | '}' => written.push(sign),
            '*' | '?' | '[' => written.push('\\'),
            _ => {}
        }
        written.push(sign);
    }
    written
}

fn push_literal(pieces: &mut Vec<Piece>, literal: &mut String) {
    if !literal.is_empty() {
        pieces.push(Piece::Literal(std::mem::take(literal)));
    }
}

/// The position of the placeholder's `}`; one inside a quoted name does not count. Filters have no quotes.
fn placeholder_end(inside: &str) -> Option<usize> {
    let (mut quote, mut filters) = (None, false);
    inside.char_indices().find_map(|(at, c)| {
        match quote {
            None if c == '|' => filters = true,
            None if matches!(c, '"' | '\'') && !filters => quote = Some(c),
            Some(open) if open == c => quote = None,
            _ => {}
        }
        (c == '}' && quote.is_none()).then_some(at)
    })
}

fn placeholder(inside: &str, table: &TableName, vars: &Vars) -> Result<Is, String> {
    let (column, rest) = name::split_identifier(inside).ok_or_else(|| {
        format!("{{{inside}}} names no column; write {{column}}, or {{\"Column\"}} where SQL needs the quotes")
    })?;
    let (path, rest) = path(rest).map_err(|reason| format!("{{{inside}}}: {reason}"))?;
    let (each, rest) = match rest.strip_prefix("[]") {
        Some(rest) => (true, rest.trim_start()),
        None => (false, rest),
    };
    let mut filters = Vec::new();
    if !rest.is_empty() {
        let listed = rest
            .strip_prefix('|')
            .ok_or_else(|| format!("{{{inside}}}: after the column comes a bar and a filter, as in {{email|lower}}"))?;
        for filter in listed.split('|') {
            filters.push(find_filter(filter).map_err(|reason| format!("{{{inside}}}: {reason}"))?);
        }
    }
    // A name that is quoted, or has something inside, is always a column.
    let is_column = inside.trim_start().starts_with('"') || !path.is_empty() || each;
    Ok(match column.as_str() {
        "schema" if !is_column => Is::Literal(filtered(&table.schema, &filters)?),
        "table" if !is_column => Is::Literal(filtered(&table.name, &filters)?),
        name if !is_column && vars.contains_key(name) => Is::Var(column, filters),
        _ => Is::Column(Placeholder { column, path, each, filters }),
    })
}

/// Reads the path into a column's JSON: `->'name'`, `->name` or `->0`, and `->>` for the last. Returns it with the rest.
fn path(text: &str) -> Result<(Vec<Step>, &str), String> {
    let (mut path, mut rest, mut ended) = (Vec::new(), text, false);
    while let Some(after) = rest.strip_prefix("->") {
        if ended {
            return Err("->> is the last arrow; the ones before it are ->".to_owned());
        }
        let after = after.strip_prefix('>').map_or(after, |after| {
            ended = true;
            after
        });
        let (step, after) = step(after.trim_start())?;
        path.push(step);
        rest = after.trim_start();
    }
    if !path.is_empty() && !ended && !rest.starts_with("[]") {
        return Err("-> gives JSON; write ->> for its text, or [] for the elements of an array".to_owned());
    }
    Ok((path, rest))
}

fn step(text: &str) -> Result<(Step, &str), String> {
    let wrong =
        || "after the arrow comes a name or a number, as in settings->>theme or settings->>'two words'".to_owned();
    if let Some(quoted) = text.strip_prefix('\'') {
        let (name, rest) = name::split_quoted(quoted, '\'').ok_or_else(wrong)?;
        return Ok((Step::Name(name), rest));
    }
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let length = text.strip_prefix('-').map_or(0, |_| 1);
    let end =
        text.get(length..).and_then(|rest| rest.find(|c| !is_part(c)).map(|at| at + length)).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    match word.parse() {
        Ok(index) => Ok((Step::Index(index), rest)),
        Err(_) if !word.is_empty() && length == 0 => Ok((Step::Name(word.to_owned()), rest)),
        Err(_) => Err(wrong()),
    }
}

/// Reads `name` or `name:argument`. The argument is everything after the colon, blanks included.
fn find_filter(written: &str) -> Result<Use, String> {
    let (name, argument) = match written.split_once(':') {
        Some((name, argument)) => (name.trim(), Some(argument)),
        None => (written.trim(), None),
    };
    let filter = filter::find(name).ok_or_else(|| {
        let known: Vec<&str> = FILTERS.iter().map(|filter| filter.name).collect();
        let near = nearest(name, known.iter().copied());
        let hint = near.map(|near| format!("did you mean {near:?}? ")).unwrap_or_default();
        format!("there is no filter {name:?}; {hint}known: {}", known.join(", "))
    })?;
    filter.prepare(argument)
}

/// Text that is known when the rules are read, after its filters.
fn filtered(text: &str, filters: &[Use]) -> Result<String, String> {
    let mut bytes = text.as_bytes().to_vec();
    for filter in filters {
        let mut out = Vec::new();
        if !filter.apply(&bytes, &mut out) {
            return Err(format!("{} cannot read {:?}", filter.written(), String::from_utf8_lossy(&bytes)));
        }
        bytes = out;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
