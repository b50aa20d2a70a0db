//! One YAML document as a JSON value, and nothing that JSON can't say.

use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Number, Value};

/// Something in a document that can't be read, or that another reader would read differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct YamlProblem {
    /// Line in the text that was read, from 1, where the parser knows it.
    pub line: Option<usize>,
    /// Path of the field, such as `spec.containers[0].image`, where it is known.
    pub path: Option<String>,
    /// What is wrong.
    pub message: String,
}

impl fmt::Display for YamlProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.path, self.line) {
            (Some(path), _) => write!(f, "{path}: {}", self.message),
            // The parser's own message already ends with the line.
            (None, _) => f.write_str(&self.message),
        }
    }
}

/// Reads exactly one document by YAML 1.2 rules.
///
/// Refused, all at once where the parser gets that far: a second document, an empty one, duplicate keys, keys that are
/// no strings, tags, merge keys (`<<`, which YAML 1.2 does not have) and numbers that are not finite.
pub fn parse_document(bytes: &[u8]) -> Result<Value, Vec<YamlProblem>> {
    let mut documents = serde_yaml::Deserializer::from_slice(bytes);
    let Some(first) = documents.next() else {
        return Err(vec![problem("the file is empty")]);
    };
    let parsed =
        serde_yaml::Value::deserialize(first).map_err(|error| vec![from_parser(&error)])?;
    let mut problems = Vec::new();
    if documents.next().is_some() {
        problems.push(problem(
            "the file holds more than one document; kubelet would read only the first",
        ));
    }
    if parsed.is_null() {
        problems.push(problem("the file is empty"));
    }
    let value = to_json(parsed, "", &mut problems);
    if problems.is_empty() {
        Ok(value)
    } else {
        Err(problems)
    }
}

/// Appends a key to a field path: `spec` and `hostNetwork` give `spec.hostNetwork`.
pub fn join_key(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn problem(message: &str) -> YamlProblem {
    YamlProblem {
        line: None,
        path: None,
        message: message.to_owned(),
    }
}

fn from_parser(error: &serde_yaml::Error) -> YamlProblem {
    YamlProblem {
        line: error.location().map(|at| at.line()),
        path: None,
        message: error.to_string(),
    }
}

fn to_json(value: serde_yaml::Value, path: &str, problems: &mut Vec<YamlProblem>) -> Value {
    let mut refuse = |message: String| {
        let path = (!path.is_empty()).then(|| path.to_owned());
        problems.push(YamlProblem {
            line: None,
            path,
            message,
        });
        Value::Null
    };
    match value {
        serde_yaml::Value::Null => Value::Null,
        serde_yaml::Value::Bool(b) => Value::Bool(b),
        serde_yaml::Value::String(s) => Value::String(s),
        serde_yaml::Value::Number(n) => match number(&n) {
            Some(number) => Value::Number(number),
            None => refuse(format!("{n} is not a finite number of at most 64 bits")),
        },
        serde_yaml::Value::Sequence(items) => {
            let items = items.into_iter().enumerate();
            Value::Array(
                items
                    .map(|(i, item)| to_json(item, &format!("{path}[{i}]"), problems))
                    .collect(),
            )
        }
        serde_yaml::Value::Mapping(entries) => {
            let mut object = Map::new();
            for (key, value) in entries {
                match key {
                    serde_yaml::Value::String(key) if key == "<<" => problems.push(YamlProblem {
                        line: None,
                        path: Some(join_key(path, &key)),
                        message: "merge keys exist in YAML 1.1 only; write the fields out"
                            .to_owned(),
                    }),
                    serde_yaml::Value::String(key) => {
                        let value = to_json(value, &join_key(path, &key), problems);
                        object.insert(key, value);
                    }
                    _ => problems.push(YamlProblem {
                        line: None,
                        path: (!path.is_empty()).then(|| path.to_owned()),
                        message: "a key is not a string; quote it".to_owned(),
                    }),
                }
            }
            Value::Object(object)
        }
        serde_yaml::Value::Tagged(tagged) => refuse(format!("tag {} is not allowed", tagged.tag)),
    }
}

fn number(n: &serde_yaml::Number) -> Option<Number> {
    if let Some(n) = n.as_u64() {
        return Some(n.into());
    }
    if let Some(n) = n.as_i64() {
        return Some(n.into());
    }
    Number::from_f64(n.as_f64()?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn messages(text: &str) -> String {
        parse_document(text.as_bytes())
            .unwrap_err()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn one_document_is_read_by_the_rules_of_yaml_1_2() {
        let value = parse_document(b"---\na: yes\nb: [1, 0.5, true, ~]\n").unwrap();
        assert_eq!(
            value,
            serde_json::json!({"a": "yes", "b": [1, 0.5, true, null]})
        );
    }

    #[test]
    fn what_json_cannot_say_is_refused_all_at_once() {
        let found = messages("a: !thing x\nb: .inf\n1: one\n<<: {c: d}\n");
        for part in [
            "a: tag !thing",
            "b: .inf",
            "a key is not a string",
            "<<: merge keys",
        ] {
            assert!(found.contains(part), "{part} is not in:\n{found}");
        }
    }

    #[test]
    fn empty_doubled_and_broken_files_are_refused() {
        assert!(messages("").contains("empty"));
        assert!(messages("# only a comment\n").contains("empty"));
        assert!(messages("a: 1\n---\nb: 2\n").contains("more than one document"));
        assert!(messages("a: 1\na: 2\n").contains("duplicate entry"));
        assert_eq!(
            parse_document(b"a: 1\nb: [\n")
                .unwrap_err()
                .first()
                .and_then(|p| p.line),
            Some(3)
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_document(&bytes);
        }

        #[test]
        fn yaml_like_text_never_panics(text in "[-a-c:{}\\[\\],&*!|>'\"%#?<0-9. \n\t]{0,120}") {
            let _ = parse_document(text.as_bytes());
        }
    }
}
