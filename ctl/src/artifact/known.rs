//! The artifacts that the platform's own `node.yaml` files ask for: where their projects publish them, and the command that
//! lists each. No digest is kept here: it is read from what the publisher puts beside the file, once, and then stands in
//! `artifacts.toml` for a review to see.

use std::collections::BTreeMap;

use anyhow::Context as _;
use shared::names::GroupName;

use super::{ArtifactList, FILE, resolve};
use crate::context::Workspace;
use crate::env::{DEFAULT_ETCD_VERSION, DEFAULT_KUBERNETES_VERSION};
use crate::exit::mistake;
use crate::render::{ArtifactPlace, NodeFile, TemplateSet};

/// The name of the commented example that `init` writes.
pub const SAMPLE: &str = "artifacts.toml.sample";

/// What cri-tools has for Kubernetes 1.36.
const CRICTL: &str = "v1.36.0";
/// The release of the CNI plugins that Kubernetes 1.36 is tested with.
const CNI_PLUGINS: &str = "v1.9.1";

/// Versions that the artifacts of an environment follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follows {
    /// Kubernetes, without `v`.
    pub kubernetes: String,
    /// etcd, as the tag of its image.
    pub etcd: String,
}

/// A file that a project publishes.
struct Published {
    version: String,
    url: String,
    /// What prints the digest that the project gives for it.
    digest: String,
    /// The one file of it, where not all of it is meant.
    member: Option<&'static str>,
}

// === impl Follows ===

impl Follows {
    /// What an environment runs.
    #[must_use]
    pub fn of(workspace: &Workspace) -> Self {
        let versions = &workspace.environment.versions;
        Self {
            kubernetes: versions.kubernetes.to_string(),
            etcd: versions.etcd.to_string(),
        }
    }

    fn published(&self, name: &str) -> Option<Published> {
        // Some publish the digest alone, some with the file's name after it.
        let beside = |url: &str| format!("curl -fsSL {url}.sha256 | cut -d' ' -f1");
        let (version, url, member) = match name {
            "kubelet" => {
                let version = format!("v{}", self.kubernetes);
                let url = format!("https://dl.k8s.io/{version}/bin/linux/amd64/kubelet");
                (version, url, None)
            }
            "crictl" => {
                let url = format!(
                    "https://github.com/kubernetes-sigs/cri-tools/releases/download/{CRICTL}/crictl-{CRICTL}-linux-amd64.tar.gz"
                );
                (CRICTL.to_owned(), url, Some("crictl"))
            }
            "cni-plugins" => {
                let url = format!(
                    "https://github.com/containernetworking/plugins/releases/download/{CNI_PLUGINS}/\
                     cni-plugins-linux-amd64-{CNI_PLUGINS}.tgz"
                );
                (CNI_PLUGINS.to_owned(), url, None)
            }
            "etcdutl" => return Some(self.etcdutl()),
            _ => return None,
        };
        let digest = beside(&url);
        Some(Published {
            version,
            url,
            digest,
            member,
        })
    }

    /// etcd publishes one file with the digests of a whole release.
    fn etcdutl(&self) -> Published {
        // The tag of the image ends with the number of its build.
        let version = self.etcd.split('-').next().unwrap_or(&self.etcd);
        let version = format!("v{version}");
        let below = format!("https://github.com/etcd-io/etcd/releases/download/{version}");
        let file = format!("etcd-{version}-linux-amd64.tar.gz");
        Published {
            url: format!("{below}/{file}"),
            digest: format!("curl -fsSL {below}/SHA256SUMS | grep ' {file}$' | cut -d' ' -f1"),
            version,
            member: Some("etcdutl"),
        }
    }

    /// The command that lists an artifact.
    #[must_use]
    pub fn command(&self, name: &str, environment: &str) -> String {
        let Some(found) = self.published(name) else {
            return format!(
                "platformctl artifacts add -e {environment} {name} FILE|URL --version VERSION --sha256 DIGEST"
            );
        };
        let member = found.member.map(|m| format!(" --member {m}"));
        format!(
            "platformctl artifacts add -e {environment} {name} {url} --version {version}{member} --sha256 \"$({digest})\"",
            url = found.url,
            version = found.version,
            member = member.unwrap_or_default(),
            digest = found.digest,
        )
    }
}

/// The text of [`SAMPLE`].
#[must_use]
pub fn sample() -> String {
    let follows = Follows {
        kubernetes: DEFAULT_KUBERNETES_VERSION.to_owned(),
        etcd: DEFAULT_ETCD_VERSION.to_owned(),
    };
    let commands: Vec<String> = ["kubelet", "crictl", "etcdutl", "cni-plugins"]
        .iter()
        .map(|name| format!("#   {}\n", follows.command(name, "NAME")))
        .collect();
    format!(
        "# {FILE} says which bytes each artifact of manifests/GROUP/node.yaml stands for. `platformctl artifacts add` writes it; no\n\
         # machine on AWS can do without. For the versions that this platform was made for:\n#\n{commands}#\n\
         # Each takes the digest from the publisher, over TLS, and pins it. Compare it with what you have from elsewhere, and\n\
         # commit {FILE}: it is what a review sees. An entry looks like this:\n#\n\
         #   [[artifact]]\n\
         #   name = \"crictl\"\n\
         #   version = \"{CRICTL}\"\n\
         #   source = \"https://...\"         # where it was read\n\
         #   source_sha256 = \"...\"          # the digest of what was read there\n\
         #   member = \"crictl\"              # the one file of that archive\n\
         #   sha256 = \"...\"                 # the digest of what nodes fetch\n\
         #   bytes = 12345\n",
        commands = commands.concat()
    )
}

/// The artifacts that the groups' `node.yaml` ask for and the list has not, each with the groups that do.
///
/// # Errors
/// A `node.yaml` or a list with mistakes, or entries of another form than a `node.yaml` wants.
pub fn missing(workspace: &Workspace) -> anyhow::Result<BTreeMap<String, Vec<GroupName>>> {
    let templates = TemplateSet::for_working_dir(&workspace.directory)?;
    let list = ArtifactList::load(&workspace.directory)?;
    let mut missing: BTreeMap<String, Vec<GroupName>> = BTreeMap::new();
    for group in &workspace.groups {
        let places = places(&templates, group)?;
        let resolved = resolve(group, &places, &list)
            .with_context(|| format!("the artifacts of group {group}"))?;
        for name in resolved.unlisted {
            missing.entry(name).or_default().push(group.clone());
        }
    }
    Ok(missing)
}

fn places(templates: &TemplateSet, group: &GroupName) -> anyhow::Result<Vec<ArtifactPlace>> {
    let text = templates
        .group(group.as_str())
        .and_then(|g| g.node.as_ref());
    let Some(text) = text else {
        return Ok(Vec::new());
    };
    let node = NodeFile::parse(&format!("{group}/node.yaml"), text).map_err(|found| {
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        mistake(lines.join("\n"))
    })?;
    Ok(node.artifacts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::EMBEDDED;

    fn follows() -> Follows {
        Follows {
            kubernetes: "1.36.2".to_owned(),
            etcd: "3.6.9-1".to_owned(),
        }
    }

    #[test]
    fn every_artifact_of_the_platforms_own_machines_has_a_command_for_its_version() {
        let templates = TemplateSet::embedded();
        let groups = EMBEDDED
            .iter()
            .filter_map(|(path, _)| path.strip_suffix("/node.yaml"));
        let mut seen = 0;
        for group in groups {
            for place in places(&templates, &group.parse().unwrap()).unwrap() {
                let found = follows().published(&place.name);
                let found = found.unwrap_or_else(|| panic!("{} is published nowhere", place.name));
                // An archive is unpacked, one file is not.
                let is_archive = found.member.is_none() && !found.url.ends_with("/kubelet");
                let unpacked = place.unpack != shared::bundle::Unpack::None;
                assert_eq!(is_archive, unpacked, "{}", place.name);
                assert!(sample().contains(&format!(" {} https://", place.name)));
                seen += 1;
            }
        }
        assert_eq!(seen, 7);
        assert_eq!(
            follows().command("kubelet", "dev"),
            "platformctl artifacts add -e dev kubelet https://dl.k8s.io/v1.36.2/bin/linux/amd64/kubelet --version v1.36.2 \
             --sha256 \"$(curl -fsSL https://dl.k8s.io/v1.36.2/bin/linux/amd64/kubelet.sha256 | cut -d' ' -f1)\""
        );
        let etcdutl = follows().command("etcdutl", "dev");
        assert!(
            etcdutl.contains(
                "/v3.6.9/etcd-v3.6.9-linux-amd64.tar.gz --version v3.6.9 --member etcdutl"
            ),
            "{etcdutl}"
        );
        assert!(follows().command("own", "dev").contains(" own FILE|URL "));
    }

    #[test]
    fn the_sample_is_a_comment_and_an_empty_list() {
        let sample = sample();
        assert!(sample.lines().all(|line| line.starts_with('#')), "{sample}");
        assert!(!sample.contains("-e dev"));
    }
}
