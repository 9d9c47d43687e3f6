//! The values of a case's row: text as Postgres prints it, and short forms for booleans, arrays and JSON.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A value, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RawValue {
    /// `null`
    Null,
    /// Any single value.
    Text(String),
    /// An array, or a JSON array.
    List(Vec<RawValue>),
    /// A JSON object.
    Map(BTreeMap<String, RawValue>),
}

/// `pg_type.oid` of the types that rules tell apart, with the names that SQL has for them. Rules treat every other type
/// alike.
const TYPES: &[(&str, u32)] = &[
    ("boolean", BOOLEAN),
    ("bool", BOOLEAN),
    ("smallint", 21),
    ("int2", 21),
    ("integer", 23),
    ("int", 23),
    ("int4", 23),
    ("bigint", 20),
    ("int8", 20),
    ("oid", 26),
    ("numeric", 1700),
    ("decimal", 1700),
    ("name", 19),
    ("text", 25),
    ("varchar", 1043),
    ("uuid", 2950),
    ("date", 1082),
    ("timestamp", 1114),
    ("timestamptz", 1184),
    ("real", 700),
    ("double precision", 701),
    ("json", JSON),
    ("jsonb", JSONB),
    ("text[]", 1009),
    ("int[]", 1007),
];

const BOOLEAN: u32 = 16;
const JSON: u32 = 114;
const JSONB: u32 = 3802;

/// The oid of the type called `name`.
pub(super) fn type_oid(name: &str) -> Result<u32, String> {
    let found = TYPES.iter().find(|(its, _)| its.eq_ignore_ascii_case(name.trim()));
    found.map(|(_, oid)| *oid).ok_or_else(|| {
        let known = || TYPES.iter().map(|(name, _)| *name);
        let near = crate::rules::nearest(name, known());
        let hint = near.map_or_else(String::new, |near| format!("did you mean {near:?}? "));
        let known = known().collect::<Vec<_>>().join(", ");
        format!("{name:?} is no known type; {hint}known: {known}. Leave the types of other columns out")
    })
}

impl RawValue {
    /// What Postgres prints for it; `None` for NULL.
    pub(super) fn text(&self, type_oid: u32) -> Option<String> {
        match (self, type_oid) {
            (RawValue::Null, _) => None,
            (RawValue::Text(word), BOOLEAN) => Some(match word.as_str() {
                "true" => "t".to_owned(),
                "false" => "f".to_owned(),
                other => other.to_owned(),
            }),
            (RawValue::Text(text), _) => Some(text.clone()),
            (RawValue::List(_), JSON | JSONB) | (RawValue::Map(_), _) => Some(self.json().to_string()),
            (RawValue::List(elements), _) => {
                let mut text = String::new();
                array(elements, &mut text);
                Some(text)
            }
        }
    }

    /// As JSON. The reader keeps single values as text; those that read as a number, true or false become that.
    fn json(&self) -> serde_json::Value {
        match self {
            RawValue::Null => serde_json::Value::Null,
            RawValue::Text(text) => match serde_json::from_str(text) {
                Ok(plain @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_))) => plain,
                _ => text.clone().into(),
            },
            RawValue::List(all) => all.iter().map(RawValue::json).collect(),
            RawValue::Map(all) => all.iter().map(|(name, value)| (name.clone(), value.json())).collect(),
        }
    }
}

/// Writes an array as Postgres prints it, with every element in quotes.
fn array(elements: &[RawValue], out: &mut String) {
    out.push('{');
    for (index, element) in elements.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        match element {
            RawValue::Null => out.push_str("NULL"),
            RawValue::Text(text) => {
                let _ = write!(out, "\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            }
            RawValue::List(inner) => array(inner, out),
            RawValue::Map(_) => {
                let json = element.json().to_string();
                let _ = write!(out, "\"{}\"", json.replace('\\', "\\\\").replace('"', "\\\""));
            }
        }
    }
    out.push('}');
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Any value at all; the schema says so too.
        deserializer.deserialize_ignored_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = RawValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<RawValue, E> {
        Ok(RawValue::Null)
    }

    fn visit_str<E>(self, text: &str) -> Result<RawValue, E> {
        Ok(RawValue::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<RawValue, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(RawValue::List(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<RawValue, A::Error> {
        let mut all = BTreeMap::new();
        while let Some((name, value)) = entries.next_entry()? {
            all.insert(name, value);
        }
        Ok(RawValue::Map(all))
    }
}
