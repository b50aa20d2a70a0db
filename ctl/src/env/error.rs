//! What can be wrong with an environment, and how it is shown.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource};

/// Why an environment can't be used.
///
/// Print it with miette to show each mistake at its place in the file; [`EnvError::problems`] gives the same to code.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum EnvError {
    /// The file or its directory can't be read.
    #[error("can't read {}", path.display())]
    #[diagnostic(code(env::read))]
    Read {
        /// What was read.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },

    /// The directory has no environment of that name.
    #[error("there is no environment `{name}` in {}", dir.display())]
    #[diagnostic(code(env::not_found))]
    NotFound {
        /// The name that was asked for.
        name: String,
        /// Where it was looked for.
        dir: PathBuf,
        /// The environments that are there, sorted.
        known: Vec<String>,
        /// Which of them was probably meant, and what else helps.
        #[help]
        help: String,
    },

    /// The file has mistakes; all of them are here.
    #[error("{} {} in {}", problems.len(), if problems.len() == 1 { "mistake" } else { "mistakes" }, path.display())]
    #[diagnostic(code(env::invalid))]
    Invalid {
        /// The environment file.
        path: PathBuf,
        /// Its text, for the excerpts.
        #[source_code]
        text: Arc<NamedSource<String>>,
        /// Every mistake: by place in the file, what is missing last.
        #[related]
        problems: Vec<Problem>,
    },
}

impl EnvError {
    /// Every mistake in the file; empty when the file could not be read at all.
    pub fn problems(&self) -> &[Problem] {
        match self {
            EnvError::Invalid { problems, .. } => problems,
            EnvError::Read { .. } | EnvError::NotFound { .. } => &[],
        }
    }
}

/// One mistake in an environment file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Diagnostic)]
#[error("{message}")]
pub struct Problem {
    message: String,
    #[help]
    help: Option<String>,
    #[label(collection)]
    labels: Vec<LabeledSpan>,
    line: Option<usize>,
}

impl Problem {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: None,
            labels: Vec::new(),
            line: None,
        }
    }

    /// Marks `span`; the first mark is the place of the mistake. No span (a value that is a default): no mark.
    pub(crate) fn at(mut self, span: Option<&Range<usize>>, label: &str) -> Self {
        if let Some(span) = span {
            let label = Some(label.to_owned());
            self.labels.push(if self.labels.is_empty() {
                LabeledSpan::new_primary_with_span(label, span.clone())
            } else {
                LabeledSpan::new_with_span(label, span.clone())
            });
        }
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help;
        self
    }

    /// Computes the line from the mark, and pulls marks that a parser set past the end into the text.
    pub(crate) fn located(mut self, text: &str) -> Self {
        for label in &mut self.labels {
            let start = floor_char(text, label.offset());
            let end = floor_char(text, label.offset().saturating_add(label.len())).max(start);
            let named = label.label().map(str::to_owned);
            *label = if label.primary() {
                LabeledSpan::new_primary_with_span(named, start..end)
            } else {
                LabeledSpan::new_with_span(named, start..end)
            };
        }
        self.line = self.offset().and_then(|offset| {
            let before = text.get(..offset)?;
            Some(before.matches('\n').count() + 1)
        });
        self
    }

    pub(crate) fn offset(&self) -> Option<usize> {
        self.labels.first().map(LabeledSpan::offset)
    }

    /// What is wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it, where there is advice.
    pub fn advice(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// The line in the file, from 1; none for a key that is missing.
    pub fn line(&self) -> Option<usize> {
        self.line
    }
}

/// The largest character boundary of `text` that is not beyond `offset`.
fn floor_char(text: &str, offset: usize) -> usize {
    let mut at = offset.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The entry of `known` that `typed` was probably meant to be.
pub(crate) fn closest<'a>(
    typed: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Below this similarity (0 to 1) a suggestion is more often wrong than right, unless few letters differ: short
    // words score low for a single slip.
    const LIKELY: f64 = 0.85;
    let few = |candidate: &str| {
        let slips = strsim::damerau_levenshtein(typed, candidate);
        slips <= candidate.chars().count() / 3
    };
    known
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(typed, candidate), candidate))
        .filter(|(likeness, candidate)| *likeness >= LIKELY || few(candidate))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
