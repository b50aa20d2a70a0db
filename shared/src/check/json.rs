//! One JSON document, without what JSON readers disagree about.

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Reads exactly one document. A key that comes twice is refused (RFC 8259 §4 leaves open which one counts), and so is
/// anything after the document.
///
/// # Errors
/// serde's own, with line and column. It quotes no value: only keys.
pub(crate) fn parse_document(bytes: &[u8]) -> Result<Value, serde_json::Error> {
    serde_json::from_slice::<Unambiguous>(bytes).map(|document| document.0)
}

struct Unambiguous(Value);

struct UnambiguousVisitor;

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(UnambiguousVisitor).map(Self)
    }
}

impl<'de> Visitor<'de> for UnambiguousVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON document")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value);
        number
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number that is not finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Unambiguous(item)) = items.next_element()? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.contains_key(&key) {
                return Err(de::Error::custom(format!("the key {key:?} comes twice")));
            }
            let Unambiguous(value) = entries.next_value()?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(text: &str) -> String {
        parse_document(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_readers_disagree_about_is_refused() {
        assert!(refused("{\"a\": 1, \"a\": 2}").contains("\"a\" comes twice"));
        assert!(refused("[{\"b\": {\"c\": 1, \"c\": 1}}]").contains("\"c\" comes twice"));
        assert!(refused("{} {}").contains("trailing characters"));
        for text in [
            "",
            "a: 1",
            "{a: 1}",
            "{\"a\": 1e999}",
            "{\"a\": NaN}",
            "{\"a\": 01}",
            "---\n{}",
            "{\"a\": 1,}",
        ] {
            refused(text);
        }
    }

    #[test]
    fn a_document_too_deep_for_the_stack_is_refused() {
        assert!(refused(&"[".repeat(100_000)).contains("recursion limit"));
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(".{0,6}", inner, 0..6)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_rest_is_read_as_serde_reads_it(value in json()) {
            let text = serde_json::to_vec(&value).unwrap();
            prop_assert_eq!(parse_document(&text).unwrap(), value);
        }
    }
}
