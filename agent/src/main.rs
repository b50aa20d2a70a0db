//! The binary: command line, logging, runtime, exit code.

use std::io::Write as _;
use std::process::ExitCode;

use agent::cli::{Cli, start_logging};
use agent::commands::{carry_out, exit_of};
use agent::trouble::chain;
use clap::Parser as _;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(cli.log_format);
    let exit = match prepare().and_then(|runtime| runtime.block_on(carry_out(cli.command))) {
        Ok(exit) => exit,
        Err(error) => {
            // The chain of causes, once; standard error is where a person and journald both look.
            let _ = writeln!(
                std::io::stderr(),
                "platform-agent: {}",
                chain(error.as_ref())
            );
            exit_of(&error)
        }
    };
    ExitCode::from(exit.code())
}

fn prepare() -> anyhow::Result<tokio::runtime::Runtime> {
    #[cfg(feature = "failpoints")]
    agent::failpoints::arm_from_environment().map_err(anyhow::Error::msg)?;
    // One thread: the agent waits for nearly all of its life, and small is what it is meant to be.
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}
