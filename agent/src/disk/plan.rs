//! What has to be done, decided without touching anything (§6.5).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shared::check::manifest::{HostPort, PodSummary};
use shared::names::{EntryPath, ReleaseNumber};

use super::check::Wanted;
use super::clean;
use super::compare::{DriftKind, by_directory, compare_directory, compare_file, same_content};
use super::error::Obstacle;
use super::held::is_held;
use super::ledger::Ledger;
use super::observe::{DirectoryState, Observed, State};
use super::paths::{OwnedPath, OwnedPlace, SecretDirectory};

/// A manifest whose pod must have ended before others are written: they take over its name or a host port of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakeOver {
    /// The manifest to remove first. It may be among those written afterwards.
    pub path: OwnedPath,
    /// The pod that ends.
    pub pod: PodSummary,
}

/// The way from what is on the disk to a release. The order of the fields is the order of the work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The release.
    pub release: ReleaseNumber,
    /// Secret directories to make or to mend.
    pub create_secret_directories: Vec<SecretDirectory>,
    /// Host files, addons and the agent's own to write, in the order of the index.
    pub write_host: Vec<EntryPath>,
    /// Manifests to remove, and pods to wait for, before any manifest is written.
    pub take_over: Vec<TakeOver>,
    /// Pods of manifests that are not on the disk, where an interrupted application may have removed what had their
    /// names or host ports before: whatever holds these must be gone before any manifest is written.
    pub await_end: Vec<PodSummary>,
    /// Manifests to write, in the order of the index.
    pub write_manifests: Vec<EntryPath>,
    /// Files to remove: owned, and absent from the signed release.
    pub remove_files: Vec<OwnedPath>,
    /// Files that are already as they have to be.
    pub unchanged: Vec<OwnedPath>,
    /// How long what is not needed any more has to stay for the pods that end.
    pub leftovers_stay: Duration,
}

impl Plan {
    fn empty(release: ReleaseNumber) -> Self {
        Self {
            release,
            create_secret_directories: Vec::new(),
            write_host: Vec::new(),
            take_over: Vec::new(),
            await_end: Vec::new(),
            write_manifests: Vec::new(),
            remove_files: Vec::new(),
            unchanged: Vec::new(),
            leftovers_stay: Duration::ZERO,
        }
    }

    /// Whether the disk already holds the release (the ledger may still name another).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.create_secret_directories.is_empty()
            && self.write_host.is_empty()
            && self.take_over.is_empty()
            && self.write_manifests.is_empty()
            && self.remove_files.is_empty()
    }
}

/// Plans. Where anything is in the way, all of it is named and there is no plan.
pub(crate) fn plan(
    ledger: &Ledger,
    observed: &Observed,
    wanted: &Wanted,
) -> Result<Plan, Vec<Obstacle>> {
    match plan_around(ledger, observed, wanted) {
        (plan, obstacles) if obstacles.is_empty() => Ok(plan),
        (_, obstacles) => Err(obstacles),
    }
}

/// Plans what can be done, and names what is in the way of the rest.
pub(crate) fn plan_around(
    ledger: &Ledger,
    observed: &Observed,
    wanted: &Wanted,
) -> (Plan, Vec<Obstacle>) {
    let mut obstacles = Vec::new();
    let mut plan = Plan::empty(wanted.release);
    plan_files(ledger, observed, wanted, &mut plan, &mut obstacles);
    plan_directories(ledger, observed, wanted, &mut plan, &mut obstacles);
    plan_removals(ledger, observed, wanted, &mut plan);
    plan_take_overs(ledger, observed, wanted, &mut plan);
    if ledger.applying.is_some() {
        plan.await_end = absent_pods(observed, wanted, &plan.write_manifests);
    }
    plan.leftovers_stay = clean::all_ended_within(observed);
    (plan, obstacles)
}

fn plan_files(
    ledger: &Ledger,
    observed: &Observed,
    wanted: &Wanted,
    plan: &mut Plan,
    obstacles: &mut Vec<Obstacle>,
) {
    let owned: BTreeSet<&OwnedPath> = ledger.files.iter().map(|file| &file.path).collect();
    for file in &wanted.files {
        let path = &file.owned.path;
        let place = path.place();
        if matches!(place, OwnedPlace::Secret { .. }) {
            continue;
        }
        let found = observed.files.get(path);
        if is_held(&observed.held, path) {
            plan.unchanged.push(path.clone());
            continue;
        }
        let is_owned = owned.contains(path);
        // §6.5: another's file stops the release, unless it has the very bytes.
        let in_the_way = match found {
            Some(State::Directory) => Some("a directory"),
            Some(State::BelowFile) => Some("below something that is no directory"),
            Some(State::Special(what)) if !is_owned => Some(*what),
            Some(State::Unreadable) if !is_owned => Some("another's file, and cannot be read"),
            Some(State::Regular(found)) if !is_owned && !same_content(&file.owned, found) => {
                Some("another's file, with another content")
            }
            _ => None,
        };
        if let Some(what) = in_the_way {
            obstacles.push(Obstacle {
                path: path.to_string(),
                what,
            });
        } else if compare_file(&file.owned, found, observed.owners).is_none() {
            plan.unchanged.push(path.clone());
        } else if matches!(place, OwnedPlace::Manifest(_)) {
            plan.write_manifests.push(file.entry.clone());
        } else {
            plan.write_host.push(file.entry.clone());
        }
    }
}

fn plan_directories(
    ledger: &Ledger,
    observed: &Observed,
    wanted: &Wanted,
    plan: &mut Plan,
    obstacles: &mut Vec<Obstacle>,
) {
    for (directory, files) in by_directory(wanted.files.iter().map(|file| &file.owned)) {
        let found = observed.directories.get(&directory);
        let drift = compare_directory(&files, found, observed.owners);
        if drift.is_empty() {
            plan.unchanged
                .extend(files.values().map(|file| file.path.clone()));
            continue;
        }
        let is_owned = ledger.secret_directories.contains(&directory);
        // What has the right bytes under the right names is taken over, and gets its modes and owners.
        let is_strange = |kind: &DriftKind| !matches!(kind, DriftKind::Mode | DriftKind::Owner);
        let what = match found {
            Some(DirectoryState::NotADirectory) => Some("no directory"),
            Some(_) if !is_owned && drift.iter().any(|(_, kind)| is_strange(kind)) => {
                Some("another's directory, with another content")
            }
            _ => None,
        };
        match what {
            Some(what) => obstacles.push(Obstacle {
                path: format!("secrets/{directory}"),
                what,
            }),
            None => plan.create_secret_directories.push(directory),
        }
    }
}

/// Only what the ledger says is the agent's, and the signed release does not have (§6.6).
fn plan_removals(ledger: &Ledger, observed: &Observed, wanted: &Wanted, plan: &mut Plan) {
    let stays: BTreeSet<&OwnedPath> = wanted.files.iter().map(|file| &file.owned.path).collect();
    let is_manifest = |path: &OwnedPath| matches!(path.place(), OwnedPlace::Manifest(_));
    // The reverse of the order of writing: what depends on others ends first.
    let goes = ledger.files.iter().rev().map(|file| &file.path);
    let goes = goes.filter(|path| {
        let found = observed.files.get(*path);
        let leaves = !stays.contains(path) || is_held(&observed.held, path);
        leaves
            && matches!(
                found,
                Some(State::Regular(_) | State::Special(_) | State::Unreadable)
            )
    });
    let (manifests, others): (Vec<_>, Vec<_>) = goes.cloned().partition(is_manifest);
    plan.remove_files = manifests;
    plan.remove_files.extend(others);
}

/// Two running pods of one name, or with one host port, are what kubelet makes of a plain write here: so the old one goes
/// first. A directory without any manifest would end every pod: the last one is then written over or removed afterwards.
fn plan_take_overs(ledger: &Ledger, observed: &Observed, wanted: &Wanted, plan: &mut Plan) {
    let written: BTreeSet<&str> = plan.write_manifests.iter().map(EntryPath::as_str).collect();
    let removed: BTreeSet<&OwnedPath> = plan.remove_files.iter().collect();
    let claims = Claims::of(&written, wanted);
    let is_taken_over = |path: &OwnedPath, old: &PodSummary| {
        let OwnedPlace::Manifest(own) = path.place() else {
            return false;
        };
        let renamed = wanted.pods.get(own).is_some_and(|new| !same_pod(old, new));
        renamed || claims.by_another_than(own, old)
    };
    let leaves = |path: &OwnedPath| removed.contains(path) || written.contains(path.as_str());
    let mut take_over: Vec<TakeOver> = ledger
        .files
        .iter()
        .rev()
        .filter_map(|file| Some((&file.path, observed.pods.get(&file.path)?)))
        .filter(|(path, old)| leaves(path) && is_taken_over(path, old))
        .map(|(path, pod)| TakeOver {
            path: path.clone(),
            pod: pod.clone(),
        })
        .collect();
    let taken: BTreeSet<&OwnedPath> = take_over.iter().map(|taken| &taken.path).collect();
    let stays = |path: &OwnedPath| observed.pods.contains_key(path) && !taken.contains(path);
    if !ledger.files.iter().any(|file| stays(&file.path)) {
        take_over.pop();
    }
    let taken: BTreeSet<&OwnedPath> = take_over.iter().map(|taken| &taken.path).collect();
    plan.remove_files.retain(|path| !taken.contains(path));
    plan.take_over = take_over;
}

/// What the manifests to write lay claim to: one look for each pod that is there, however many are to be written.
struct Claims<'a> {
    pods: BTreeMap<(&'a str, &'a str), Vec<&'a str>>,
    ports: BTreeMap<&'a HostPort, Vec<&'a str>>,
}

impl<'a> Claims<'a> {
    fn of(written: &BTreeSet<&str>, wanted: &'a Wanted) -> Self {
        let mut claims = Self {
            pods: BTreeMap::new(),
            ports: BTreeMap::new(),
        };
        for entry in written {
            let name = entry.strip_prefix("manifests/");
            let Some((file, pod)) = name.and_then(|name| wanted.pods.get_key_value(name)) else {
                continue;
            };
            let full_name = (pod.namespace.as_str(), pod.name.as_str());
            claims.pods.entry(full_name).or_default().push(file);
            for port in &pod.host_ports {
                claims.ports.entry(port).or_default().push(file);
            }
        }
        claims
    }

    /// Whether another file than `own` is to have the name or a host port of `pod`.
    fn by_another_than(&self, own: &str, pod: &PodSummary) -> bool {
        let full_name = (pod.namespace.as_str(), pod.name.as_str());
        let names = self.pods.get(&full_name).into_iter();
        let ports = pod.host_ports.iter().filter_map(|p| self.ports.get(p));
        names.chain(ports).flatten().any(|file| *file != own)
    }
}

/// The pods of the manifests to write that are not on the disk.
fn absent_pods(observed: &Observed, wanted: &Wanted, written: &[EntryPath]) -> Vec<PodSummary> {
    let written: BTreeSet<&EntryPath> = written.iter().collect();
    // What is to be written is in the order of the index.
    let files = wanted
        .files
        .iter()
        .filter(|file| written.contains(&file.entry))
        .filter(|file| !observed.files.contains_key(&file.owned.path));
    files
        .filter_map(|file| match file.owned.path.place() {
            OwnedPlace::Manifest(name) => wanted.pods.get(name).cloned(),
            _ => None,
        })
        .collect()
}

fn same_pod(a: &PodSummary, b: &PodSummary) -> bool {
    (&a.namespace, &a.name) == (&b.namespace, &b.name)
}

#[cfg(test)]
mod tests;
