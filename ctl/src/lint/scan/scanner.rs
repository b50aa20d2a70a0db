//! The state of a scan: the collections that are open and the scalar that goes on over the end of a line.

use std::collections::BTreeMap;

use shared::check::yaml::join_key;

use super::{DuplicateKey, Scalar, Scan, Style};

/// A collection that is open.
#[derive(Debug)]
struct Frame {
    /// Column at which its entries start; flow collections have none.
    column: Option<usize>,
    /// The path of the collection itself.
    path: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Mapping {
        /// Keys seen, with their lines.
        keys: BTreeMap<String, usize>,
        current: String,
    },
    Sequence {
        index: usize,
    },
}

impl Frame {
    /// The path of the entry that is being read.
    fn entry(&self) -> String {
        match &self.kind {
            Kind::Mapping { current, .. } => join_key(&self.path, current),
            Kind::Sequence { index } => format!("{}[{index}]", self.path),
        }
    }
}

/// A scalar that goes on over the end of a line.
#[derive(Debug)]
enum Open {
    /// In quotes, until the closing one.
    Quote { quote: char, scalar: Scalar },
    /// A block scalar or a plain one: every line that is indented further than `column` belongs to it.
    Indented { column: Option<usize> },
}

/// Reads a text line by line.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    frames: Vec<Frame>,
    open: Option<Open>,
    found: Scan,
}

impl Scanner {
    /// What was found in all lines.
    pub(super) fn finish(self) -> Scan {
        self.found
    }

    /// Reads the next line.
    pub(super) fn line(&mut self, number: usize, line: &str) {
        let indent = line.chars().take_while(|c| *c == ' ').count();
        let mut rest: &str = line;
        match self.open.take() {
            Some(Open::Quote { quote, scalar }) => match end_of_quote(line, quote) {
                Some(end) => {
                    // A key can't span lines, so this was a value.
                    self.record(scalar);
                    rest = line.split_at(end).1;
                }
                None => {
                    self.open = Some(Open::Quote { quote, scalar });
                    return;
                }
            },
            Some(Open::Indented { column }) => {
                let belongs = column.is_none_or(|column| indent > column);
                if line.trim().is_empty() || belongs && !self.in_flow() {
                    self.open = Some(Open::Indented { column });
                    return;
                }
            }
            None => {}
        }
        if !self.in_flow() && is_marker(line) {
            self.frames.clear();
            rest = line.strip_prefix("---").unwrap_or_default();
        }
        self.tokens(number, line, rest);
    }

    /// Everything on one line from `rest` on, which is its end.
    fn tokens(&mut self, number: usize, line: &str, mut rest: &str) {
        let mut tagged = false;
        loop {
            rest = rest.trim_start_matches([' ', '\t']);
            let column = line.chars().count().saturating_sub(rest.chars().count());
            let Some(first) = rest.chars().next() else {
                return;
            };
            let mut characters = rest.chars().skip(1);
            let second = characters.next();
            let ends_word = second.is_none_or(char::is_whitespace);
            match first {
                '#' => return,
                '-' if ends_word && !self.in_flow() => {
                    self.block_entry(column);
                    rest = skip(rest, 1);
                }
                '?' | ':' if ends_word => rest = skip(rest, 1),
                ':' if self.in_flow() => rest = skip(rest, 1),
                '{' | '[' => {
                    self.open_flow(first == '{');
                    rest = skip(rest, 1);
                }
                '}' | ']' if self.in_flow() => {
                    self.frames.pop();
                    rest = skip(rest, 1);
                }
                ',' if self.in_flow() => {
                    if let Some(Frame {
                        kind: Kind::Sequence { index },
                        ..
                    }) = self.frames.last_mut()
                    {
                        *index += 1;
                    }
                    rest = skip(rest, 1);
                }
                '!' | '&' | '*' => {
                    tagged |= first == '!';
                    let in_flow = self.in_flow();
                    rest = rest.trim_start_matches(|c: char| {
                        !(c.is_whitespace() || in_flow && ",[]{}".contains(c))
                    });
                    continue;
                }
                '|' | '>' if !self.in_flow() => {
                    self.record(Scalar {
                        tagged,
                        ..self.scalar(number, "", Style::Quoted)
                    });
                    self.open = Some(Open::Indented {
                        column: self.parent_column(),
                    });
                    return;
                }
                '"' | '\'' => {
                    let body = skip(rest, 1);
                    let Some(end) = end_of_quote(body, first) else {
                        let scalar = Scalar {
                            tagged,
                            ..self.scalar(number, body, Style::Quoted)
                        };
                        self.open = Some(Open::Quote {
                            quote: first,
                            scalar,
                        });
                        return;
                    };
                    let (text, after) = body.split_at(end);
                    let text = text.strip_suffix(first).unwrap_or(text);
                    let scalar = Scalar {
                        tagged,
                        ..self.scalar(number, text, Style::Quoted)
                    };
                    rest = self.scalar_or_key(scalar, column, after);
                }
                _ => {
                    let end = self.end_of_plain(rest);
                    let (text, after) = rest.split_at(end);
                    let scalar = Scalar {
                        tagged,
                        ..self.scalar(number, text.trim_end(), Style::Plain)
                    };
                    let is_last =
                        after.trim_start().is_empty() || after.trim_start().starts_with('#');
                    rest = self.scalar_or_key(scalar, column, after);
                    if is_last && !self.in_flow() {
                        self.open = Some(Open::Indented {
                            column: self.parent_column(),
                        });
                    }
                }
            }
            tagged = false;
        }
    }

    fn in_flow(&self) -> bool {
        self.frames
            .last()
            .is_some_and(|frame| frame.column.is_none())
    }

    fn parent_column(&self) -> Option<usize> {
        self.frames.iter().rev().find_map(|frame| frame.column)
    }

    fn path(&self) -> String {
        self.frames.last().map(Frame::entry).unwrap_or_default()
    }

    fn scalar(&self, line: usize, text: &str, style: Style) -> Scalar {
        Scalar {
            line,
            path: self.path(),
            text: text.to_owned(),
            style,
            is_key: false,
            tagged: false,
        }
    }

    fn record(&mut self, scalar: Scalar) {
        self.found.scalars.push(scalar);
    }

    /// Where a plain scalar ends: at `: `, ` #`, the end of the line, and in flow also at a bracket or comma.
    fn end_of_plain(&self, rest: &str) -> usize {
        let in_flow = self.in_flow();
        let mut before = ' ';
        let mut characters = rest.char_indices().peekable();
        while let Some((at, c)) = characters.next() {
            let next = characters.peek().map(|(_, next)| *next);
            let ends_word =
                next.is_none_or(|next| next.is_whitespace() || in_flow && ",[]{}".contains(next));
            let ends = c == ':' && ends_word
                || c == '#' && before.is_whitespace() && at > 0
                || in_flow && ",[]{}".contains(c);
            if ends {
                // At least one character, so that the caller always gets on.
                return at.max(rest.chars().next().map_or(0, char::len_utf8));
            }
            before = c;
        }
        rest.len()
    }

    /// Records a scalar as what it is; `after` is what follows on its line. Gives what is left to read.
    fn scalar_or_key<'t>(&mut self, scalar: Scalar, column: usize, after: &'t str) -> &'t str {
        let trimmed = after.trim_start_matches([' ', '\t']);
        let is_key = trimmed.strip_prefix(':').is_some_and(|rest| {
            let next = rest.chars().next();
            next.is_none_or(|c| {
                c.is_whitespace()
                    || self.in_flow() && (",[]{}".contains(c) || scalar.style == Style::Quoted)
            })
        });
        if !is_key {
            self.record(scalar);
            return after;
        }
        self.key(scalar, column);
        skip(trimmed, 1)
    }

    fn key(&mut self, scalar: Scalar, column: usize) {
        if !self.in_flow() {
            self.close_deeper_than(column);
            // A sequence may stand at the column of the key that holds it; the next key there ends it.
            while matches!(self.frames.last(), Some(Frame { column: Some(at), kind: Kind::Sequence { .. }, .. }) if *at == column)
            {
                self.frames.pop();
            }
            let is_open = matches!(self.frames.last(), Some(Frame { column: Some(at), kind: Kind::Mapping { .. }, .. }) if *at == column);
            if !is_open {
                self.push(Some(column), true);
            }
        }
        let Some(frame) = self.frames.last_mut() else {
            return;
        };
        let Kind::Mapping { keys, current } = &mut frame.kind else {
            // `[a: b]`: a mapping of one pair inside a flow sequence.
            self.record(Scalar {
                is_key: true,
                ..scalar
            });
            return;
        };
        current.clone_from(&scalar.text);
        let first_line = keys.get(&scalar.text).copied();
        keys.entry(scalar.text.clone()).or_insert(scalar.line);
        let path = frame.entry();
        if let Some(first_line) = first_line {
            self.found.duplicates.push(DuplicateKey {
                line: scalar.line,
                first_line,
                path: path.clone(),
            });
        }
        self.record(Scalar {
            path,
            is_key: true,
            ..scalar
        });
    }

    fn block_entry(&mut self, column: usize) {
        self.close_deeper_than(column);
        match self.frames.last_mut() {
            Some(Frame {
                column: Some(at),
                kind: Kind::Sequence { index },
                ..
            }) if *at == column => *index += 1,
            _ => self.push(Some(column), false),
        }
    }

    fn open_flow(&mut self, is_mapping: bool) {
        self.push(None, is_mapping);
    }

    fn push(&mut self, column: Option<usize>, is_mapping: bool) {
        let kind = if is_mapping {
            Kind::Mapping {
                keys: BTreeMap::new(),
                current: String::new(),
            }
        } else {
            Kind::Sequence { index: 0 }
        };
        self.frames.push(Frame {
            column,
            path: self.path(),
            kind,
        });
    }

    fn close_deeper_than(&mut self, column: usize) {
        while self
            .frames
            .last()
            .is_some_and(|frame| frame.column.is_none_or(|at| at > column))
        {
            self.frames.pop();
        }
    }
}

/// Whether a line starts or ends a document, or is a directive.
fn is_marker(line: &str) -> bool {
    let marks = |mark| {
        line.strip_prefix(mark)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
    };
    marks("---") || marks("...") || line.starts_with('%')
}

/// The byte after the closing quote.
fn end_of_quote(body: &str, quote: char) -> Option<usize> {
    let mut characters = body.char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        if quote == '"' && c == '\\' {
            characters.next();
        } else if c == quote {
            let doubled = quote == '\'' && characters.peek().is_some_and(|(_, next)| *next == '\'');
            if !doubled {
                return Some(at + quote.len_utf8());
            }
            characters.next();
        }
    }
    None
}

fn skip(text: &str, characters: usize) -> &str {
    let mut rest = text.chars();
    for _ in 0..characters {
        rest.next();
    }
    rest.as_str()
}
