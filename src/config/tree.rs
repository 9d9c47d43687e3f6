//! A YAML document as a tree in which every node knows its position and `${VAR}` is already expanded.
//!
//! Variables are expanded here, after parsing and only inside scalars, so that a value with `#`, `:` or a line break in
//! it cannot change the document.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::{DuplicateKeyPolicy, Location, MessageFormatter, Spanned, UserMessageFormatter};

use super::error::{Fault, Place};
use super::expand::expand;
use super::read::shown;

/// One node.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// The value of a node.
#[derive(Clone)]
pub(super) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Text, a number or a boolean, as text.
    Scalar(Scalar),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping; keys are unique.
    Map(Vec<(Key, Node)>),
}

/// A scalar's text, and whether any of it came from the environment. Such text may be a secret and is never shown.
#[derive(Clone)]
pub(super) struct Scalar {
    pub(super) text: String,
    pub(super) from_environment: bool,
}

/// A mapping's key.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) place: Place,
}

/// Shows only the shape: a scalar may be a secret.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shape())
    }
}

impl Value {
    /// The words after "got" in an error.
    pub(super) const fn shape(&self) -> &'static str {
        match self {
            Value::Null => "nothing",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

impl Node {
    /// Reads a document. The error lists every unset variable.
    pub(super) fn parse(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Node, Vec<Fault>> {
        // A snippet shows neighbouring lines, which may hold a password.
        let options = serde_yaml::options! {
            with_snippet: false,
            duplicate_keys: DuplicateKeyPolicy::Error,
            strict_booleans: true,
        };
        let mut root = match serde_yaml::from_str_with_options::<Spanned<Node>>(text, options) {
            Ok(spanned) => placed(spanned),
            Err(error) => return Err(vec![syntax(&error)]),
        };
        let mut faults = Vec::new();
        root.expand("", env, &mut faults);
        if faults.is_empty() { Ok(root) } else { Err(faults) }
    }

    /// The value of the entry `name`, if this is a mapping that has one.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The place of the entry `name`, or that of the mapping if there is no such entry.
    pub(super) fn place_of(&self, name: &str) -> Place {
        self.get(name).map_or(self.place, |node| node.place)
    }

    fn expand(&mut self, path: &str, env: &dyn Fn(&str) -> Option<String>, faults: &mut Vec<Fault>) {
        match &mut self.value {
            Value::Null => {}
            Value::Scalar(scalar) => match expand(&scalar.text, env) {
                Ok(None) => {}
                Ok(Some(text)) => *scalar = Scalar { text, from_environment: true },
                Err(reason) => faults.push(Fault::new(self.place, path, reason)),
            },
            Value::List(nodes) => {
                for (index, node) in nodes.iter_mut().enumerate() {
                    node.expand(&format!("{path}[{index}]"), env, faults);
                }
            }
            Value::Map(entries) => {
                for (key, node) in entries {
                    node.expand(&join(path, shown(&key.name)), env, faults);
                }
            }
        }
    }
}

/// `a` and `b` as the path `a.b`.
pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn placed(spanned: Spanned<Node>) -> Node {
    Node { place: place(spanned.referenced), value: spanned.value.value }
}

fn place(location: Location) -> Place {
    Place { line: location.line(), column: location.column() }
}

fn syntax(error: &serde_yaml::Error) -> Fault {
    let error = error.without_snippet();
    let place = error.location().map(place).unwrap_or_default();
    let reason = match error {
        serde_yaml::Error::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().map(|key| format!(" `{}`", shown(key))).unwrap_or_default();
            format!("the key{key} stands here a second time; keep one")
        }
        serde_yaml::Error::MultipleDocuments { .. } => {
            "a second document begins here (---); a configuration is one document".to_owned()
        }
        serde_yaml::Error::Eof { .. } => "the file is empty; write at least source, targets and rules".to_owned(),
        other => {
            let what = UserMessageFormatter.format_message(other);
            format!("this is not YAML: {}", what.replace(char::is_control, " "))
        }
    };
    Fault::new(place, "", reason)
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = deserializer.deserialize_any(TreeVisitor)?;
        Ok(Node { place: Place::default(), value })
    }
}

struct TreeVisitor;

fn scalar(text: impl Into<String>) -> Value {
    Value::Scalar(Scalar { text: text.into(), from_environment: false })
}

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("YAML")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(scalar(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(scalar(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(scalar(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(scalar(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(scalar(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element::<Spanned<Node>>()? {
            nodes.push(placed(node));
        }
        Ok(Value::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let key = Key { place: place(key.referenced), name: key.value };
            entries.push((key, placed(map.next_value::<Spanned<Node>>()?)));
        }
        Ok(Value::Map(entries))
    }
}
