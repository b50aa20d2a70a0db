//! Where a group's files come from: the templates, the working directory's `secrets/`, and the keyring.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use jiff::Timestamp;
use serde_json::Value;
use shared::check::secret_dir::{SECRETS_ROOT, SecretFile};
use shared::digest::Sha256Digest;
use shared::documents::{AuthorityName, KeyringContent, OwnFile, Pki};
use shared::names::GroupName;

use crate::context::Workspace;
use crate::exit::mistake;
use crate::pki::{Delivery, Names, complete, deliver};
use crate::render::{
    RenderInput, Secrets, TemplateSet, UNKNOWN_DIGEST, read_secrets, render_texts,
};

/// All that a group's release is made of, before it is rendered and checked.
#[derive(Debug, Clone)]
pub struct Sources {
    /// What rendering and linting depend on; the secret files of each pod, from wherever, are in it.
    pub input: RenderInput,
    /// Which of the secret files, by pod and name, come from the keyring.
    pub from_keyring: BTreeSet<(String, String)>,
    /// Files from the keyring at fixed paths of the release, such as `host/kubelet/ca.crt`.
    pub fixed: BTreeMap<String, SecretFile>,
}

/// Operators' files by pod and name.
type OfKeyring = BTreeMap<String, BTreeMap<String, OwnFile>>;

/// Gathers them. Without a keyring, stand-ins are in the place of what it would give: enough to render and check
/// everything, and never to publish.
///
/// # Errors
/// Every mistake in the templates' or the secrets' directories; names that two sources have; a PKI that is not complete.
pub fn gather(
    workspace: &Workspace,
    group: &GroupName,
    keyring: Option<&KeyringContent>,
    now: Timestamp,
) -> anyhow::Result<Sources> {
    let names = Names::of(&workspace.environment);
    let pki = match keyring {
        Some(content) => content
            .pki
            .clone()
            .context("the keyring has no PKI yet; the next publish makes it")?,
        None => stand_in(&names, now)?,
    };
    let mut values = workspace.environment.template_values();
    let authority = match keyring {
        Some(_) => cluster_authority(&pki)?,
        None => UNKNOWN_DIGEST.to_owned(),
    };
    values.insert("cluster_authority".to_owned(), Value::from(authority));
    let mut input = RenderInput {
        group: group.to_string(),
        templates: TemplateSet::for_working_dir(&workspace.directory)?,
        values: Value::Object(values.into_iter().collect()),
        secrets: Secrets::new(),
        stand_ins: keyring.is_none(),
    };
    let own = read_secrets(&workspace.directory, group.as_str())?;
    let kept = keyring.and_then(|k| k.files.get(group));
    let mut delivery = deliver(group, &pki, &names)?;
    let empty = OfKeyring::new();
    let kept = kept.unwrap_or(&empty);
    // Once with all of it, to see which pods there are.
    (input.secrets, _) = merge(group, &own, kept, &delivery)?;
    let mounted = mounted_pods(&input);
    delivery.pods.retain(|pod, _| mounted.contains(pod));
    let (secrets, from_keyring) = merge(group, &own, kept, &delivery)?;
    input.secrets = secrets;
    Ok(Sources {
        input,
        from_keyring,
        fixed: delivery.fixed,
    })
}

/// A PKI that is thrown away: nothing made with it is ever written or published.
fn stand_in(names: &Names, now: Timestamp) -> anyhow::Result<Pki> {
    let mut pki = None;
    complete(&mut pki, names, now)?;
    pki.context("a PKI was made")
}

/// The digest of the certificate that the API server's is issued by. A pod of the cluster is given whom to trust while it
/// runs and many read it only at start. It changes when a successor is promoted: by then all that is trusted has been with
/// every API server since the step before, so a pod that is started anew finds both.
fn cluster_authority(pki: &Pki) -> anyhow::Result<String> {
    let authority = pki.authorities.get(&AuthorityName::Cluster);
    let authority = authority.context("the keyring has no authority of the cluster")?;
    Ok(Sha256Digest::of(authority.current.certificate.as_bytes()).to_string())
}

/// The pods whose secret directories the templates name: what nobody mounts goes to no node. Where a template does not
/// render, lint says so, and nothing is made of what is missing here.
fn mounted_pods(input: &RenderInput) -> BTreeSet<String> {
    let (texts, failures) = render_texts(input);
    let names = |pod: &str| {
        let path = format!("{SECRETS_ROOT}/{pod}/");
        !failures.is_empty() || texts.pods.values().any(|pod| pod.text.contains(&path))
    };
    let pods = input.secrets.keys().filter(|pod| names(pod));
    pods.cloned().collect()
}

/// Puts the sources together: no two files may have one name.
fn merge(
    group: &GroupName,
    own: &Secrets,
    kept: &OfKeyring,
    delivery: &Delivery,
) -> anyhow::Result<(Secrets, BTreeSet<(String, String)>)> {
    let mut all = delivery.pods.clone();
    let made = all.iter().flat_map(|(pod, files)| {
        let names = files.keys();
        names.map(|name| (pod.clone(), name.clone()))
    });
    let mut from_keyring: BTreeSet<(String, String)> = made.collect();
    let mut clashes = Vec::new();
    let mut add = |all: &mut Secrets, pod: &str, name: &str, file: SecretFile, what: String| {
        let files = all.entry(pod.to_owned()).or_default();
        if files.contains_key(name) {
            clashes.push(format!("{what} and {}", other(group, kept, pod, name)));
        } else {
            files.insert(name.to_owned(), file);
        }
    };
    for (pod, files) in kept {
        for (name, file) in files {
            let what = in_keyring(group, pod, name);
            let file = SecretFile {
                bytes: file.bytes.clone(),
                mode: file.mode.bits(),
                owner: (file.uid, file.gid),
            };
            from_keyring.insert((pod.clone(), name.clone()));
            add(&mut all, pod, name, file, what);
        }
    }
    for (pod, files) in own {
        for (name, file) in files {
            let what = format!("the file secrets/{group}/{pod}/{name}");
            add(&mut all, pod, name, file.clone(), what);
        }
    }
    if !clashes.is_empty() {
        return Err(mistake(format!(
            "{} file(s) of group {group} are there twice; rename or remove one of each:\n  {}",
            clashes.len(),
            clashes.join("\n  ")
        )));
    }
    Ok((all, from_keyring))
}

/// What the clashing file met: an operator's own before what the platform makes, since that was merged first.
fn other(group: &GroupName, kept: &OfKeyring, pod: &str, name: &str) -> String {
    let is_kept = kept.get(pod).is_some_and(|files| files.contains_key(name));
    match is_kept {
        true => in_keyring(group, pod, name),
        false => format!("the {name} that the platform makes for pod {pod}"),
    }
}

fn in_keyring(group: &GroupName, pod: &str, name: &str) -> String {
    format!("the keyring's {group}/{pod}/{name} (`platformctl secrets`)")
}
