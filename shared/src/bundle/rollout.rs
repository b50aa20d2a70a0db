//! How a release wants to be rolled out (§3.7): signed with it, and good for its own rollout only.

mod share;
mod time_span;
mod timing;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::IndexProblem;
use crate::limits;
use crate::names::EntryPath;

pub use share::{InvalidMaxUnavailable, MaxUnavailable};
pub use time_span::{InvalidTimeSpan, TimeSpan};
pub use timing::MachineTimes;

/// Why the probes of a release only warn: somebody decided so at its publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiver {
    /// Why.
    pub reason: String,
    /// Who, as far as the publishing machine knows.
    pub by: String,
}

/// How a release is rolled out. A release without one is adopted by every node at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutPolicy {
    /// How many nodes may be in transition or unavailable at once.
    pub max_unavailable: MaxUnavailable,
    /// How long one node may take: it writes nothing forward after half of it, and is committed or reverted by the end.
    /// Longer than the grace period of the pods, the pull of their images and their start.
    pub deadline: TimeSpan,
    /// How long every probe must have kept succeeding before the release counts as healthy.
    pub settle: TimeSpan,
    /// What must be so for a node to be healthy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,
    /// Set where the probes are only to warn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiver: Option<Waiver>,
}

/// One thing that must be so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Its name, unlike that of any other: `a-z`, digits and `-`.
    pub name: String,
    /// What is asked.
    pub check: ProbeCheck,
    /// From one try to the next.
    pub period: TimeSpan,
    /// How long one try may take.
    pub timeout: TimeSpan,
    /// Successes in a row that make it healthy.
    pub success_threshold: u32,
    /// Failures in a row, once the release is applied, that make it bad: more than its pods take to be replaced.
    pub failure_threshold: u32,
}

/// What a probe asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum ProbeCheck {
    /// `GET` of an `http://` or `https://` URL gives a status of 200 to 299.
    Http {
        /// The URL.
        url: String,
        /// The place, in the release, of the CA certificates that the server's is verified with; only for https.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ca: Option<EntryPath>,
        /// The place of a client certificate.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        certificate: Option<EntryPath>,
        /// The place of its key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<EntryPath>,
    },
    /// A connection is accepted.
    Tcp {
        /// `host:port`, the host an IP address.
        address: String,
    },
    /// A file is there.
    File {
        /// Its absolute path on the node.
        path: String,
    },
    /// The kubelet's own health endpoint answers `ok`.
    Kubelet {
        /// Its port on 127.0.0.1.
        port: u16,
    },
}

// === impl RolloutPolicy ===

impl RolloutPolicy {
    /// Everything that is wrong with it: the field, and the rule it breaks. `is_file` says whether the release has a file.
    #[must_use]
    pub fn problems(&self, is_file: impl Fn(&EntryPath) -> bool) -> Vec<(String, String)> {
        let mut all = Vec::new();
        let mut say = |field: String, what: &str| all.push((field, what.to_owned()));
        let deadline = self.deadline.get();
        if deadline < Duration::from_secs(1) || deadline > Duration::from_secs(24 * 3600) {
            say("deadline".to_owned(), "must be from 1s to 24h");
        }
        // A quarter of the deadline is left between half of it and the time when a node gives up.
        if self.settle.get() > deadline / 4 {
            say("settle".to_owned(), "must be at most a quarter of deadline");
        }
        if self.probes.len() > limits::PROBES {
            say("probes".to_owned(), "are more than the 16 allowed");
        }
        let mut names = BTreeSet::new();
        for (at, probe) in self.probes.iter().enumerate() {
            let field = |name: &str| format!("probes[{at}].{name}");
            let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            let name = &probe.name;
            if name.is_empty() || name.len() > 40 || !name.bytes().all(ok) {
                say(field("name"), "must be 1 to 40 of a-z, 0-9 and -");
            }
            if !names.insert(name) {
                say(field("name"), "is that of another probe too");
            }
            let (timeout, period) = (probe.timeout.get(), probe.period.get());
            if timeout.is_zero() || timeout > deadline / 8 {
                say(field("timeout"), "must be at most an eighth of deadline");
            }
            if period < Duration::from_millis(10) || period > deadline / 8 {
                let what = "must be from 10ms to an eighth of deadline";
                say(field("period"), what);
            }
            for (threshold, value) in [
                ("success_threshold", probe.success_threshold),
                ("failure_threshold", probe.failure_threshold),
            ] {
                if !(1..=100).contains(&value) {
                    say(field(threshold), "must be from 1 to 100");
                }
            }
            for (name, what) in probe.check.problems(&is_file) {
                say(field(&format!("{}.{name}", probe.check.kind())), &what);
            }
        }
        if let Some(waiver) = &self.waiver
            && waiver.reason.trim().is_empty()
        {
            say("waiver.reason".to_owned(), "must say why");
        }
        all
    }
}

impl RolloutPolicy {
    /// The policy with a share of nodes as the number that it is of `members`, at most `most`: where every node must come to
    /// the same number, none may work it out from what it last counted.
    #[must_use]
    pub fn with_share_of(mut self, most: u32, members: u32) -> Self {
        if let share @ MaxUnavailable::Percent(_) = self.max_unavailable {
            self.max_unavailable = MaxUnavailable::Nodes(share.of(members).min(most.max(1)));
        }
        self
    }
}

// === impl ProbeCheck ===

impl ProbeCheck {
    /// Its kind, as the policy spells it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Tcp { .. } => "tcp",
            Self::File { .. } => "file",
            Self::Kubelet { .. } => "kubelet",
        }
    }

    fn problems(&self, is_file: impl Fn(&EntryPath) -> bool) -> Vec<(&'static str, String)> {
        let mut all = Vec::new();
        match self {
            Self::Http {
                url,
                ca,
                certificate,
                key,
            } => {
                let parsed = url::Url::parse(url).ok();
                let scheme = parsed.as_ref().map(url::Url::scheme);
                let ip = parsed.as_ref().and_then(url::Url::host);
                if !matches!(scheme, Some("http" | "https"))
                    || !matches!(ip, Some(url::Host::Ipv4(_) | url::Host::Ipv6(_)))
                {
                    let what = "must be an http:// or https:// URL whose host is an IP address";
                    all.push(("url", what.to_owned()));
                }
                if scheme == Some("https") && ca.is_none() {
                    all.push((
                        "ca",
                        "is missing: an https probe verifies the server".to_owned(),
                    ));
                }
                let plain = scheme == Some("http");
                if plain && (ca.is_some() || certificate.is_some() || key.is_some()) {
                    let what = "ca, certificate and key belong to an https URL";
                    all.push(("url", what.to_owned()));
                }
                if certificate.is_some() != key.is_some() {
                    all.push(("key", "goes with certificate".to_owned()));
                }
                let places = [("ca", ca), ("certificate", certificate), ("key", key)];
                for (field, place) in places {
                    if let Some(place) = place.as_ref().filter(|place| !is_file(place)) {
                        all.push((field, format!("{place} is no file of the release")));
                    }
                }
            }
            Self::Tcp { address } => {
                if address.parse::<std::net::SocketAddr>().is_err() {
                    all.push(("address", "must be IP:PORT".to_owned()));
                }
            }
            Self::File { path } => {
                if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
                    all.push(("path", "must be an absolute path without ..".to_owned()));
                }
            }
            Self::Kubelet { port } => {
                if *port == 0 {
                    all.push(("port", "must not be 0".to_owned()));
                }
            }
        }
        all
    }
}

/// What is wrong with the policy of an index.
pub(super) fn problems(
    policy: Option<&RolloutPolicy>,
    is_file: impl Fn(&EntryPath) -> bool,
) -> Vec<IndexProblem> {
    let found = policy.map(|policy| policy.problems(is_file));
    let problem = |(field, what)| IndexProblem::Rollout { field, what };
    found.unwrap_or_default().into_iter().map(problem).collect()
}

#[cfg(test)]
mod tests;
