//! Reads a value out of JSON text, as `->` and `->>` do (Postgres manual, "JSON Functions and Operators").

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A member of an object.
    Name(String),
    /// An element of an array. Negative numbers count from the end.
    Index(i64),
}

/// JSON that cannot be read: text that is no JSON, or nested too deeply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

/// The JSON at `path`, as written. `None` if there is nothing at the path. Of several members with one name the last
/// counts.
pub fn find<'a>(text: &'a [u8], path: &[Step]) -> Result<Option<&'a str>, Unreadable> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let found = At(path).deserialize(&mut json).map_err(|_| Unreadable)?;
    json.end().map_err(|_| Unreadable)?;
    Ok(found)
}

/// The text of a JSON value as `->>` gives it: a string without its quotes, anything else as written. `None` for null.
pub fn text(json: &str) -> Result<Option<Cow<'_, str>>, Unreadable> {
    match json.as_bytes().first() {
        Some(b'n') => Ok(None),
        Some(b'"') => serde_json::from_str::<Text>(json).map(|text| Some(text.0)).map_err(|_| Unreadable),
        _ => Ok(Some(Cow::Borrowed(json))),
    }
}

/// Calls `element` with each element of a JSON array, as written. `Unreadable` if it is no array.
pub fn elements<'a>(json: &'a str, element: &mut dyn FnMut(&'a str)) -> Result<(), Unreadable> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    deserializer.deserialize_seq(Elements(element)).map_err(|_| Unreadable)?;
    deserializer.end().map_err(|_| Unreadable)
}

/// A string, borrowed if it has no escapes.
#[derive(serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct At<'p>(&'p [Step]);

impl<'de> DeserializeSeed<'de> for At<'_> {
    type Value = Option<&'de str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match self.0.split_first() {
            None => <&RawValue as serde::Deserialize>::deserialize(deserializer).map(|raw| Some(raw.get())),
            Some((step, rest)) => deserializer.deserialize_any(Into { step, rest }),
        }
    }
}

/// Goes into an object or an array. Any other value has nothing at the path.
struct Into<'p> {
    step: &'p Step,
    rest: &'p [Step],
}

impl<'de> Visitor<'de> for Into<'_> {
    type Value = Option<&'de str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(Text(name)) = map.next_key::<Text<'de>>()? {
            if matches!(self.step, Step::Name(wanted) if *wanted == name) {
                found = map.next_value_seed(At(self.rest))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let Step::Index(index) = self.step else {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(None);
        };
        if *index < 0 {
            // From the end: the length is known only there.
            let mut all = Vec::new();
            while let Some(element) = seq.next_element_seed(At(self.rest))? {
                all.push(element);
            }
            let place = i64::try_from(all.len()).ok().and_then(|length| usize::try_from(length + index).ok());
            return Ok(place.and_then(|place| all.get(place).copied()).flatten());
        }
        let (mut found, mut place) = (None, 0);
        loop {
            if place == *index {
                match seq.next_element_seed(At(self.rest))? {
                    Some(element) => found = element,
                    None => return Ok(found),
                }
            } else if seq.next_element::<IgnoredAny>()?.is_none() {
                return Ok(found);
            }
            place += 1;
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

struct Elements<'f, 'a>(&'f mut dyn FnMut(&'a str));

impl<'de> Visitor<'de> for Elements<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(raw) = seq.next_element::<&RawValue>()? {
            (self.0)(raw.get());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(json: &str, path: &[&str]) -> Result<Option<String>, Unreadable> {
        let step = |text: &&str| text.parse().map_or_else(|_| Step::Name((*text).to_owned()), Step::Index);
        let path: Vec<Step> = path.iter().map(step).collect();
        let Some(found) = find(json.as_bytes(), &path)? else { return Ok(None) };
        Ok(text(found)?.map(Cow::into_owned))
    }

    /// The same as `SELECT ('…'::json #>> '{…}')`.
    #[test]
    fn paths_lead_where_postgres_says() {
        let some = |text: &str| Ok(Some(text.to_owned()));
        let json = r#"{"a": {"b": [10, "x\"é", null, {"c": true}]}, "a b": 1.50, "n": null, "e": "", "d": 1, "d": 2}"#;
        for (path, expected) in [
            (&["a", "b", "0"][..], some("10")),
            (&["a", "b", "1"], some("x\"é")),
            (&["a", "b", "2"], Ok(None)),
            (&["a", "b", "-1", "c"], some("true")),
            (&["a", "b", "-5"], Ok(None)),
            (&["a", "b", "4"], Ok(None)),
            (&["a", "b"], some(r#"[10, "x\"é", null, {"c": true}]"#)),
            (&["a", "c"], Ok(None)),
            (&["a", "0"], Ok(None)),
            (&["a b"], some("1.50")),
            (&["a b", "x"], Ok(None)),
            (&["e"], some("")),
            (&["e", "0"], Ok(None)),
            (&["n"], Ok(None)),
            (&["n", "x"], Ok(None)),
            (&["d"], some("2")),
        ] {
            assert_eq!(at(json, path), expected, "{path:?}");
        }
        assert_eq!(at("\"x\"", &[]), some("x"));
    }

    #[test]
    fn what_is_no_json_is_unreadable_also_behind_the_place_that_is_wanted() {
        for json in ["", "{", "{\"a\": 1", "{\"a\": 1} x", "{\"a\": 1, \"b\": ?}", "nul", &"[".repeat(1000)] {
            assert_eq!(at(json, &["a"]), Err(Unreadable), "{json}");
        }
    }

    #[test]
    fn elements_come_in_order_and_as_written() {
        let all = |json| {
            let mut all = Vec::new();
            elements(json, &mut |element| all.push(element.to_owned())).map(|()| all)
        };
        assert_eq!(all("[1, \"a\", null, [2]]").unwrap(), ["1", "\"a\"", "null", "[2]"]);
        assert!(all("[]").unwrap().is_empty());
        for json in ["{}", "1", "[1", "null"] {
            assert!(all(json).is_err(), "{json}");
        }
    }
}
