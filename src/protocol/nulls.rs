//! Reads JSON in which `null` is the same as a field that isn't there.
//!
//! Programs in Go, Python or PHP write `null` for what they don't set, and the server that their libraries were
//! written for reads it so everywhere: as the empty text, 0, `false`, no elements. Here, too. Where `null` is a value
//! of its own, as in a publication's data, the field reads raw JSON and sees it.
//!
//! In: a slice of JSON. Out: what is to be read of it. What has fields must be a JSON object; serde alone would
//! also take a list of their values.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeSeed, Error, MapAccess, SeqAccess, Visitor,
        value::{MapDeserializer, SeqDeserializer},
    },
};

/// Reads `json`, all of it.
///
/// # Errors
/// If it is not JSON, or not that of a `T`.
pub fn from_slice<'de, T: Deserialize<'de>>(json: &'de [u8]) -> serde_json::Result<T> {
    let mut from = serde_json::Deserializer::from_slice(json);
    let value = T::deserialize(Nulls(&mut from))?;
    from.end()?;
    Ok(value)
}

/// How the names begin under which serde_json asks itself for raw JSON. What is asked for so has to reach it.
const OF_SERDE_JSON: &str = "$serde_json::private::";

/// Wraps what takes part in reading, from the deserializer down to each value.
struct Nulls<T>(T);

/// A kind of value: how it is read, and what stands for it if there is `null`.
trait Kind<'de, V: Visitor<'de>> {
    fn read<D: Deserializer<'de>>(self, from: D, visitor: V) -> Result<V::Value, D::Error>;
    fn nothing<E: Error>(self, visitor: V) -> Result<V::Value, E>;
}

/// Reads a value of the kind, or nothing.
struct OrNothing<K, V>(K, V);

impl<'de, K: Kind<'de, V>, V: Visitor<'de>> Visitor<'de> for OrNothing<K, V> {
    type Value = V::Value;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.1.expecting(to)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.nothing(self.1)
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.nothing(self.1)
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<V::Value, D::Error> {
        self.0.read(from, self.1)
    }
}

/// Kinds without anything special: how they are read, and what stands for `null`.
macro_rules! kinds {
    ($($kind:ident: $read:ident, $visit:ident($nothing:expr);)*) => {$(
        struct $kind;

        impl<'de, V: Visitor<'de>> Kind<'de, V> for $kind {
            fn read<D: Deserializer<'de>>(self, from: D, visitor: V) -> Result<V::Value, D::Error> {
                from.$read(Nulls(visitor))
            }

            fn nothing<E: Error>(self, visitor: V) -> Result<V::Value, E> {
                visitor.$visit($nothing)
            }
        }
    )*};
}

kinds! {
    Bool: deserialize_bool, visit_bool(false);
    Signed: deserialize_i64, visit_i64(0);
    Unsigned: deserialize_u64, visit_u64(0);
    Float: deserialize_f64, visit_f64(0.0);
    Text: deserialize_string, visit_str("");
    Seq: deserialize_seq, visit_seq(SeqDeserializer::<_, E>::new(std::iter::empty::<()>()));
    Map: deserialize_map, visit_map(MapDeserializer::<_, E>::new(std::iter::empty::<((), ())>()));
}

/// What has fields.
struct Struct(&'static str, &'static [&'static str]);

impl<'de, V: Visitor<'de>> Kind<'de, V> for Struct {
    fn read<D: Deserializer<'de>>(self, from: D, visitor: V) -> Result<V::Value, D::Error> {
        from.deserialize_struct(self.0, self.1, Fields(visitor))
    }

    fn nothing<E: Error>(self, visitor: V) -> Result<V::Value, E> {
        Map.nothing(visitor)
    }
}

macro_rules! deserialize {
    ($($method:ident: $kind:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.deserialize_option(OrNothing($kind, visitor))
        }
    )*};
}

macro_rules! visit {
    ($($method:ident: $type:ty;)*) => {$(
        fn $method<E: Error>(self, value: $type) -> Result<V::Value, E> {
            self.0.$method(value)
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Nulls<D> {
    type Error = D::Error;

    deserialize! {
        deserialize_bool: Bool;
        deserialize_i8: Signed;
        deserialize_i16: Signed;
        deserialize_i32: Signed;
        deserialize_i64: Signed;
        deserialize_u8: Unsigned;
        deserialize_u16: Unsigned;
        deserialize_u32: Unsigned;
        deserialize_u64: Unsigned;
        deserialize_f32: Float;
        deserialize_f64: Float;
        deserialize_str: Text;
        deserialize_string: Text;
        deserialize_seq: Seq;
        deserialize_map: Map;
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_option(OrNothing(Struct(name, fields), visitor))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_option(Nulls(visitor))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        if name.starts_with(OF_SERDE_JSON) {
            return self.0.deserialize_newtype_struct(name, visitor);
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_any(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_ignored_any(visitor)
    }

    // JSON says of itself what it is, and nothing that we read asks for one of these in particular.
    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct enum identifier
    }
}

/// What a value is given to, wrapped for what there is in it.
impl<'de, V: Visitor<'de>> Visitor<'de> for Nulls<V> {
    type Value = V::Value;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(to)
    }

    visit! {
        visit_bool: bool;
        visit_i64: i64;
        visit_u64: u64;
        visit_f64: f64;
        visit_str: &str;
        visit_borrowed_str: &'de str;
        visit_string: String;
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Nulls(from))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, from: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Nulls(from))
    }

    fn visit_map<A: MapAccess<'de>>(self, from: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Nulls(from))
    }
}

/// Takes an object only.
struct Fields<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for Fields<V> {
    type Value = V::Value;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, from: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Nulls(from))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Nulls<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Nulls(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Nulls<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Nulls(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Nulls<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Nulls(from))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::value::RawValue;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Inner {
        number: u32,
        text: String,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct All {
        flag: bool,
        signed: i32,
        unsigned: u64,
        float: f64,
        text: String,
        boxed: Box<str>,
        list: Vec<String>,
        tags: BTreeMap<String, String>,
        inner: Inner,
        some: Option<Inner>,
        children: Vec<All>,
        by_name: BTreeMap<String, Inner>,
    }

    #[test]
    fn null_is_the_same_as_nothing_wherever_it_stands() {
        let json = br#"{"flag": null, "signed": null, "unsigned": null, "float": null, "text": null, "boxed": null,
            "list": null, "tags": null, "inner": null, "some": null, "children": null, "by_name": null, "other": null}"#;
        assert_eq!(from_slice::<All>(json).expect("read"), All::default());
        assert_eq!(from_slice::<All>(b"null").expect("read"), All::default());
        let json = br#"{"list": ["a", null], "tags": {"a": null}, "inner": {"number": null, "text": "x"},
            "some": {"text": null}, "children": [{"flag": true, "signed": null}, null], "by_name": {"n": null}}"#;
        let expected = All {
            list: vec!["a".into(), String::new()],
            tags: [("a".into(), String::new())].into(),
            inner: Inner { number: 0, text: "x".into() },
            some: Some(Inner::default()),
            children: vec![All { flag: true, ..All::default() }, All::default()],
            by_name: [("n".into(), Inner::default())].into(),
            ..All::default()
        };
        assert_eq!(from_slice::<All>(json).expect("read"), expected);
    }

    #[test]
    fn what_is_there_is_read_as_ever() {
        let json = br#"{"flag": true, "signed": -3, "unsigned": 18446744073709551615, "float": 1.5, "text": "a\"b",
            "boxed": "c", "list": ["d"], "tags": {"e": "f"}, "inner": {"number": 7}, "some": {}, "x": [null, {"y": 1}]}"#;
        assert_eq!(
            from_slice::<All>(json).expect("read"),
            serde_json::from_slice::<All>(json).expect("read")
        );
    }

    #[test]
    fn raw_json_sees_null_itself() {
        #[derive(Deserialize)]
        struct Raw<'a> {
            #[serde(borrow)]
            value: &'a RawValue,
            boxed: Box<RawValue>,
            absent: Option<Box<RawValue>>,
        }
        let raw: Raw<'_> =
            from_slice(br#"{"value": null, "boxed": [null,  1], "absent": null}"#).expect("read");
        assert_eq!((raw.value.get(), raw.boxed.get()), ("null", "[null,  1]"));
        assert!(raw.absent.is_none());
    }

    #[test]
    fn wrong_types_are_refused() {
        for json in [
            r#"{"flag": 1}"#,
            r#"{"signed": "1"}"#,
            r#"{"signed": 3000000000}"#,
            r#"{"unsigned": -1}"#,
            r#"{"unsigned": 1.5}"#,
            r#"{"text": 1}"#,
            r#"{"list": "a"}"#,
            r#"{"list": [1]}"#,
            r#"{"tags": {"a": 1}}"#,
            r#"{"tags": []}"#,
            r#"{"inner": [1, "x"]}"#,
            r#"{"inner": []}"#,
            r#"{"some": ["x"]}"#,
            "[]",
            "[true]",
            "1",
            "",
            "{} x",
            "{",
        ] {
            assert!(from_slice::<All>(json.as_bytes()).is_err(), "{json}");
        }
    }

    #[test]
    fn an_error_says_where() {
        let error = from_slice::<All>(br#"{"inner": {"number": "x"}}"#).expect_err("no number");
        let said = error.to_string();
        assert!(
            said.contains("\"x\"") && said.contains("u32") && said.contains("column 24"),
            "{said}"
        );
        let error = from_slice::<All>(b"[1]").expect_err("no object").to_string();
        assert!(error.contains("expected a JSON object"), "{error}");
    }
}
