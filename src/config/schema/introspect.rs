//! The form that a type with `Deserialize` reads. A probe deserializes the type and notes what it asks for, so the
//! schema always matches the reader.

use std::cell::RefCell;

use serde::de::value::{Error, StrDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::forward_to_deserialize_any;

/// The form of a value in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// Text, or any other single value.
    Text,
    /// `true` or `false`.
    Switch,
    /// A whole number.
    Number,
    /// One of these words.
    Words(&'static [&'static str]),
    /// A list.
    List(Box<Shape>),
    /// A mapping from any names to such values.
    Map(Box<Shape>),
    /// Any value.
    Any,
    /// A mapping with these fields.
    Fields(Vec<Field>),
}

/// A field of a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its key.
    pub name: &'static str,
    /// The form of its value.
    pub shape: Shape,
    /// Whether the mapping cannot be read without this field.
    pub required: bool,
}

/// The form of a `T`; `None` if `T` asks for something that no configuration contains.
pub(super) fn shape_of<T: DeserializeOwned>() -> Option<Shape> {
    let note = RefCell::new(None);
    T::deserialize(Probe { left_out: None, note: &note }).ok()?;
    note.into_inner()
}

/// The fields of a struct, in the order of its declaration; empty if `T` is not a struct.
pub(in crate::config) fn fields_of<T: DeserializeOwned>() -> Vec<Field> {
    let Some(Shape::Fields(mut fields)) = shape_of::<T>() else {
        return Vec::new();
    };
    for field in &mut fields {
        let note = RefCell::new(None);
        field.required = T::deserialize(Probe { left_out: Some(field.name), note: &note }).is_err();
    }
    fields
}

struct Probe<'a> {
    /// A field that the probe withholds.
    left_out: Option<&'static str>,
    note: &'a RefCell<Option<Shape>>,
}

impl Probe<'_> {
    fn note(&self, shape: Shape) {
        self.note.replace(Some(shape));
    }
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("no form that a configuration has"))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Shape::Any);
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Shape::Text);
        visitor.visit_str("")
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Shape::Switch);
        visitor.visit_bool(false)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note(Shape::Number);
        visitor.visit_u64(0)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.note(Shape::Words(variants));
        visitor.visit_enum(StrDeserializer::new(variants.first().copied().unwrap_or_default()))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let item = RefCell::new(None);
        let value = visitor.visit_seq(OneItem { note: Some(&item) })?;
        let item = item.into_inner().ok_or_else(|| Error::custom("a list that reads no item"))?;
        self.note(Shape::List(Box::new(item)));
        Ok(value)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let (noted, at) = (RefCell::new(Vec::new()), RefCell::new(None));
        let given = std::iter::once("any");
        let value = visitor.visit_map(EachField { given, name: "", noted: &noted, at: &at })?;
        let of_any = noted.into_inner().pop().ok_or_else(|| Error::custom("a mapping that reads nothing"))?;
        self.note(Shape::Map(Box::new(of_any.shape)));
        Ok(value)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let (noted, at) = (RefCell::new(Vec::new()), RefCell::new(None));
        let given = fields.iter().copied().filter(|name| Some(*name) != self.left_out);
        let value = visitor.visit_map(EachField { given, name: "", noted: &noted, at: &at })?;
        self.note(Shape::Fields(noted.into_inner()));
        Ok(value)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u128 f32 f64 char bytes byte_buf unit unit_struct newtype_struct tuple
        tuple_struct identifier
    }
}

struct OneItem<'a> {
    note: Option<&'a RefCell<Option<Shape>>>,
}

impl<'de> SeqAccess<'de> for OneItem<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.note.take().map(|note| seed.deserialize(Probe { left_out: None, note })).transpose()
    }
}

struct EachField<'a, I> {
    given: I,
    name: &'static str,
    noted: &'a RefCell<Vec<Field>>,
    at: &'a RefCell<Option<Shape>>,
}

impl<'de, I: Iterator<Item = &'static str>> MapAccess<'de> for EachField<'_, I> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(name) = self.given.next() else {
            return Ok(None);
        };
        self.name = name;
        seed.deserialize(StrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        let value = seed.deserialize(Probe { left_out: None, note: self.at })?;
        let shape = self.at.take().ok_or_else(|| Error::custom("a field that reads nothing"))?;
        self.noted.borrow_mut().push(Field { name: self.name, shape, required: false });
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Colour {
        Red,
        Green,
    }

    #[derive(Deserialize)]
    #[allow(dead_code)]
    struct Sample {
        must: String,
        may: Option<Vec<String>>,
        #[serde(default)]
        is: bool,
        colour: Colour,
        limit: Option<u64>,
        names: BTreeMap<String, bool>,
    }

    #[test]
    fn the_fields_of_a_struct_are_those_that_it_reads() {
        let field = |name, shape, required| Field { name, shape, required };
        let wanted = [
            field("must", Shape::Text, true),
            field("may", Shape::List(Box::new(Shape::Text)), false),
            field("is", Shape::Switch, false),
            field("colour", Shape::Words(&["red", "green"]), true),
            field("limit", Shape::Number, false),
            field("names", Shape::Map(Box::new(Shape::Switch)), true),
        ];
        assert_eq!(fields_of::<Sample>(), wanted);
        let colours = [Colour::Red, Colour::Green];
        assert_eq!(colours.len(), 2);
    }

    #[test]
    fn what_no_configuration_has_is_no_shape() {
        assert_eq!(shape_of::<f64>(), None);
        assert_eq!(shape_of::<Vec<i8>>(), None);
        assert_eq!(fields_of::<String>(), []);
    }
}
