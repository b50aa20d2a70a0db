//! A tolerant look at YAML text that keeps what a parser throws away: the line of each scalar and how it was quoted.
//!
//! It follows block and flow collections, quotes, block scalars and comments. It judges nothing: text that is no YAML
//! is the parser's business, here it only must not panic or loop.

mod scanner;

/// How a scalar is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Without quotes: its meaning depends on its look.
    Plain,
    /// In quotes, or as a block: always a string.
    Quoted,
}

/// One scalar of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scalar {
    /// From 1.
    pub(crate) line: usize,
    /// Path of the field it is the value or the key of, such as `spec.containers[0].image`.
    pub(crate) path: String,
    /// As written, without quotes; escapes are left alone.
    pub(crate) text: String,
    pub(crate) style: Style,
    pub(crate) is_key: bool,
    /// Whether a tag such as `!!str` says what it is.
    pub(crate) tagged: bool,
}

/// A key that its mapping already has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DuplicateKey {
    /// The line of the second one, from 1.
    pub(crate) line: usize,
    /// The line of the first one.
    pub(crate) first_line: usize,
    /// The key's path.
    pub(crate) path: String,
}

/// What a look at a text found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    pub(crate) scalars: Vec<Scalar>,
    pub(crate) duplicates: Vec<DuplicateKey>,
}

impl Scan {
    /// The line on which the field at `path` stands, or else the nearest field around it.
    pub(crate) fn line_of(&self, path: &str) -> Option<usize> {
        let mut path = path;
        loop {
            if let Some(found) = self
                .scalars
                .iter()
                .find(|scalar| is_at_or_in(&scalar.path, path))
            {
                return Some(found.line);
            }
            let cut = path.rfind(['.', '['])?;
            path = path.get(..cut)?;
        }
    }
}

fn is_at_or_in(candidate: &str, path: &str) -> bool {
    candidate
        .strip_prefix(path)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Looks at `text`.
pub(crate) fn scan(text: &str) -> Scan {
    let mut scanner = scanner::Scanner::default();
    for (index, line) in text.lines().enumerate() {
        scanner.line(index + 1, line);
    }
    scanner.finish()
}

#[cfg(test)]
mod tests;
