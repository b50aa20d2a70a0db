//! platformctl: the operator's command.

use std::process::ExitCode;

use clap::Parser as _;
use ctl::cmd::Cli;
use ctl::{exit, output};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap prints help to standard output and mistakes to standard error, and says 0 or 2.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let level = if cli.is_verbose() { "info" } else { "warn" };
    let quiet = "s3s=off,s3s_fs=off";
    let mut filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("{level},{quiet}")));
    // At trace level these print whole requests, and those of KMS hold what is about to be encrypted.
    let capped = [
        "aws_smithy_runtime",
        "aws_smithy_http_client",
        "aws_runtime",
        "hyper",
        "hyper_util",
    ];
    for whole_requests in capped
        .iter()
        .filter_map(|name| format!("{name}=info").parse().ok())
    {
        filter = filter.add_directive(whole_requests);
    }
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            output::note(format!("error: cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(cli.run());
    runtime.shutdown_background();
    match ended {
        Ok(outcome) => outcome.into(),
        Err(error) => {
            output::failure(&error);
            exit::code_of(&error)
        }
    }
}
