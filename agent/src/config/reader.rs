//! What a TOML file says, key by key, with the line of each; mistakes are collected, not returned.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::Range;
use std::rc::Rc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Mistake;

type Collected = Rc<RefCell<Vec<Mistake>>>;

/// A table of the file, of which keys are taken one by one; what is left at the end is unknown.
pub(super) struct Reader<'i> {
    text: &'i str,
    /// Where the table's keys stand in the file: `""`, or `"key_wrap."`.
    prefix: String,
    table: DeTable<'i>,
    known: Vec<&'static str>,
    mistakes: Collected,
    /// How many mistakes the parser found in the file itself; with any, what it recovered says nothing.
    syntax: usize,
}

/// A value as the file has it, or its default, on the way to being checked.
pub(super) struct Given<V> {
    name: String,
    line: Option<usize>,
    /// None where a mistake has been noted already.
    value: Option<V>,
    mistakes: Collected,
}

impl<'i> Reader<'i> {
    pub(super) fn new(text: &'i str) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mistakes: Vec<Mistake> = errors
            .into_iter()
            .map(|e| Mistake {
                line: e.span().map(|s| line_of(text, &s)),
                message: e.message().replace('\n', " "),
            })
            .collect();
        Self {
            text,
            prefix: String::new(),
            table: table.into_inner(),
            known: Vec::new(),
            syntax: mistakes.len(),
            mistakes: Rc::new(RefCell::new(mistakes)),
        }
    }

    /// Every mistake found, unknown keys included, in the order of the lines.
    pub(super) fn finish(self) -> Vec<Mistake> {
        let mistakes = Rc::clone(&self.mistakes);
        let syntax = self.syntax;
        drop(self);
        let mut all = std::mem::take(&mut *mistakes.borrow_mut());
        if syntax > 0 {
            all.truncate(syntax);
        }
        all.sort_by_key(|m| (m.line.is_none(), m.line));
        all
    }

    fn note(&self, line: Option<usize>, message: String) {
        self.mistakes.borrow_mut().push(Mistake { line, message });
    }

    fn take(&mut self, key: &'static str) -> Option<Spanned<DeValue<'i>>> {
        self.known.push(key);
        self.table.remove(key)
    }

    fn given<V>(&self, key: &str, line: Option<usize>, value: Option<V>) -> Given<V> {
        Given {
            name: format!("{}{key}", self.prefix),
            line,
            value,
            mistakes: Rc::clone(&self.mistakes),
        }
    }

    fn missing(&self, key: &str) {
        self.note(None, format!("{}{key} is missing", self.prefix));
    }

    /// A text that may be absent.
    pub(super) fn text(&mut self, key: &'static str) -> Given<Option<String>> {
        let Some(found) = self.take(key) else {
            return self.given(key, None, Some(None));
        };
        let line = Some(line_of(self.text, &found.span()));
        match found.into_inner() {
            DeValue::String(s) => self.given(key, line, Some(Some(s.into_owned()))),
            other => {
                let what = other.type_str();
                self.note(
                    line,
                    format!("{}{key} must be a text in quotes, not {what}", self.prefix),
                );
                self.given(key, line, None)
            }
        }
    }

    /// A text that must be there.
    pub(super) fn required_text(&mut self, key: &'static str) -> Given<String> {
        let given = self.text(key);
        if matches!(given.value, Some(None)) {
            self.missing(key);
        }
        given.map(Option::flatten)
    }

    /// A text with a default.
    pub(super) fn text_or(&mut self, key: &'static str, default: &str) -> Given<String> {
        self.text(key)
            .map(|v| v.map(|t| t.unwrap_or_else(|| default.to_owned())))
    }

    /// An integer with a default.
    pub(super) fn integer_or(&mut self, key: &'static str, default: i64) -> Given<i64> {
        let Some(found) = self.take(key) else {
            return self.given(key, None, Some(default));
        };
        let line = Some(line_of(self.text, &found.span()));
        let value = match found.get_ref() {
            DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix()).ok(),
            _ => None,
        };
        if value.is_none() {
            self.note(line, format!("{}{key} must be an integer", self.prefix));
        }
        self.given(key, line, value)
    }

    /// A list of texts with a default.
    pub(super) fn texts_or(&mut self, key: &'static str, default: &[&str]) -> Given<Vec<String>> {
        let Some(found) = self.take(key) else {
            let default = default.iter().map(|t| (*t).to_owned()).collect();
            return self.given(key, None, Some(default));
        };
        let line = Some(line_of(self.text, &found.span()));
        let texts: Option<Vec<String>> = match found.into_inner() {
            DeValue::Array(items) => items
                .into_iter()
                .map(|item| match item.into_inner() {
                    DeValue::String(s) => Some(s.into_owned()),
                    _ => None,
                })
                .collect(),
            _ => None,
        };
        if texts.is_none() {
            self.note(
                line,
                format!("{}{key} must be a list of texts in quotes", self.prefix),
            );
        }
        self.given(key, line, texts)
    }

    /// Yes or no, with a default.
    pub(super) fn boolean_or(&mut self, key: &'static str, default: bool) -> Given<bool> {
        let Some(found) = self.take(key) else {
            return self.given(key, None, Some(default));
        };
        let line = Some(line_of(self.text, &found.span()));
        let value = match found.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => None,
        };
        if value.is_none() {
            self.note(line, format!("{}{key} must be true or false", self.prefix));
        }
        self.given(key, line, value)
    }

    /// A mistake that no single key is to blame for.
    pub(super) fn mistake(&self, message: &str) {
        self.note(None, format!("{}{message}", self.prefix));
    }

    /// A table that may be absent.
    pub(super) fn section(&mut self, key: &'static str) -> Option<Reader<'i>> {
        if self.table.contains_key(key) {
            return self.required_section(key);
        }
        self.known.push(key);
        None
    }

    /// A table that must be there.
    pub(super) fn required_section(&mut self, key: &'static str) -> Option<Reader<'i>> {
        let Some(found) = self.take(key) else {
            self.missing(key);
            return None;
        };
        let line = Some(line_of(self.text, &found.span()));
        let DeValue::Table(table) = found.into_inner() else {
            self.note(line, format!("{}{key} must be a section", self.prefix));
            return None;
        };
        Some(Reader {
            text: self.text,
            prefix: format!("{}{key}.", self.prefix),
            table,
            known: Vec::new(),
            mistakes: Rc::clone(&self.mistakes),
            syntax: self.syntax,
        })
    }
}

impl Drop for Reader<'_> {
    /// What nobody has asked for is unknown.
    fn drop(&mut self) {
        for key in self.table.keys() {
            let line = Some(line_of(self.text, &key.span()));
            self.note(
                line,
                format!(
                    "{}{} is unknown; known here: {}",
                    self.prefix,
                    key.get_ref(),
                    self.known.join(", ")
                ),
            );
        }
    }
}

impl<V> Given<V> {
    fn map<W>(self, f: impl FnOnce(Option<V>) -> Option<W>) -> Given<W> {
        Given {
            name: self.name,
            line: self.line,
            value: f(self.value),
            mistakes: self.mistakes,
        }
    }

    /// The value after its check; none where there is none, or where it failed, which is noted.
    pub(super) fn checked<W, E: Display>(self, check: impl FnOnce(V) -> Result<W, E>) -> Option<W> {
        match check(self.value?) {
            Ok(checked) => Some(checked),
            Err(e) => {
                self.mistakes.borrow_mut().push(Mistake {
                    line: self.line,
                    message: format!("{}: {e}", self.name),
                });
                None
            }
        }
    }
}

impl<V> Given<Option<V>> {
    /// As [`Given::checked`], for a value that may be absent.
    #[allow(
        clippy::option_option,
        reason = "failed, absent and given are three things"
    )]
    pub(super) fn checked_if_given<W, E: Display>(
        self,
        check: impl FnOnce(V) -> Result<W, E>,
    ) -> Option<Option<W>> {
        self.checked(|v| v.map(check).transpose())
    }
}

fn line_of(text: &str, span: &Range<usize>) -> usize {
    text.bytes()
        .take(span.start)
        .filter(|b| *b == b'\n')
        .count()
        + 1
}
