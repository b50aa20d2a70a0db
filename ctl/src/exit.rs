//! Exit codes, and which failure has which.

use std::process::ExitCode;

use crate::env::EnvError;

/// How a verb ended, when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Done, or nothing to do: 0.
    Done,
    /// What was compared differs: 3.
    Differs,
}

/// A mistake in what the operator gave: exit code 2. Its text says what to mend.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Mistake(pub String);

/// A mistake of the operator's, as an [`anyhow::Error`].
#[must_use]
pub fn mistake(text: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Mistake(text.into()))
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done => Self::SUCCESS,
            Outcome::Differs => Self::from(3),
        }
    }
}

/// The exit code of a failure: 2 for what the operator gave, 1 for everything else.
#[must_use]
pub fn code_of(error: &anyhow::Error) -> ExitCode {
    let usage = error.chain().any(|cause| {
        cause.is::<Mistake>()
            || cause.is::<EnvError>()
            || cause.is::<crate::render::TemplatesError>()
            || cause.is::<crate::render::SecretsError>()
            || cause.is::<crate::render::RenderErrors>()
            || cause.is::<crate::userdata::UserDataError>()
            || cause.is::<crate::userdata::AgentBinaryError>()
            || matches!(
                cause.downcast_ref(),
                Some(crate::history::ReleaseError::NoSuch { .. })
            )
    });
    ExitCode::from(if usage { 2 } else { 1 })
}
