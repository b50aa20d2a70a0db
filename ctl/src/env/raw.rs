//! Stage one: HCL text to keys and values, each with its place. Nothing is judged but syntax.

use std::ops::Range;

use hcl_edit::Span as _;
use hcl_edit::expr::Expression;
use hcl_edit::structure::{Body, Structure};

use super::error::Problem;

/// What a file holds, and what of it could not be read.
#[derive(Debug, Default)]
pub(crate) struct Raw {
    /// In the order of the file; a key may be there twice.
    pub(crate) entries: Vec<Entry>,
    /// Keys whose value could not be parsed: wrong, but not missing.
    pub(crate) broken: Vec<String>,
    pub(crate) problems: Vec<Problem>,
}

/// One `key = value`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Range<usize>,
    pub(crate) value: RawValue,
    pub(crate) value_span: Range<usize>,
}

/// A value as it is written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RawValue {
    Text(String),
    /// A number literal that is whole and not negative.
    Whole(u64),
    /// `null`, which Terraform reads as not set.
    Null,
    List(Vec<(RawValue, Range<usize>)>),
    /// Anything else, by its name for the message.
    Other(&'static str),
}

impl RawValue {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            RawValue::Text(_) => "a string",
            RawValue::Whole(_) => "a number",
            RawValue::Null => "null",
            RawValue::List(_) => "a list",
            RawValue::Other(kind) => kind,
        }
    }
}

/// Reads a whole file. The parser stops at its first error, so a file with one is read again statement by statement:
/// what is wrong in one line must not hide what is wrong in another.
pub(crate) fn parse(text: &str) -> Raw {
    let mut raw = Raw::default();
    let first_error = match hcl_edit::parser::parse_body(text) {
        Ok(body) => {
            raw.take(&body, 0);
            return raw;
        }
        Err(error) => error,
    };
    for range in statements(text) {
        let Some(statement) = text.get(range.clone()) else {
            continue;
        };
        raw.statement(statement, range.start);
    }
    // A key that is there twice is the one error a statement alone does not have; stage two reports it.
    let twice = raw.entries.iter().enumerate().any(|(i, entry)| {
        raw.entries
            .iter()
            .skip(i + 1)
            .any(|other| other.key == entry.key)
    });
    if raw.problems.is_empty() && !twice {
        raw.problems.push(syntax(&first_error, 0));
    }
    raw
}

impl Raw {
    fn statement(&mut self, text: &str, base: usize) {
        let error = match hcl_edit::parser::parse_body(text) {
            Ok(body) => return self.take(&body, base),
            Err(error) => error,
        };
        self.problems.push(syntax(&error, base));
        // Rubbish below a good statement: keep the statement.
        let line_start = text
            .get(..error.location().offset())
            .and_then(|before| before.rfind('\n'))
            .map_or(0, |at| at + 1);
        let above = text
            .get(..line_start)
            .and_then(|above| hcl_edit::parser::parse_body(above).ok());
        match above {
            Some(body) if !body.is_empty() => self.take(&body, base),
            _ => self.broken.extend(
                text.lines()
                    .filter_map(assigned_key)
                    .next()
                    .map(str::to_owned),
            ),
        }
    }

    fn take(&mut self, body: &Body, base: usize) {
        for structure in body {
            match structure {
                Structure::Attribute(attribute) => self.entries.push(Entry {
                    key: attribute.key.as_str().to_owned(),
                    key_span: shifted(attribute.key.span(), base),
                    value: value(&attribute.value, base),
                    value_span: shifted(attribute.value.span(), base),
                }),
                Structure::Block(block) => self.problems.push(
                    Problem::new(format!(
                        "a block `{}` has no place in an environment",
                        block.ident.as_str()
                    ))
                    .at(Some(&shifted(block.ident.span(), base)), "only key = value")
                    .help("write one `key = value` a line"),
                ),
            }
        }
    }
}

fn syntax(error: &hcl_edit::parser::Error, base: usize) -> Problem {
    let at = error.location().offset().saturating_add(base);
    Problem::new(format!("this is not HCL: {}", error.message()))
        .at(Some(&(at..at.saturating_add(1))), "here")
}

fn shifted(span: Option<Range<usize>>, base: usize) -> Range<usize> {
    let span = span.unwrap_or_default();
    span.start.saturating_add(base)..span.end.saturating_add(base)
}

fn value(expression: &Expression, base: usize) -> RawValue {
    match expression {
        Expression::String(text) => RawValue::Text(text.value().clone()),
        Expression::Number(number) => number.value().as_u64().map_or(
            RawValue::Other("a negative or fractional number"),
            RawValue::Whole,
        ),
        Expression::Null(_) => RawValue::Null,
        Expression::Array(items) => RawValue::List(
            items
                .iter()
                .map(|item| (value(item, base), shifted(item.span(), base)))
                .collect(),
        ),
        Expression::Bool(_) => RawValue::Other("true or false"),
        Expression::Object(_) => RawValue::Other("a map"),
        Expression::StringTemplate(_) => {
            RawValue::Other("a string with ${…} or %{…}, which is not evaluated here")
        }
        Expression::HeredocTemplate(_) => RawValue::Other("a heredoc"),
        Expression::Variable(_) => RawValue::Other("a word without quotes"),
        _ => RawValue::Other("an expression, which is not evaluated here"),
    }
}

/// Cuts a text before each line that assigns a key, outside `/* */`. The first piece is what comes before any.
fn statements(text: &str) -> Vec<Range<usize>> {
    let mut cuts = vec![0];
    let (mut at, mut in_comment) = (0, false);
    for line in text.split_inclusive('\n') {
        if !in_comment && at > 0 && assigned_key(line).is_some() {
            cuts.push(at);
        }
        in_comment = ends_in_comment(line, in_comment);
        at += line.len();
    }
    let ends = cuts.iter().skip(1).copied().chain([text.len()]);
    cuts.iter()
        .copied()
        .zip(ends)
        .map(|(start, end)| start..end)
        .filter(|range| !range.is_empty())
        .collect()
}

/// The key of a line like `key = …`.
fn assigned_key(line: &str) -> Option<&str> {
    let (key, rest) = line.split_once('=')?;
    let key = key.trim();
    let word = key.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && key
            .chars()
            .all(|c| c.is_alphanumeric() || c == '_' || c == '-');
    (word && !rest.starts_with('=')).then_some(key)
}

/// Whether a `/*` is still open at the end of `line`.
fn ends_in_comment(line: &str, mut in_comment: bool) -> bool {
    let mut in_string = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('*', Some('/')) if in_comment => {
                chars.next();
                in_comment = false;
            }
            _ if in_comment => {}
            ('\\', _) if in_string => {
                chars.next();
            }
            ('"', _) => in_string = !in_string,
            _ if in_string => {}
            ('#', _) | ('/', Some('/')) => return false,
            ('/', Some('*')) => {
                chars.next();
                in_comment = true;
            }
            _ => {}
        }
    }
    in_comment
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(raw: &Raw) -> Vec<&str> {
        raw.entries.iter().map(|entry| entry.key.as_str()).collect()
    }

    #[test]
    fn spans_are_those_of_the_whole_file_even_when_it_is_read_in_pieces() {
        let text = "# ünïcode\na = \"x\"\nb = [\"1\", 2]\na = 3\n";
        let raw = parse(text);
        assert_eq!(keys(&raw), ["a", "b", "a"]);
        assert!(raw.problems.is_empty());
        let at = |span: &Range<usize>| text.get(span.clone()).unwrap().to_owned();
        assert_eq!(at(&raw.entries[0].value_span), "\"x\"");
        assert_eq!(at(&raw.entries[2].key_span), "a");
        assert_eq!(at(&raw.entries[2].value_span), "3");
        let RawValue::List(items) = &raw.entries[1].value else {
            panic!("a list")
        };
        assert_eq!(at(&items[0].1), "\"1\"");
    }

    #[test]
    fn each_statement_that_is_not_hcl_is_reported_and_the_others_are_read() {
        let text = "a = [\nb = \"open\nc = 1\nrubbish here\nd = 2\n";
        let raw = parse(text);
        let lines: Vec<_> = raw
            .problems
            .iter()
            .map(|p| p.clone().located(text).line().unwrap())
            .collect();
        assert_eq!(keys(&raw), ["c", "d"]);
        assert_eq!(raw.broken, ["a", "b"]);
        assert_eq!(raw.problems.len(), 3, "{:?}", raw.problems);
        assert_eq!(lines[2], 4);
    }

    #[test]
    fn a_comment_is_never_a_statement() {
        let raw = parse("/* a = 1\nb = 2 */\nc = \"/* \"\nd = 1 // /*\nd = 2\n");
        assert_eq!(keys(&raw), ["c", "d", "d"]);
        assert!(raw.problems.is_empty(), "{:?}", raw.problems);
    }
}
