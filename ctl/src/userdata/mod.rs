//! User data: the cloud-config that each machine of a group boots with.
//!
//! `template` renders `cloudinit/user-data.j2` (embedded, or a working directory's own) with the files of `agent/dist`;
//! `cloud_config` is a strict model of what coreos-cloudinit honours, and every result is held against it; `agent_binary` is the
//! agent that user data names by digest; `roots` finds the one root that it carries.
//!
//! What is rendered changes only with the environment's facts, the agent's digest and the group's *first* root. A rotation
//! of the signing keys leaves it as it is: a node walks from the first root to the newest by itself.

mod agent_binary;
pub mod cloud_config;
mod elf;
mod embedded;
mod roots;
mod template;

use std::io::Write as _;
use std::path::PathBuf;

use flate2::Compression;
use flate2::write::GzEncoder;
use shared::digest::Sha256Digest;
use shared::names::GroupName;

use crate::env::{Environment, SECURE};

pub use agent_binary::{AgentBinary, AgentBinaryError, MAX_AGENT_BYTES};
pub use elf::ElfProblem;
pub use embedded::{DIST, EMBEDDED, PROGRAMS, TEMPLATE, compact, template_for_working_dir};
pub use roots::first_roots;

/// EC2's limit of user data as it is sent: compressed ([`sent_bytes`]), before base64.
pub const MAX_BYTES: usize = 16_384;
/// The most that it may be before it is compressed: more is read by nobody.
pub const MAX_PLAIN_BYTES: usize = 65_536;
/// How many parts a user data that is too large is explained by.
const PARTS_SHOWN: usize = 5;

/// All that a group's user data depends on.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The environment, one on AWS.
    pub environment: &'a Environment,
    /// The group. That of [`SECURE`] is the control plane's; any other is one of workers.
    pub group: &'a GroupName,
    /// The group's first TUF root, as the text that was signed.
    pub trusted_root: &'a str,
    /// The digest of the agent that a machine installs at its first boot.
    pub agent: Sha256Digest,
    /// The template's text.
    pub template: &'a str,
}

/// Why there is no user data.
#[derive(Debug, thiserror::Error)]
pub enum UserDataError {
    /// The template cannot be read.
    #[error("the template {path} cannot be read")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The environment has no machines.
    #[error("environment {0} is not on AWS: it has no machines, and so no user data")]
    NoMachines(String),
    /// The template has mistakes.
    #[error("{} problem(s) in {TEMPLATE}:\n  {}", .0.len(), .0.join("\n  "))]
    Template(Vec<String>),
    /// What was rendered is not what coreos-cloudinit takes.
    #[error(
        "{} problem(s) in the user data of group {group}:\n  {}", .problems.len(), .problems.join("\n  ")
    )]
    CloudConfig {
        /// The group.
        group: GroupName,
        /// Each problem.
        problems: Vec<String>,
    },
    /// EC2 would not take it.
    #[error(
        "the user data of group {group} has {bytes} bytes, {sent} compressed; fewer than {MAX_PLAIN_BYTES} are allowed, and \
         EC2 takes fewer than {MAX_BYTES} compressed; the largest parts are {parts}. Make {TEMPLATE} smaller: what a node \
         needs later can be a host file or an artifact of a release"
    )]
    TooLarge {
        /// The group.
        group: GroupName,
        /// Its size.
        bytes: usize,
        /// Its size as it is sent.
        sent: usize,
        /// The largest parts with their sizes.
        parts: String,
    },
}

/// Renders a group's user data.
///
/// # Errors
/// [`UserDataError`], with every mistake of one kind at once.
pub fn user_data(input: &Input<'_>) -> Result<String, UserDataError> {
    if !input.environment.on_aws() {
        let name = input.environment.name.to_string();
        return Err(UserDataError::NoMachines(name));
    }
    let text = template::render(input).map_err(UserDataError::Template)?;
    let group = input.group.clone();
    let config = cloud_config::parse(&text).map_err(|problems| UserDataError::CloudConfig {
        group: group.clone(),
        problems,
    })?;
    let sent = sent_bytes(&text);
    if text.len() >= MAX_PLAIN_BYTES || sent >= MAX_BYTES {
        let largest: Vec<String> = config
            .parts()
            .into_iter()
            .take(PARTS_SHOWN)
            .map(|(name, bytes)| format!("{name} ({bytes})"))
            .collect();
        return Err(UserDataError::TooLarge {
            group,
            bytes: text.len(),
            sent,
            parts: largest.join(", "),
        });
    }
    Ok(text)
}

/// How many bytes of a text go to EC2: Terraform compresses it, which coreos-cloudinit undoes. Another implementation of gzip
/// comes to a few bytes more or less; the exact ones are held against the limit by a condition in `terraform/variables.tf`.
#[must_use]
pub fn sent_bytes(text: &str) -> usize {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory does not fail; a text that could not be compressed counts as it is.
    let written = encoder.write_all(text.as_bytes());
    match written.and_then(|()| encoder.finish()) {
        Ok(compressed) => compressed.len(),
        Err(_) => text.len(),
    }
}

/// The regional endpoints that a machine asks before it has an agent: S3's with the bucket, and STS's.
///
/// A bucket with a dot in its name is addressed by path: the certificate of S3 covers one label only.
fn endpoints(environment: &Environment) -> (String, String) {
    let region = environment.region.as_str();
    let bucket = environment.secrets_bucket.as_str();
    if let Some(url) = &environment.endpoint_url {
        let base = url.as_str().trim_end_matches('/');
        return (format!("{base}/{bucket}"), base.to_owned());
    }
    let domain = if region.starts_with("cn-") {
        "amazonaws.com.cn"
    } else {
        "amazonaws.com"
    };
    let s3 = if bucket.contains('.') {
        format!("https://s3.{region}.{domain}/{bucket}")
    } else {
        format!("https://{bucket}.s3.{region}.{domain}")
    };
    (s3, format!("https://sts.{region}.{domain}"))
}

/// Whether a group is the one of etcd and the control plane.
fn is_control_plane(group: &GroupName) -> bool {
    group.as_str() == SECURE
}

#[cfg(test)]
mod tests;
