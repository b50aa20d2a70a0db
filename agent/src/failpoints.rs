//! Stops this process at a named step, for tests that need to see what a crash there leaves behind.

use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{Signal, raise};

/// The variable that names the step: `NAME`, or `NAME:N` for the Nth time it is reached (counted from 1).
pub const VARIABLE: &str = "PLATFORM_AGENT_KILL_AT";

/// With this variable set, what earlier releases left does not wait for its pods to end before it is removed.
pub const CLEAN_AT_ONCE_VARIABLE: &str = "PLATFORM_AGENT_CLEAN_AT_ONCE";

/// Reads a step and how many times it is to be reached.
///
/// # Errors
/// What the text should be.
pub fn parse(text: &str) -> Result<(String, u64), String> {
    let wrong = || format!("{VARIABLE} must be NAME or NAME:N, not {text:?}");
    // Step names may have colons themselves.
    let (name, nth) = match text.rsplit_once(':') {
        Some((name, n)) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => {
            (name, n.parse().map_err(|_| wrong())?)
        }
        _ => (text, 1),
    };
    if name.is_empty() || nth == 0 {
        return Err(wrong());
    }
    Ok((name.to_owned(), nth))
}

/// Arms the step that the environment names, if it names one: reaching it raises SIGKILL in this process.
///
/// # Errors
/// What is wrong with the variable.
pub fn arm_from_environment() -> Result<(), String> {
    if std::env::var_os(CLEAN_AT_ONCE_VARIABLE).is_some() {
        fail::cfg("disk::leftovers-stay", "return")?;
    }
    let Ok(text) = std::env::var(VARIABLE) else {
        return Ok(());
    };
    let (name, nth) = parse(&text)?;
    let reached = AtomicU64::new(0);
    fail::cfg_callback(name, move || {
        if reached.fetch_add(1, Ordering::Relaxed) + 1 == nth {
            // Nothing is left to do where even this fails: the test will see a process that lives.
            let _ = raise(Signal::SIGKILL);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_counts() {
        assert_eq!(parse("a").unwrap(), ("a".into(), 1));
        assert_eq!(parse("disk::rename:3").unwrap(), ("disk::rename".into(), 3));
        assert_eq!(parse("disk::rename").unwrap(), ("disk::rename".into(), 1));
        for bad in ["", ":3", "a:0"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
