//! `platformctl completions`.

use std::io::stdout;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::exit::Outcome;

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// For which shell.
    shell: Shell,
}

impl CompletionsArgs {
    pub(super) fn run(self) -> Outcome {
        let mut command = super::Cli::command();
        clap_complete::generate(self.shell, &mut command, "platformctl", &mut stdout());
        Outcome::Done
    }
}
