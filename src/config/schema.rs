//! The configuration as a JSON Schema for editors, and as a list of fields for the manual. The structure comes from the
//! structs that read the file ([`introspect`]), the descriptions from the shipped file ([`words`]).

mod introspect;
mod words;

use serde_json::{Map, Value, json};

pub(in crate::config) use introspect::fields_of;
pub use introspect::{Field, Shape};

use self::words::said;
use super::raw::{RawAdmin, RawLimits, RawLog, RawManual, RawSource, RawTarget, SECTIONS};
use super::tree::{self, Node};
use super::{OnFirstStart, OnGap};
use crate::rules::case::RawCase;
use crate::rules::config::{RULES_MAX, RawRule};

/// Text with a variable in it can expand to anything, so no pattern rejects it.
const VARIABLE: &str = r"\$\{";
/// A duration, as `parse_duration` accepts it.
const DURATION: &str = r"^[0-9]+\s*(ms|s|m|h|d)$";
/// A size, as `parse_size` accepts it, or `none`.
const SIZE: &str = r"^[0-9]+\s*(KiB|MiB|GiB|TiB|kB|KB|MB|GB|TB)$|^none$";

/// Text fields that must match a pattern.
const PATTERNS: &[(&str, &str)] = &[
    ("source.slot", "^[a-z0-9_]{1,63}$"),
    ("source.max_replica_lag", DURATION),
    ("source.wal_budget", SIZE),
    ("source.decoding_timeout", DURATION),
    ("source.slot_create_timeout", DURATION),
    ("targets.NAME.version_ttl", DURATION),
    ("targets.NAME.reply_timeout", DURATION),
    ("targets.NAME.connect_timeout", DURATION),
    ("repeat_after", DURATION),
    ("admin.ready_max_lag", DURATION),
];

/// Secrets: each is given in the configuration or in a file of its own, never both.
const SECRETS: &[(&str, &str, &str)] = &[("source", "dsn", "dsn_file"), ("targets.NAME", "url", "url_file")];

/// One key of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path: `source.dsn`, `targets.NAME.url`, `rules[].keys`, or the name of a section.
    pub path: String,
    /// The form of its value.
    pub shape: Shape,
    /// Whether it must be given.
    pub required: bool,
    /// What it is for, and its default; taken from the shipped file.
    pub about: String,
    /// An example value, as YAML; empty for a section.
    pub example: String,
}

impl Entry {
    /// The last part of its path.
    pub fn name(&self) -> &str {
        self.path.rsplit('.').next().unwrap_or_default()
    }
}

/// The path under which a section's fields are listed.
fn inside(section: &str) -> String {
    match section {
        "targets" => "targets.NAME".to_owned(),
        "rules" => "rules[]".to_owned(),
        "tests" => "tests[]".to_owned(),
        _ => section.to_owned(),
    }
}

/// The form of a section; `None` for a name that this function does not list.
fn section(name: &str) -> Option<Shape> {
    let fields = match name {
        "source" => fields_of::<RawSource>(),
        "targets" => fields_of::<RawTarget>(),
        "rules" => fields_of::<RawRule>(),
        "tests" => fields_of::<RawCase>(),
        "manual" => fields_of::<RawManual>(),
        "limits" => fields_of::<RawLimits>(),
        "admin" => fields_of::<RawAdmin>(),
        "log" => fields_of::<RawLog>(),
        "on_gap" => return introspect::shape_of::<OnGap>(),
        "on_first_start" => return introspect::shape_of::<OnFirstStart>(),
        "repeat_after" => return introspect::shape_of::<String>(),
        _ => return None,
    };
    Some(Shape::Fields(fields))
}

/// Every key, section by section, in the order of the shipped file.
pub fn entries() -> Vec<Entry> {
    let mut entries = Vec::new();
    for name in SECTIONS {
        let Some(shape) = section(name) else { continue };
        let fields = if let Shape::Fields(fields) = &shape { fields.clone() } else { Vec::new() };
        let required = matches!(*name, "source" | "targets" | "rules");
        let entry =
            |path, shape, required| Entry { path, shape, required, about: String::new(), example: String::new() };
        entries.push(entry((*name).to_owned(), shape, required));
        let inside = inside(name);
        entries.extend(fields.into_iter().map(|its| entry(format!("{inside}.{}", its.name), its.shape, its.required)));
    }
    let words = said(|path| entries.iter().any(|entry| entry.path == path));
    for entry in &mut entries {
        if let Some(said) = words.get(&entry.path) {
            entry.about.clone_from(&said.about);
            entry.example.clone_from(&said.example);
        }
    }
    entries
}

/// The schema, in draft 7, which editors support best. It accepts every valid file. In invalid files, it finds unknown
/// and missing fields and values of a wrong form.
pub fn schema() -> Value {
    let entries = entries();
    let mut sections = Map::new();
    for name in SECTIONS {
        let Some(entry) = entries.iter().find(|entry| entry.path == *name) else { continue };
        let value = match &entry.shape {
            Shape::Fields(_) => section_schema(name, &entries),
            _ => value_schema(entry),
        };
        sections.insert((*name).to_owned(), described(value, entry));
    }
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "coherd.yaml",
        "description": "The configuration of coherd, which keeps caches coherent with Postgres",
        "type": "object",
        "required": ["source", "targets", "rules"],
        "additionalProperties": false,
        "properties": sections,
    })
}

fn section_schema(name: &str, entries: &[Entry]) -> Value {
    let inside = inside(name);
    let within = |entry: &&Entry| entry.path.rsplit_once('.').is_some_and(|(path, _)| path == inside);
    let fields: Vec<&Entry> = entries.iter().filter(within).collect();
    let properties: Map<String, Value> =
        fields.iter().map(|entry| (entry.name().to_owned(), described(value_schema(entry), entry))).collect();
    let required: Vec<&str> = fields.iter().filter(|entry| entry.required).map(|entry| entry.name()).collect();
    let mut object = json!({"type": "object", "additionalProperties": false, "properties": properties});
    if !required.is_empty() {
        put(&mut object, "required", json!(required));
    }
    if let Some((_, here, file)) = SECRETS.iter().find(|(path, ..)| *path == inside) {
        let given = |field: &str| json!({"required": [field], "properties": {field: {"not": {"type": "null"}}}});
        put(&mut object, "oneOf", json!([given(here), given(file)]));
    }
    match name {
        "targets" => json!({
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"pattern": "^[A-Za-z0-9_-]{1,63}$"},
            "additionalProperties": object,
        }),
        "rules" => json!({"type": "array", "minItems": 1, "maxItems": RULES_MAX, "items": object}),
        "tests" => json!({"type": ["array", "null"], "items": object}),
        "source" => object,
        _ => {
            put(&mut object, "type", json!(["object", "null"]));
            object
        }
    }
}

/// The schema of a key's value. Any single value may also be text with a variable in it.
fn value_schema(entry: &Entry) -> Value {
    let pattern = PATTERNS.iter().find(|(path, _)| *path == entry.path).map(|(_, pattern)| *pattern);
    let mut value = shape_schema(&entry.shape, pattern);
    if entry.required {
        return value;
    }
    // A key without a value counts as left out.
    match value.get("type").cloned() {
        Some(Value::Array(mut types)) => {
            types.push(json!("null"));
            put(&mut value, "type", json!(types));
        }
        Some(one) => put(&mut value, "type", json!([one, "null"])),
        None => value = json!({"anyOf": [value, {"type": "null"}]}),
    }
    value
}

fn shape_schema(shape: &Shape, pattern: Option<&str>) -> Value {
    match (shape, pattern) {
        // A number without a unit is neither a duration nor a size.
        (Shape::Text, Some(pattern)) if [DURATION, SIZE].contains(&pattern) => {
            json!({"type": "string", "pattern": format!("{pattern}|{VARIABLE}")})
        }
        (Shape::Text, Some(pattern)) => {
            json!({"type": ["string", "number", "boolean"], "pattern": format!("{pattern}|{VARIABLE}")})
        }
        (Shape::Text, None) => json!({"type": ["string", "number", "boolean"]}),
        (Shape::Switch, _) => {
            json!({"type": ["boolean", "string"], "pattern": format!("^(true|false)$|{VARIABLE}")})
        }
        // Each number is a limit, and a limit of 0 would let nothing through.
        (Shape::Number, _) => {
            json!({"type": ["integer", "string"], "minimum": 1, "pattern": format!("^[0-9]+$|{VARIABLE}")})
        }
        (Shape::Words(words), _) => json!({"anyOf": [{"enum": words}, {"type": "string", "pattern": VARIABLE}]}),
        (Shape::List(item), _) => json!({"type": "array", "items": shape_schema(item, None)}),
        (Shape::Map(value), _) => json!({"type": "object", "additionalProperties": shape_schema(value, None)}),
        (Shape::Fields(_), _) => json!({"type": "object"}),
        (Shape::Any, _) => json!({}),
    }
}

fn put(object: &mut Value, key: &str, value: Value) {
    if let Value::Object(entries) = object {
        entries.insert(key.to_owned(), value);
    }
}

fn described(mut value: Value, entry: &Entry) -> Value {
    if !entry.about.is_empty() {
        put(&mut value, "description", json!(entry.about));
    }
    if let Some(example) = Some(&entry.example).filter(|example| !example.is_empty()) {
        let read = Node::parse(example, &|_| None);
        let example = read.map_or_else(|_| json!(example), |node| example_of(&node, &entry.shape));
        put(&mut value, "examples", json!([example]));
    }
    value
}

/// A value of the shipped file as JSON. The reader keeps every single value as text.
fn example_of(node: &Node, shape: &Shape) -> Value {
    match (&node.value, shape) {
        (tree::Value::Scalar(scalar), Shape::Switch) => json!(scalar.text == "true"),
        (tree::Value::Scalar(scalar), Shape::Number) => {
            scalar.text.parse::<u64>().map_or_else(|_| json!(scalar.text), |number| json!(number))
        }
        (tree::Value::Scalar(scalar), _) => json!(scalar.text),
        (tree::Value::List(nodes), Shape::List(item)) => nodes.iter().map(|node| example_of(node, item)).collect(),
        (tree::Value::Map(pairs), Shape::Map(value)) => {
            pairs.iter().map(|(key, node)| (key.name.clone(), example_of(node, value))).collect()
        }
        (tree::Value::List(nodes), Shape::Any) => nodes.iter().map(|node| example_of(node, shape)).collect(),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_is_known_and_every_key_has_words_and_a_value() {
        let entries = entries();
        for name in SECTIONS {
            assert!(entries.iter().any(|entry| entry.path == *name), "{name} is missing in `section`");
        }
        assert!(entries.len() > 40, "{}", entries.len());
        for entry in &entries {
            assert!(!entry.about.is_empty(), "config/coherd.yaml has no comment above {}", entry.path);
            let is_section = matches!(entry.shape, Shape::Fields(_));
            assert!(is_section || !entry.example.is_empty(), "config/coherd.yaml has no value for {}", entry.path);
        }
    }

    #[test]
    fn every_pattern_and_every_secret_is_a_field_that_is_there() {
        let entries = entries();
        let is_there = |path: &str| entries.iter().any(|entry| entry.path == path);
        assert!(PATTERNS.iter().all(|(path, _)| is_there(path)));
        for (path, here, file) in SECRETS {
            assert!(is_there(&format!("{path}.{here}")) && is_there(&format!("{path}.{file}")));
        }
    }
}
