//! Stage two: the keys of the table, each with a value of its kind or its default. What a value means is not judged yet.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::error::{Problem, closest};
use super::keys::{self, Key, Kind};
use super::raw::{Entry, Raw, RawValue};

/// What the sample file holds where only the operator knows the value. A list is unfilled when one of its items is.
const PLACEHOLDERS: &[&str] = &["REQUIRED", "AWS_ACCOUNT|ALIAS", "AWS_PROFILE", "IP"];

/// A value of the kind that its key takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Text(String),
    Number(u64),
    List(Vec<(String, Option<Range<usize>>)>),
}

/// A key that is set, by the file or by its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) value: Value,
    /// Where the file sets it; none for a default.
    pub(crate) span: Option<Range<usize>>,
}

/// Every key that is set and is not already known to be wrong.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    pub(crate) settings: BTreeMap<&'static str, Setting>,
}

/// Merges what the file says with the defaults; adds what is wrong to the problems of stage one.
pub(crate) fn merge(raw: Raw, text: &str) -> (Merged, Vec<Problem>) {
    let Raw {
        entries,
        broken,
        mut problems,
    } = raw;
    let mut first: BTreeMap<&'static str, &Entry> = BTreeMap::new();
    let mut unknown = Vec::new();
    for entry in &entries {
        let Some(key) = keys::find(&entry.key) else {
            unknown.push((entry.key.as_str(), Some(&entry.key_span)));
            continue;
        };
        if let Some(earlier) = first.get(key.name) {
            problems.push(
                Problem::new(format!("`{}` is set twice", key.name))
                    .at(Some(&entry.key_span), "again here")
                    .at(Some(&earlier.key_span), "first set here")
                    .help("keep one of the two"),
            );
        } else {
            first.insert(key.name, entry);
        }
    }
    // Neither a key whose value does not parse nor one whose name is misspelt is missing.
    let mut meant: BTreeSet<&str> = broken.iter().map(String::as_str).collect();
    for (name, span) in unknown {
        let candidates = keys::documented_keys().iter().map(|key| key.name);
        let suggestion = closest(name, candidates.clone());
        if let Some(key) = suggestion {
            meant.insert(key);
        }
        let known = || {
            format!(
                "the keys are: {}",
                candidates.collect::<Vec<_>>().join(", ")
            )
        };
        problems.push(
            Problem::new(format!("unknown key `{name}`"))
                .at(span, "no such key")
                .help(suggestion.map_or_else(known, |key| format!("did you mean `{key}`?"))),
        );
    }

    let mut settings = BTreeMap::new();
    for key in keys::documented_keys() {
        let Some(entry) = first
            .get(key.name)
            .filter(|entry| entry.value != RawValue::Null)
        else {
            continue;
        };
        meant.insert(key.name);
        match typed(key, entry, text) {
            Ok(value) => {
                settings.insert(
                    key.name,
                    Setting {
                        value,
                        span: Some(entry.value_span.clone()),
                    },
                );
            }
            Err(problem) => problems.push(problem),
        }
    }

    let on_aws = match settings.get("key_wrap").map(|setting| &setting.value) {
        Some(Value::Text(wrap)) => wrap == keys::DEFAULT_KEY_WRAP,
        // A value of the wrong kind: what it was meant to be is unknown, so it makes no other key missing.
        _ => !meant.contains("key_wrap"),
    };
    for key in keys::documented_keys()
        .iter()
        .filter(|key| !meant.contains(key.name))
    {
        if let Some(default) = key.default(on_aws) {
            settings.insert(
                key.name,
                Setting {
                    value: default_value(key, default),
                    span: None,
                },
            );
        } else if key.required(on_aws) {
            problems.push(
                Problem::new(format!("`{}` is missing", key.name)).help(format!(
                    "{} For example: {} = \"{}\"",
                    key.doc, key.name, key.example
                )),
            );
        }
    }
    (Merged { settings }, problems)
}

fn default_value(key: &Key, default: &str) -> Value {
    match key.kind {
        Kind::Number => {
            digits(default).map_or_else(|| Value::Text(default.to_owned()), Value::Number)
        }
        Kind::Text => Value::Text(default.to_owned()),
        Kind::List => Value::List(split(default, None)),
    }
}

fn typed(key: &Key, entry: &Entry, text: &str) -> Result<Value, Problem> {
    let span = &entry.value_span;
    if let RawValue::Text(value) = &entry.value
        && is_placeholder(value)
    {
        return Err(placeholder(key, value, span));
    }
    match (key.kind, &entry.value) {
        (Kind::Text, RawValue::Text(value)) => Ok(Value::Text(value.clone())),
        (Kind::Text, RawValue::Whole(_)) => {
            Err(wrong(key, &entry.value, span, "a string").help("write it in quotes"))
        }
        (Kind::Text, other) => Err(wrong(key, other, span, "a string")),
        (Kind::Number, RawValue::Whole(number)) => Ok(Value::Number(*number)),
        (Kind::Number, RawValue::Text(value)) => {
            digits(value).map(Value::Number).ok_or_else(|| {
                Problem::new(format!(
                    "`{}` must be a whole number, not `{value}`",
                    key.name
                ))
                .at(Some(span), "not a number")
            })
        }
        (Kind::Number, other) => Err(wrong(key, other, span, "a whole number")),
        (Kind::List, RawValue::Text(value)) => {
            // Items have places of their own unless an escape made the text differ from what is written.
            let inner = span.start.saturating_add(1)..span.end.saturating_sub(1);
            let items = split(
                value,
                (text.get(inner.clone()) == Some(value)).then_some(inner.start),
            );
            Ok(Value::List(
                items
                    .into_iter()
                    .map(|(item, place)| (item, place.or_else(|| Some(span.clone()))))
                    .collect(),
            ))
        }
        (Kind::List, RawValue::List(items)) => {
            let mut texts = Vec::new();
            for (item, place) in items {
                match item {
                    RawValue::Text(value) if is_placeholder(value) => {
                        return Err(placeholder(key, value, place));
                    }
                    RawValue::Text(value) => {
                        texts.push((value.trim().to_owned(), Some(place.clone())))
                    }
                    other => return Err(wrong(key, other, place, "a list of strings")),
                }
            }
            texts.retain(|(item, _)| !item.is_empty());
            Ok(Value::List(texts))
        }
        (Kind::List, other) => {
            Err(wrong(key, other, span, "a list").help("write \"A,B\" or [\"A\", \"B\"]"))
        }
    }
}

fn is_placeholder(value: &str) -> bool {
    PLACEHOLDERS.contains(&value.trim()) || value.split(',').any(|item| item.trim() == "IP")
}

fn placeholder(key: &Key, value: &str, span: &Range<usize>) -> Problem {
    Problem::new(format!(
        "`{}` still holds the sample's placeholder `{value}`",
        key.name
    ))
    .at(Some(span), "fill this in")
    .help(format!(
        "{} For example: {} = \"{}\"",
        key.doc, key.name, key.example
    ))
}

fn wrong(key: &Key, value: &RawValue, span: &Range<usize>, wanted: &str) -> Problem {
    Problem::new(format!("`{}` must be {wanted}", key.name))
        .at(Some(span), &format!("this is {}", value.kind()))
}

/// A number as digits only: no sign, no point, no exponent.
fn digits(text: &str) -> Option<u64> {
    let text = text.trim();
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// The items between commas without the blanks around them, and their places if the text starts at `start`.
fn split(text: &str, start: Option<usize>) -> Vec<(String, Option<Range<usize>>)> {
    let mut items = Vec::new();
    let mut at = 0;
    for piece in text.split(',') {
        let item = piece.trim();
        let lead = piece.len() - piece.trim_start().len();
        if !item.is_empty() {
            let place = start.map(|start| start + at + lead..start + at + lead + item.len());
            items.push((item.to_owned(), place));
        }
        at += piece.len() + 1;
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::raw;
    use proptest::prelude::*;

    fn setting(line: &str, key: &str) -> Option<Value> {
        merge(raw::parse(line), line)
            .0
            .settings
            .get(key)
            .map(|setting| setting.value.clone())
    }

    fn items(value: Option<Value>) -> Vec<String> {
        match value {
            Some(Value::List(items)) => items.into_iter().map(|(item, _)| item).collect(),
            other => panic!("not a list: {other:?}"),
        }
    }

    #[test]
    fn every_default_is_of_its_keys_kind() {
        for key in keys::documented_keys() {
            for default in [key.default(true), key.default(false)]
                .into_iter()
                .flatten()
            {
                let value = default_value(key, default);
                let fits = matches!(
                    (key.kind, &value),
                    (Kind::Text, Value::Text(_))
                        | (Kind::Number, Value::Number(_))
                        | (Kind::List, Value::List(_))
                );
                assert!(fits, "{}: {value:?}", key.name);
            }
        }
    }

    #[test]
    fn an_item_of_a_comma_separated_string_has_its_own_place() {
        let text = "ssh_access_list = \"10.0.0.1, 10.0.0.2\"";
        let Some(Value::List(items)) = setting(text, "ssh_access_list") else {
            panic!("a list")
        };
        let places: Vec<_> = items
            .iter()
            .map(|(_, span)| &text[span.clone().unwrap()])
            .collect();
        assert_eq!(places, ["10.0.0.1", "10.0.0.2"]);
    }

    #[test]
    fn null_is_not_set() {
        assert_eq!(setting("aws_profile = null", "aws_profile"), None);
        assert_eq!(
            setting("vpc_cidr = null", "vpc_cidr"),
            Some(Value::Text(keys::DEFAULT_VPC_CIDR.to_owned()))
        );
    }

    proptest! {
        #[test]
        fn a_number_may_be_quoted(number in 0u64..u64::MAX / 2) {
            let bare = setting(&format!("secure_asg_min = {number}"), "secure_asg_min");
            let quoted = setting(&format!("secure_asg_min = \"{number}\""), "secure_asg_min");
            prop_assert_eq!(bare, Some(Value::Number(number)));
            prop_assert_eq!(quoted, Some(Value::Number(number)));
        }

        #[test]
        fn a_list_may_be_a_string(list in proptest::collection::vec("[a-z0-9./]{1,12}", 0..6)) {
            let quoted: Vec<_> = list.iter().map(|item| format!("\"{item}\"")).collect();
            let hcl = items(setting(&format!("ssh_access_list = [{}]", quoted.join(", ")), "ssh_access_list"));
            let string = items(setting(&format!("ssh_access_list = \"{}\"", list.join(" ,")), "ssh_access_list"));
            prop_assert_eq!(&hcl, &list);
            prop_assert_eq!(&string, &list);
        }
    }
}
