//! Environments: one `environments/NAME.tfvars` each.
//!
//! A file is read in three stages: `raw` (HCL text to keys, values and places), `merged` (the key table's kinds and
//! defaults), `validated` (an [`Environment`] of domain types). Each stage goes on after a mistake, so that one run
//! shows all of them, with file and line.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use miette::NamedSource;

mod checks;
mod cidr;
mod error;
mod keys;
mod merged;
mod raw;
mod template;
mod validated;
mod values;

#[cfg(test)]
mod tests;

pub use cidr::{Cidr, CidrError};
pub use error::{EnvError, Problem};
pub use keys::*;
pub use validated::{
    AccessLists, COMPUTE, Environment, GroupSize, KeyWrap, Networks, SECURE, Versions,
};
pub use values::{
    Account, BucketName, DnsName, EtcdVersion, InstanceType, KmsKeyId, KubernetesVersion,
    MachineImage, Name, Profile, RecoveryRecipient, Refused, Region, Zone,
};

/// How the file of an environment ends.
const EXTENSION: &str = "tfvars";
/// A file above this is not an environment, and an excerpt of it helps nobody.
const MAX_BYTES: u64 = 1024 * 1024;

/// Reads the environment in `path`.
///
/// # Errors
///
/// [`EnvError::Read`] when the file can't be read, is above 1 MiB or is not UTF-8; [`EnvError::Invalid`] with every
/// mistake in it otherwise.
pub fn load(path: &Path) -> Result<Environment, EnvError> {
    let read = || {
        let mut text = String::new();
        std::fs::File::open(path)?
            .take(MAX_BYTES + 1)
            .read_to_string(&mut text)?;
        let size = u64::try_from(text.len()).unwrap_or(u64::MAX);
        if size > MAX_BYTES {
            Err(std::io::Error::other("more than 1 MiB"))
        } else {
            Ok(text)
        }
    };
    let text = read().map_err(|source| EnvError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text, path)
}

/// Validates the text of an environment as if it were read from `path`, whose stem must be the environment's name.
///
/// # Errors
///
/// [`EnvError::Invalid`] with every mistake.
pub fn parse(text: &str, path: &Path) -> Result<Environment, EnvError> {
    let text = redact(text);
    let stem = path
        .file_stem()
        .map(|stem| stem.to_string_lossy())
        .unwrap_or_default();
    let (merged, problems) = merged::merge(raw::parse(&text), &text);
    checks::validate(&merged, &stem, problems).map_err(|problems| {
        let mut problems: Vec<_> = problems
            .into_iter()
            .map(|problem| problem.located(&text))
            .collect();
        problems.sort_by_key(|problem| problem.offset().unwrap_or(usize::MAX));
        let text = Arc::new(NamedSource::new(path.display().to_string(), text));
        EnvError::Invalid {
            path: path.to_owned(),
            text,
            problems,
        }
    })
}

/// The file of the environment `name` in the directory `dir`.
///
/// # Errors
///
/// [`EnvError::NotFound`] with the environments that are there and the one that was probably meant; [`EnvError::Read`]
/// when the directory can't be listed.
pub fn find(dir: &Path, name: &str) -> Result<PathBuf, EnvError> {
    let path = dir.join(format!("{name}.{EXTENSION}"));
    // Only a valid name is joined to a path that is then opened: `-e ../x` finds nothing.
    if name.parse::<Name>().is_ok() && path.is_file() {
        return Ok(path);
    }
    let known = names(dir)?;
    let suggestion = error::closest(name, known.iter().map(String::as_str))
        .map(|near| format!("did you mean `{near}`? "));
    let list = match known.as_slice() {
        [] => "there is none yet".to_owned(),
        names => format!("there are: {}", names.join(", ")),
    };
    let help = format!(
        "{}{list}; a new one is a copy of env.tfvars.sample",
        suggestion.unwrap_or_default()
    );
    Err(EnvError::NotFound {
        name: name.to_owned(),
        dir: dir.to_owned(),
        known,
        help,
    })
}

/// The names of the environments in `dir`, sorted.
///
/// # Errors
///
/// [`EnvError::Read`] when the directory can't be listed.
pub fn names(dir: &Path) -> Result<Vec<String>, EnvError> {
    let unreadable = |source| EnvError::Read {
        path: dir.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if path
            .extension()
            .is_some_and(|extension| extension == EXTENSION)
            && let Some(stem) = stem.filter(|stem| stem.parse::<Name>().is_ok())
        {
            names.push(stem.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Blanks out age secret keys, byte for byte so that places stay right: an excerpt in an error must never show one
/// that somebody put where its recipient belongs.
fn redact(text: &str) -> String {
    const MARK: &str = "AGE-SECRET-KEY-";
    let mut rest = text;
    let mut redacted = String::with_capacity(text.len());
    while let Some((before, after)) = rest.split_once(MARK) {
        let secret = after.bytes().take_while(u8::is_ascii_alphanumeric).count();
        redacted.push_str(before);
        redacted.push_str(MARK);
        redacted.extend(std::iter::repeat_n('*', secret));
        rest = after.get(secret..).unwrap_or_default();
    }
    redacted.push_str(rest);
    redacted
}
