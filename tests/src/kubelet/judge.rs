//! The verdict: what in a history no correct writer can have caused. Pure; it sees no disk.

use std::collections::{BTreeMap, BTreeSet};

use super::allowed::Allowed;
use super::observation::{Digest, FileState, Finding, Observation, RunningPod, SecretSet};
use super::violation::{Breach, Violation};

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
    /// Pod → file and content of its last start, for as long as that file stays.
    started: BTreeMap<String, (String, Digest)>,
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
                let start = (running.file.clone(), running.digest);
                let before = self.started.insert(pod.clone(), start);
                if before.is_some_and(|(_, digest)| digest == running.digest) {
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
        let required = &self.allowed.required;
        // A file that only some releases have may go and come back with the next of them.
        self.started
            .retain(|_, (file, _)| required.contains(file) || files.contains_key(file));
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

    fn absent(&mut self, file: &str) -> Vec<Breach> {
        let file = file.to_owned();
        if !self.allowed.required.contains(&file) {
            self.started.retain(|_, (of, _)| *of != file);
        }
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

#[cfg(test)]
mod tests;
