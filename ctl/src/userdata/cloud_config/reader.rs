//! A mapping of which keys are taken one by one; what is left is unknown.

use serde_json::{Map, Value};

/// A mapping, with where it is for messages.
pub(super) struct Reader<'a> {
    /// What a problem is said of.
    pub(super) place: String,
    values: Option<&'a Map<String, Value>>,
    known: Vec<&'static str>,
    problems: &'a mut Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(place: &str, value: &'a Value, problems: &'a mut Vec<String>) -> Self {
        let mut reader = Self {
            place: place.to_owned(),
            values: value.as_object(),
            known: Vec::new(),
            problems,
        };
        if reader.values.is_none() {
            reader.problem("must be a mapping");
        }
        reader
    }

    pub(super) fn problem(&mut self, what: &str) {
        let place = if self.place.is_empty() {
            "the document"
        } else {
            &self.place
        };
        self.problems.push(format!("{place}: {what}"));
    }

    pub(super) fn problems(&mut self, found: Vec<String>) {
        self.problems.extend(found);
    }

    pub(super) fn take(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.values?.get(key)
    }

    /// A text that may be missing. A number or a flag is none: YAML readers differ in what they make of `0644` or `on`.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text.clone()),
            _ => {
                self.problem(&format!("{key} must be a text in quotes"));
                None
            }
        }
    }

    pub(super) fn required(&mut self, key: &'static str) -> String {
        let there = self.values.is_some_and(|v| v.contains_key(key));
        if !there {
            self.problem(&format!("{key} is missing"));
        }
        self.text(key).unwrap_or_default()
    }

    pub(super) fn flag(&mut self, key: &'static str) -> bool {
        match self.take(key) {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(_) => {
                self.problem(&format!("{key} must be true or false"));
                false
            }
        }
    }

    pub(super) fn list(&mut self, key: &'static str) -> Vec<Value> {
        match self.take(key) {
            None => Vec::new(),
            Some(Value::Array(values)) => values.clone(),
            Some(_) => {
                self.problem(&format!("{key} must be a list"));
                Vec::new()
            }
        }
    }

    pub(super) fn strings(&mut self, key: &'static str) {
        if !self.list(key).iter().all(Value::is_string) {
            self.problem(&format!("{key} must be a list of texts"));
        }
    }

    pub(super) fn drop_ins(&mut self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for (at, value) in self.list("drop_ins").iter().enumerate() {
            let place = format!("{}: drop_ins[{at}]", self.place);
            let mut reader = Reader::new(&place, value, self.problems);
            let (name, content) = (reader.required("name"), reader.required("content"));
            if !name.ends_with(".conf") || name.contains('/') {
                reader.problem("the name must end with .conf");
            }
            reader.finish();
            all.push((name, content));
        }
        all
    }

    /// Names every key that was not taken.
    pub(super) fn finish(mut self) {
        let unknown: Vec<String> = self
            .values
            .into_iter()
            .flat_map(Map::keys)
            .filter(|key| !self.known.contains(&key.as_str()))
            .cloned()
            .collect();
        for key in unknown {
            let known = self.known.join(", ");
            self.problem(&format!(
                "{key} is unknown and would be ignored; known here: {known}"
            ));
        }
    }
}
