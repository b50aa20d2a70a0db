//! The one form in which a manifest leaves platformctl: pretty JSON with sorted keys.
//!
//! JSON is YAML, and in this form YAML 1.1 and YAML 1.2 readers can't differ: every string is quoted, every number
//! plain, no anchors, tags or merge keys. Characters that a YAML reader would refuse or fold are escaped.

use serde_json::{Map, Value};
use shared::check::yaml::{YamlProblem, join_key};

/// Longest key that every YAML reader takes without an explicit `?`: the 1,024 characters of the specification, less
/// room for quotes and escapes.
const MAX_KEY_CHARS: usize = 512;

/// Emits `value` in canonical form, with a newline at the end.
///
/// # Errors
/// All fields that have no form which both YAML versions read alike: a float that needs an exponent, a key of more
/// than 512 characters.
pub fn canonical(value: &Value) -> Result<Vec<u8>, Vec<YamlProblem>> {
    let mut problems = Vec::new();
    let sorted = sort(value, "", &mut problems);
    let mut text = match serde_json::to_string_pretty(&sorted) {
        Ok(text) => escape_for_yaml(&text),
        Err(error) => {
            problems.push(YamlProblem {
                line: None,
                path: None,
                message: error.to_string(),
            });
            String::new()
        }
    };
    text.push('\n');
    if problems.is_empty() {
        Ok(text.into_bytes())
    } else {
        Err(problems)
    }
}

/// A copy whose objects were filled in key order: it comes out sorted whether or not serde_json keeps insertion order,
/// which another crate's feature can decide.
fn sort(value: &Value, path: &str, problems: &mut Vec<YamlProblem>) -> Value {
    let at_path = |message: &str| YamlProblem {
        line: None,
        path: Some(path.to_owned()),
        message: message.to_owned(),
    };
    match value {
        Value::Object(object) => {
            let mut entries: Vec<(&String, &Value)> = object.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            let mut sorted = Map::new();
            for (key, child) in entries {
                if key.chars().count() > MAX_KEY_CHARS {
                    problems.push(at_path("a key has more than 512 characters"));
                    continue;
                }
                sorted.insert(key.clone(), sort(child, &join_key(path, key), problems));
            }
            Value::Object(sorted)
        }
        Value::Array(items) => {
            let items = items.iter().enumerate();
            Value::Array(
                items
                    .map(|(i, item)| sort(item, &format!("{path}[{i}]"), problems))
                    .collect(),
            )
        }
        Value::Number(n) if n.is_f64() && n.to_string().contains(['e', 'E']) => {
            problems.push(at_path(
                "a number that needs an exponent is a string to some YAML readers; quote it",
            ));
            Value::Null
        }
        other => other.clone(),
    }
}

/// JSON text with every character escaped that YAML does not allow raw, or takes for a line break.
fn escape_for_yaml(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        // Such characters can only stand inside strings: JSON's own syntax is ASCII.
        if matches!(
            c,
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
        ) {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use shared::check::yaml::parse_document;

    use super::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1_000_000i32..1_000_000).prop_map(|n| Value::from(f64::from(n) / 64.0)),
            any::<String>().prop_map(Value::from),
            "(yes|no|on|off|~|null|0o17|017|1_000|22:22|1e3|<<|=|\u{85}|\u{2028}|\u{7f}|\u{feff})"
                .prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 48, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map("[a-z0-9_/. ]{0,12}", inner, 0..6)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn keys_are_sorted_and_words_quoted() {
        let text = String::from_utf8(canonical(&json!({"b": "no", "a": 1})).unwrap()).unwrap();
        assert_eq!(text, "{\n  \"a\": 1,\n  \"b\": \"no\"\n}\n");
    }

    #[test]
    fn what_yaml_versions_would_read_differently_is_refused_with_its_path() {
        let found = canonical(&json!({"a": [1e30], "b": {"x".repeat(600): 1}})).unwrap_err();
        let paths: Vec<_> = found.iter().filter_map(|p| p.path.clone()).collect();
        assert_eq!(paths, ["a[0]", "b"]);
    }

    #[test]
    fn every_character_that_yaml_folds_or_refuses_is_escaped_and_comes_back() {
        let text: String = ('\u{0}'..='\u{ffff}').collect();
        let out = canonical(&json!([text])).unwrap();
        let bad = |c: char| {
            (c.is_control() && c != '\n')
                || matches!(
                    c,
                    '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}'
                )
        };
        assert!(!String::from_utf8(out.clone()).unwrap().contains(bad));
        assert_eq!(parse_document(&out).unwrap(), json!([text]));
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_a_fixpoint(value in any_json()) {
            // A null document is an empty file to a YAML reader, and no manifest.
            prop_assume!(!value.is_null());
            let once = canonical(&value).unwrap();
            let as_yaml = parse_document(&once).unwrap();
            prop_assert_eq!(&as_yaml, &value);
            prop_assert_eq!(&as_yaml, &serde_json::from_slice::<Value>(&once).unwrap());
            prop_assert_eq!(canonical(&as_yaml).unwrap(), once);
        }
    }
}
