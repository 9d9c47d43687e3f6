//! From the tree to the raw structs: a serde deserializer that knows the position and the path of every node. It
//! continues after an unknown field, so that all of them are reported at once.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, MapAccess, SeqAccess, VariantAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;

use super::error::{Fault, Place};
use super::tree::{Key, Node, Scalar, Value, join};
use crate::rules::nearest;

/// Reads `node`, whose path is `path`, and appends every fault to `faults`.
pub(super) fn read<T: DeserializeOwned>(node: &Node, path: &str, faults: &mut Vec<Fault>) -> Option<T> {
    let sink = RefCell::new(Vec::new());
    let result = T::deserialize(Reader { node, path: path.to_owned(), sink: &sink });
    let mut found = sink.into_inner();
    let value = match result {
        Ok(value) if found.is_empty() => Some(value),
        Ok(_) => None,
        Err(Stop(fault)) => {
            found.push(fault);
            None
        }
    };
    faults.append(&mut found);
    value
}

/// "unknown {what} `x`", with the nearest known name and the list of all.
pub(super) fn unknown(what: &str, wrong: &str, known: &[&str]) -> String {
    let near = nearest(wrong, known.iter().copied());
    let hint = near.map_or_else(|| ";".to_owned(), |near| format!(", did you mean `{near}`?"));
    format!("unknown {what} `{}`{hint} known: {}", shown(wrong), known.join(", "))
}

/// A name as errors show it. Text that does not look like a name may be a URL in the wrong place, and is not shown.
pub(super) fn shown(name: &str) -> &str {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '+' | ' ' | '$' | '"');
    if name.len() <= 63 && name.chars().all(plain) { name } else { "…" }
}

/// The fault that ends reading. It has no position until it passes the node that it belongs to.
#[derive(Debug)]
pub(super) struct Stop(Fault);

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.reason)
    }
}

impl std::error::Error for Stop {}

impl serde::de::Error for Stop {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Stop(Fault::new(Place::default(), "", message.to_string()))
    }

    fn missing_field(field: &'static str) -> Self {
        Stop::custom(format!("`{field}` is missing"))
    }

    fn unknown_variant(wrong: &str, known: &'static [&'static str]) -> Self {
        Stop::custom(unknown("value", wrong, known))
    }
}

struct Reader<'n, 's> {
    node: &'n Node,
    path: String,
    sink: &'s RefCell<Vec<Fault>>,
}

impl<'n, 's> Reader<'n, 's> {
    fn below(&self, node: &'n Node, path: String) -> Reader<'n, 's> {
        Reader { node, path, sink: self.sink }
    }

    fn place(&self) -> impl Fn(Stop) -> Stop + use<> {
        let (place, path) = (self.node.place, self.path.clone());
        move |Stop(mut fault)| {
            if fault.place == Place::default() {
                fault.place = place;
                fault.field.clone_from(&path);
            }
            Stop(fault)
        }
    }

    /// Shows no text: a single value where a section belongs may be a DSN.
    fn wanted(&self, what: &str) -> Stop {
        self.place()(Stop::custom(format!("this wants {what}, and got {}", self.node.value.shape())))
    }

    /// [`Reader::wanted`], for fields whose text is not secret unless it came from the environment.
    fn wanted_other_than_text(&self, what: &str) -> Stop {
        match &self.node.value {
            Value::Scalar(Scalar { text, from_environment: false }) => {
                self.place()(Stop::custom(format!("this wants {what}, and got `{}`", text.escape_debug())))
            }
            Value::Scalar(_) => {
                self.place()(Stop::custom(format!("this wants {what}, and the environment gave something else")))
            }
            _ => self.wanted(what),
        }
    }

    fn text(&self, what: &str) -> Result<&'n str, Stop> {
        match &self.node.value {
            Value::Scalar(scalar) => Ok(&scalar.text),
            _ => Err(self.wanted(what)),
        }
    }

    fn map<'de, V: Visitor<'de>>(self, fields: Option<&'static [&'static str]>, visitor: V) -> Result<V::Value, Stop> {
        let Value::Map(entries) = &self.node.value else {
            return Err(self.wanted("a mapping"));
        };
        let place = self.place();
        visitor.visit_map(Entries { reader: self, fields, left: entries.iter(), value: None }).map_err(place)
    }
}

impl<'de> Deserializer<'de> for Reader<'_, '_> {
    type Error = Stop;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match &self.node.value {
            Value::Null => visitor.visit_unit().map_err(self.place()),
            Value::Scalar(_) => self.deserialize_str(visitor),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.map(None, visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match &self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_str(self.text("text")?).map_err(self.place())
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match self.text("true or false")? {
            "true" => visitor.visit_bool(true),
            "false" => visitor.visit_bool(false),
            _ => Err(self.wanted_other_than_text("true or false")),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        const WHAT: &str = "a whole number, 0 or more";
        let number = self.text(WHAT)?.parse().map_err(|_| self.wanted_other_than_text(WHAT))?;
        visitor.visit_u64(number)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        let Value::List(nodes) = &self.node.value else {
            return Err(self.wanted("a list"));
        };
        let place = self.place();
        visitor.visit_seq(Items { reader: self, left: nodes.iter().enumerate() }).map_err(place)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.map(None, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.map(Some(fields), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        let text = self.text(&format!("one of {}", variants.join(", ")))?;
        visitor.visit_enum(Variant(text)).map_err(self.place())
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
        ignored_any
    }
}

struct Items<'n, 's> {
    reader: Reader<'n, 's>,
    left: std::iter::Enumerate<std::slice::Iter<'n, Node>>,
}

impl<'de> SeqAccess<'de> for Items<'_, '_> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Stop> {
        let Some((index, node)) = self.left.next() else {
            return Ok(None);
        };
        let path = format!("{}[{index}]", self.reader.path);
        seed.deserialize(self.reader.below(node, path)).map(Some)
    }
}

struct Entries<'n, 's> {
    reader: Reader<'n, 's>,
    /// The known fields of a struct; `None` for a mapping, which takes any key.
    fields: Option<&'static [&'static str]>,
    left: std::slice::Iter<'n, (Key, Node)>,
    value: Option<&'n (Key, Node)>,
}

impl<'de> MapAccess<'de> for Entries<'_, '_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Stop> {
        for entry in self.left.by_ref() {
            let (key, node) = entry;
            if let Some(fields) = self.fields
                && !fields.contains(&key.name.as_str())
            {
                let path = join(&self.reader.path, shown(&key.name));
                let fault = Fault::new(key.place, path, unknown("field", &key.name, fields));
                self.reader.sink.borrow_mut().push(fault);
                continue;
            }
            // A field without a value counts as left out.
            if self.fields.is_some() && matches!(node.value, Value::Null) {
                continue;
            }
            self.value = Some(entry);
            return seed.deserialize(StrDeserializer::new(&key.name)).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Stop> {
        let (key, node) = self.value.take().ok_or_else(|| Stop::custom("a value without a key"))?;
        let reader = self.reader.below(node, join(&self.reader.path, shown(&key.name)));
        let place = reader.place();
        seed.deserialize(reader).map_err(place)
    }
}

struct Variant<'n>(&'n str);

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = Stop;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Stop> {
        Ok((seed.deserialize(StrDeserializer::new(self.0))?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Stop;

    fn unit_variant(self) -> Result<(), Stop> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _seed: T) -> Result<T::Value, Stop> {
        Err(Stop::custom("this wants a single word"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, _visitor: V) -> Result<V::Value, Stop> {
        Err(Stop::custom("this wants a single word"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _fields: &'static [&'static str], _visitor: V) -> Result<V::Value, Stop> {
        Err(Stop::custom("this wants a single word"))
    }
}
