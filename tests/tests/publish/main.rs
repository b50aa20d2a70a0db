//! Publishing, end to end over the S3 protocol: what lands in the bucket, who wins, and what is refused.

mod cli;
mod content;
mod expiry;
mod fault_matrix;
mod faults;
mod keys;
mod races;

use ctl::publish::Publication;
use shared::names::ReleaseNumber;

/// The number of a new release; anything else that publishing did fails the test.
fn released(publication: Option<&Publication>) -> u64 {
    match publication {
        Some(Publication::Released { release, .. }) => release.get(),
        other => panic!("a new release was expected, not {other:?}"),
    }
}

fn unchanged(publication: Option<&Publication>) -> bool {
    matches!(publication, Some(Publication::Unchanged { .. }))
}

fn number(n: u64) -> ReleaseNumber {
    ReleaseNumber::new(n).unwrap()
}

/// A failure with all its causes, as platformctl prints it.
fn told(error: &anyhow::Error) -> String {
    format!("{error:#}")
}
