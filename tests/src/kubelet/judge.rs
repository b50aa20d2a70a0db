//! The verdict: what in a history no correct writer can have caused. Pure; it sees no disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use super::observation::{
    Cause, Digest, FileState, Finding, Observation, Problem, RunningPod, SecretSet,
};
use super::source::FileSource;

/// The manifests of one release and the secrets each of its pods must see.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Release {
    files: BTreeMap<String, (Digest, SecretSet)>,
}

/// What a history may contain: a node between release N and N+1 holds, file by file, one or the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    /// File name → content → the secret sets a pod of that content may see.
    pub files: BTreeMap<String, BTreeMap<Digest, BTreeSet<SecretSet>>>,
    /// Files that must never be absent once they were seen.
    pub required: BTreeSet<String>,
}

/// One thing a correct writer can't have caused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Since the model started.
    pub at: Duration,
    /// What made the model look.
    pub cause: Cause,
    /// What is wrong.
    pub breach: Breach,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Breach {
    /// A file that kubelet can't run: torn, empty, invalid, unreadable, or no regular file.
    Unusable {
        /// The file's name.
        file: String,
        /// What is wrong with it.
        problem: Problem,
    },
    /// A visible name of neither release.
    StrayFile {
        /// The file's name.
        file: String,
    },
    /// A good pod, but of neither release: half of one can be another valid pod.
    UnknownContent {
        /// The file's name.
        file: String,
        /// Of what it held.
        digest: Digest,
    },
    /// Two files with one pod: which of them runs depends on how kubelet looked.
    DuplicatePod {
        /// `namespace/name`.
        pod: String,
        /// Both files' names.
        files: [String; 2],
    },
    /// A file of both releases was seen and then was absent, or was taken away for a moment.
    MissingFile {
        /// The file's name.
        file: String,
    },
    /// Kubelet was handed no pod at all after it had some: it ends every static pod.
    EmptySet,
    /// The manifest directory itself was exchanged, which kubelet's watch doesn't follow.
    DirectorySwapped,
    /// A pod found none of the secrets it names.
    SecretsMissing {
        /// `namespace/name`.
        pod: String,
    },
    /// A pod found some of its release's secrets, and not all.
    SecretsHalfFilled {
        /// `namespace/name`.
        pod: String,
        /// The paths it lacks.
        missing: Vec<String>,
    },
    /// A pod found secrets of another release than its own, or of several.
    SecretsMixed {
        /// `namespace/name`.
        pod: String,
        /// The paths that are not of its own release.
        foreign: Vec<String>,
    },
    /// A pod found a secret that belongs to no release, such as a torn one.
    SecretsUnknown {
        /// `namespace/name`.
        pod: String,
        /// The paths.
        unknown: Vec<String>,
    },
    /// A pod was ended and started again from the same bytes.
    NeedlessRestart {
        /// `namespace/name`.
        pod: String,
        /// Of the manifest.
        digest: Digest,
    },
}

// === impl Release ===

impl Release {
    /// Reads a release from a settled directory: a node that has adopted it, or what a build wrote.
    ///
    /// # Errors
    /// When a visible entry of `manifests` is no pod; all of them are named.
    pub fn read(manifests: &Path, root: &Path) -> Result<Self> {
        let mut source = FileSource::new(manifests.to_owned(), root.to_owned());
        let mut broken = Vec::new();
        for finding in source.list() {
            if let Finding::Listed { files } = finding {
                broken.extend(files.into_iter().filter_map(|(file, state)| match state {
                    FileState::Unusable(problem) => Some(format!("{file}: {problem}")),
                    FileState::Pod { .. } => None,
                }));
            }
        }
        if !broken.is_empty() {
            bail!(
                "these files of {} can't be a release: {}",
                manifests.display(),
                broken.join("; ")
            );
        }
        let files = source
            .running()
            .into_values()
            .map(|pod| (pod.file, (pod.digest, pod.secrets)))
            .collect();
        Ok(Self { files })
    }

    /// Adds a manifest and the secrets its pod must see.
    #[must_use]
    pub fn with(mut self, file: &str, content: &[u8], secrets: SecretSet) -> Self {
        self.files
            .insert(file.to_owned(), (Digest::of(content), secrets));
        self
    }
}

// === impl Allowed ===

impl Allowed {
    /// Allows what any of `releases` holds, and requires the files that all of them have.
    #[must_use]
    pub fn releases<'a>(releases: impl IntoIterator<Item = &'a Release>) -> Self {
        let mut allowed = Self::default();
        for (n, release) in releases.into_iter().enumerate() {
            for (file, (digest, secrets)) in &release.files {
                let contents = allowed.files.entry(file.clone()).or_default();
                contents.entry(*digest).or_default().insert(secrets.clone());
            }
            let names: BTreeSet<String> = release.files.keys().cloned().collect();
            allowed.required = if n == 0 {
                names
            } else {
                &allowed.required & &names
            };
        }
        allowed
    }
}

// === judge ===

/// Everything in `history` that a writer moving between the allowed releases can't have caused; empty is a pass.
#[must_use]
pub fn judge(history: &[Observation], allowed: &Allowed) -> Vec<Violation> {
    let mut bench = Bench {
        allowed,
        seen: BTreeSet::new(),
        populated: false,
        started: BTreeMap::new(),
    };
    history
        .iter()
        .flat_map(|observation| {
            let breaches = bench.hear(&observation.finding);
            breaches.into_iter().map(|breach| Violation {
                at: observation.at,
                cause: observation.cause.clone(),
                breach,
            })
        })
        .collect()
}

/// What the judge remembers between two observations.
struct Bench<'a> {
    allowed: &'a Allowed,
    /// Required files seen so far.
    seen: BTreeSet<String>,
    /// Whether the last SET had pods.
    populated: bool,
    /// Pod → manifest of its last start.
    started: BTreeMap<String, Digest>,
}

impl Bench<'_> {
    fn hear(&mut self, finding: &Finding) -> Vec<Breach> {
        match finding {
            Finding::Listed { files } => self.listed(files),
            Finding::Read { file, state } => self.file(file, state),
            Finding::Vanished { file } | Finding::Removed { file } => self.absent(file),
            Finding::Set { pods } => {
                let emptied = self.populated && pods.is_empty();
                self.populated = !pods.is_empty();
                if emptied {
                    vec![Breach::EmptySet]
                } else {
                    Vec::new()
                }
            }
            Finding::Started {
                pod,
                running,
                superseded,
            } => {
                let mut breaches = Vec::new();
                if self.started.insert(pod.clone(), running.digest) == Some(running.digest) {
                    breaches.push(Breach::NeedlessRestart {
                        pod: pod.clone(),
                        digest: running.digest,
                    });
                }
                if !superseded {
                    breaches.extend(self.secrets(pod, running));
                }
                breaches
            }
            Finding::Stopped { .. } => Vec::new(),
            Finding::SecretsChanged { pod, running } => {
                self.secrets(pod, running).into_iter().collect()
            }
            Finding::DirectoryReplaced => vec![Breach::DirectorySwapped],
        }
    }

    fn listed(&mut self, files: &BTreeMap<String, FileState>) -> Vec<Breach> {
        let missing = self.seen.iter().filter(|file| !files.contains_key(*file));
        let mut breaches: Vec<Breach> = missing
            .map(|file| Breach::MissingFile { file: file.clone() })
            .collect();
        let mut holders: BTreeMap<&str, &str> = BTreeMap::new();
        for (file, state) in files {
            breaches.extend(self.file(file, state));
            if let FileState::Pod { identity, .. } = state
                && let Some(other) = holders.insert(&identity.key, file)
            {
                let files = [other.to_owned(), file.clone()];
                breaches.push(Breach::DuplicatePod {
                    pod: identity.key.clone(),
                    files,
                });
            }
        }
        breaches
    }

    fn file(&mut self, file: &str, state: &FileState) -> Vec<Breach> {
        let Some(contents) = self.allowed.files.get(file) else {
            return vec![Breach::StrayFile {
                file: file.to_owned(),
            }];
        };
        if self.allowed.required.contains(file) {
            self.seen.insert(file.to_owned());
        }
        match state {
            FileState::Unusable(problem) => {
                vec![Breach::Unusable {
                    file: file.to_owned(),
                    problem: problem.clone(),
                }]
            }
            FileState::Pod { digest, .. } if !contents.contains_key(digest) => {
                vec![Breach::UnknownContent {
                    file: file.to_owned(),
                    digest: *digest,
                }]
            }
            FileState::Pod { .. } => Vec::new(),
        }
    }

    fn absent(&self, file: &str) -> Vec<Breach> {
        let file = file.to_owned();
        if !self.allowed.files.contains_key(&file) {
            vec![Breach::StrayFile { file }]
        } else if self.seen.contains(&file) {
            vec![Breach::MissingFile { file }]
        } else {
            Vec::new()
        }
    }

    /// A pod's secrets against those of the release its manifest is from. A manifest of no release is another breach.
    fn secrets(&self, pod: &str, running: &RunningPod) -> Option<Breach> {
        let contents = self.allowed.files.get(&running.file)?;
        let own = contents.get(&running.digest)?;
        if own.contains(&running.secrets) {
            return None;
        }
        let pod = pod.to_owned();
        let any_release = |path: &String, digest: &Digest| {
            contents
                .values()
                .flatten()
                .any(|set| set.get(path) == Some(digest))
        };
        let outside = |known: &dyn Fn(&String, &Digest) -> bool| -> Vec<String> {
            running
                .secrets
                .iter()
                .filter(|(path, digest)| !known(path, digest))
                .map(|(path, _)| path.clone())
                .collect()
        };
        let unknown = outside(&any_release);
        if running.secrets.is_empty() {
            return Some(Breach::SecretsMissing { pod });
        } else if !unknown.is_empty() {
            return Some(Breach::SecretsUnknown { pod, unknown });
        }
        // The set of its own release that explains most of what was found.
        let foreign_to = |set: &SecretSet| outside(&|path, digest| set.get(path) == Some(digest));
        let closest = own.iter().min_by_key(|set| foreign_to(set).len())?;
        let foreign = foreign_to(closest);
        if foreign.is_empty() {
            let missing = closest
                .keys()
                .filter(|path| !running.secrets.contains_key(*path))
                .cloned()
                .collect();
            Some(Breach::SecretsHalfFilled { pod, missing })
        } else {
            Some(Breach::SecretsMixed { pod, foreign })
        }
    }
}

// === impl Display ===

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.3} s ({}): {}",
            self.at.as_secs_f64(),
            self.cause,
            self.breach
        )
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable { file, problem } => write!(f, "{file} is {problem}"),
            Self::StrayFile { file } => write!(f, "{file} is of neither release"),
            Self::UnknownContent { file, digest } => {
                write!(f, "{file} holds {digest:?}, which is of neither release")
            }
            Self::DuplicatePod {
                pod,
                files: [first, second],
            } => write!(f, "{first} and {second} are both {pod}"),
            Self::MissingFile { file } => write!(f, "{file} was taken away"),
            Self::EmptySet => write!(f, "no pod is left"),
            Self::DirectorySwapped => write!(f, "the manifest directory was exchanged"),
            Self::SecretsMissing { pod } => write!(f, "{pod} found no secrets"),
            Self::SecretsHalfFilled { pod, missing } => {
                write!(f, "{pod} lacks {}", missing.join(", "))
            }
            Self::SecretsMixed { pod, foreign } => {
                write!(f, "{pod} sees another release's {}", foreign.join(", "))
            }
            Self::SecretsUnknown { pod, unknown } => {
                write!(f, "{pod} sees no release's {}", unknown.join(", "))
            }
            Self::NeedlessRestart { pod, digest } => {
                write!(f, "{pod} was restarted from the same {digest:?}")
            }
        }
    }
}

#[cfg(test)]
mod tests;
