//! The agent's configuration file: TOML, read in three stages, every mistake reported at once with its line.
//!
//! Text → [`reader`], what the file says, key by key, each with its place → defaults for what it leaves out →
//! [`Config`], in which every value has been checked. `agent/dist/agent.toml.sample` shows every key.

mod credentials;
mod reader;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shared::names::{EnvironmentName, GroupName, NodeId, UnitName};

pub use credentials::{CredentialsError, StoreCredentials};

use reader::Reader;

use crate::artifacts::DEFAULT_DIRECTORIES;
use crate::facts::is_node_name;
use crate::units::{DEFAULT_UNITS, SYSTEMCTL};
use crate::update::CONFIRM_WITHIN_SECONDS;

/// Where `/etc/kubernetes` lies, if the file does not say.
pub const DEFAULT_ROOT_DIRECTORY: &str = "/";
/// Where the agent keeps its own state, if the file does not say.
pub const DEFAULT_STATE_DIRECTORY: &str = "/var/lib/platform-agent";
/// How often the bucket is asked, if the file does not say.
pub const DEFAULT_POLL_INTERVAL_SECONDS: i64 = 10;
/// The longest poll period: a day.
pub const MAXIMUM_POLL_INTERVAL_SECONDS: i64 = 86_400;
/// Where metrics are served, if the file does not say: loopback only.
pub const DEFAULT_METRICS_LISTEN: &str = "127.0.0.1:9102";

/// A configuration file whose every value has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The node's environment.
    pub environment: EnvironmentName,
    /// The node's group.
    pub group: GroupName,
    /// The node's own name. It is not asked of the instance metadata service: the bucket's policy is what decides under
    /// which name a node may write, and a wrong guess would only show there.
    pub node: NodeSource,
    /// The secrets bucket.
    pub bucket: String,
    /// Its region.
    pub region: String,
    /// Another endpoint than AWS's own.
    pub endpoint_url: Option<String>,
    /// Where `/etc/kubernetes` lies.
    pub root_directory: PathBuf,
    /// Where the agent keeps its own state.
    pub state_directory: PathBuf,
    /// The TUF root that came with the machine.
    pub trusted_root: PathBuf,
    /// How often the bucket is asked.
    pub poll_interval: Duration,
    /// Where `/metrics` and `/healthz` are served, if anywhere.
    pub metrics_listen: Option<SocketAddr>,
    /// What opens a release's identity.
    pub key_wrap: KeyWrapConfig,
    /// A file with credentials; none means the instance's role.
    pub credentials_file: Option<PathBuf>,
    /// Units that a release may restart.
    pub restart_units: Vec<UnitName>,
    /// What restarts them; none leaves them alone.
    pub systemctl: Option<PathBuf>,
    /// Directories below which a release's artifacts may go, as paths below the root directory.
    pub artifact_directories: Vec<PathBuf>,
    /// How long an updated agent may run without having confirmed a poll.
    pub update_confirm_within: Duration,
    /// Whether the agent issues the kubelet's client certificate, and under which name, where the facts do not say.
    pub kubelet: KubeletConfig,
    /// What the node is to etcd, where its releases run it.
    pub etcd: Option<EtcdConfig>,
}

/// Who says which node it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeSource {
    /// The configuration.
    Name(NodeId),
    /// A file that a boot unit writes; see [`crate::facts`].
    Facts(PathBuf),
}

/// What the agent does for the kubelet beside its files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KubeletConfig {
    /// Issue its client certificate from the CA of the release.
    pub client_certificate: bool,
    /// Its node name; none takes it from the node's facts.
    pub node_name: Option<String>,
}

/// What a node is to etcd; what is left out follows from the node's facts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EtcdConfig {
    /// The member's name; by default the last part of the node's.
    pub name: Option<String>,
    /// Where its peers reach it; by default at `NODE_NAME`, port 2380.
    pub peer_url: Option<String>,
    /// Where clients reach it; by default at `NODE_NAME`, port 2379.
    pub client_url: Option<String>,
    /// Where it listens for peers; by default at `NODE_IP`, port 2380.
    pub listen_peer_url: Option<String>,
    /// Where it listens for clients; by default on loopback and at `NODE_IP`, port 2379.
    pub listen_client_urls: Vec<String>,
    /// Where it listens for probes, if not where the release says.
    pub metrics_url: Option<String>,
}

/// What opens a release's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyWrapConfig {
    /// AWS KMS with this key.
    AwsKms {
        /// The key's id, ARN or alias; pinned on decrypt.
        key_id: String,
    },
    /// An age identity in a file.
    LocalFile {
        /// The file.
        path: PathBuf,
    },
}

/// One thing that is wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The line it is on, counted from 1; none for what is missing.
    pub line: Option<usize>,
    /// What is wrong, naming the key.
    pub message: String,
}

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// It says something that can't be.
    #[error("the configuration cannot be used:{}", listed(path, mistakes))]
    Mistakes {
        /// Which file.
        path: PathBuf,
        /// Everything that is wrong with it, in the order of its lines.
        mistakes: Vec<Mistake>,
    },
}

fn listed(path: &Path, mistakes: &[Mistake]) -> String {
    mistakes
        .iter()
        .map(|m| match m.line {
            Some(line) => format!("\n  {}:{line}: {}", path.display(), m.message),
            None => format!("\n  {}: {}", path.display(), m.message),
        })
        .collect()
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

// === impl Config ===

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake in it.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|mistakes| ConfigError::Mistakes {
            path: path.to_owned(),
            mistakes,
        })
    }

    /// Checks the text of a file.
    ///
    /// # Errors
    /// Every mistake in it, in the order of the lines.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        let mut file = Reader::new(text);
        let environment = file
            .required_text("environment")
            .checked(EnvironmentName::new);
        let group = file.required_text("group").checked(GroupName::new);
        let node = node(&mut file);
        let bucket = file.required_text("bucket").checked(not_empty);
        let region = file.required_text("region").checked(not_empty);
        let endpoint_url = file.text("endpoint_url").checked_if_given(http_url);
        let root_directory = file
            .text_or("root_directory", DEFAULT_ROOT_DIRECTORY)
            .checked(absolute);
        let state_directory = file
            .text_or("state_directory", DEFAULT_STATE_DIRECTORY)
            .checked(absolute);
        let trusted_root = file.required_text("trusted_root").checked(absolute);
        let poll_interval = file
            .integer_or("poll_interval_seconds", DEFAULT_POLL_INTERVAL_SECONDS)
            .checked(seconds);
        let metrics_listen = file
            .text_or("metrics_listen", DEFAULT_METRICS_LISTEN)
            .checked(listen);
        let credentials_file = file.text("credentials_file").checked_if_given(absolute);
        let restart_units = file
            .texts_or("restart_units", &DEFAULT_UNITS)
            .checked(|names| names.into_iter().map(UnitName::new).collect());
        let artifact_directories = file
            .texts_or("artifact_directories", &DEFAULT_DIRECTORIES)
            .checked(|paths| paths.into_iter().map(plain_directory).collect());
        // On a machine that only plays a node, its real units are left alone.
        let on_a_machine = root_directory.as_deref() == Some(Path::new(DEFAULT_ROOT_DIRECTORY));
        let systemctl = file
            .text_or("systemctl", if on_a_machine { SYSTEMCTL } else { "" })
            .checked(|text| match text.is_empty() {
                true => Ok(None),
                false => absolute(text).map(Some),
            });
        let update_confirm_within = file
            .integer_or("update_confirm_within_seconds", CONFIRM_WITHIN_SECONDS)
            .checked(seconds);
        let kubelet = kubelet(&mut file, matches!(node, Some(NodeSource::Facts(_))));
        let etcd = etcd(&mut file, matches!(node, Some(NodeSource::Facts(_))));
        let key_wrap = key_wrap(&mut file);
        let mistakes = file.finish();
        let all = (|| {
            Some(Self {
                environment: environment?,
                group: group?,
                node: node?,
                bucket: bucket?,
                region: region?,
                endpoint_url: endpoint_url?,
                root_directory: root_directory?,
                state_directory: state_directory?,
                trusted_root: trusted_root?,
                poll_interval: poll_interval?,
                metrics_listen: metrics_listen?,
                key_wrap: key_wrap?,
                credentials_file: credentials_file?,
                restart_units: restart_units?,
                systemctl: systemctl?,
                artifact_directories: artifact_directories?,
                update_confirm_within: update_confirm_within?,
                kubelet: kubelet?,
                etcd: etcd?,
            })
        })();
        match all {
            Some(config) if mistakes.is_empty() => Ok(config),
            _ => Err(mistakes),
        }
    }
}

fn node(file: &mut Reader<'_>) -> Option<NodeSource> {
    let name = file.text("node").checked_if_given(NodeId::new);
    let facts = file.text("node_facts").checked_if_given(absolute);
    match (name?, facts?) {
        (Some(name), None) => Some(NodeSource::Name(name)),
        (None, Some(path)) => Some(NodeSource::Facts(path)),
        (None, None) => {
            file.mistake("node is missing (or node_facts, the file that says it)");
            None
        }
        (Some(_), Some(_)) => {
            file.mistake("node and node_facts are both there: one of them says which node it is");
            None
        }
    }
}

fn kubelet(file: &mut Reader<'_>, has_facts: bool) -> Option<KubeletConfig> {
    let Some(mut section) = file.section("kubelet") else {
        return Some(KubeletConfig::default());
    };
    let client_certificate = section
        .boolean_or("client_certificate", false)
        .checked(Ok::<_, &str>);
    let node_name = section
        .text("node_name")
        .checked_if_given(|name| match is_node_name(&name) {
            true => Ok(name),
            false => Err("must be a lower-case DNS name of at most 63 characters"),
        });
    let (client_certificate, node_name) = (client_certificate?, node_name?);
    if client_certificate && node_name.is_none() && !has_facts {
        section.mistake("node_name is missing: without node_facts nobody else says it");
        return None;
    }
    Some(KubeletConfig {
        client_certificate,
        node_name,
    })
}

#[allow(
    clippy::option_option,
    reason = "a section with mistakes and no section are two things"
)]
fn etcd(file: &mut Reader<'_>, has_facts: bool) -> Option<Option<EtcdConfig>> {
    let Some(mut section) = file.section("etcd") else {
        return Some(None);
    };
    let name = section.text("name").checked_if_given(Ok::<_, &str>);
    let mut url = |key| section.text(key).checked_if_given(member_url);
    let peer_url = url("peer_url");
    let client_url = url("client_url");
    let listen_peer_url = url("listen_peer_url");
    let metrics_url = section.text("metrics_url").checked_if_given(http_url);
    let listen_client_urls = section.texts_or("listen_client_urls", &[]).checked(|urls| {
        urls.into_iter()
            .map(member_url)
            .collect::<Result<Vec<_>, _>>()
    });
    let config = EtcdConfig {
        name: name?,
        peer_url: peer_url?,
        client_url: client_url?,
        listen_peer_url: listen_peer_url?,
        listen_client_urls: listen_client_urls?,
        metrics_url: metrics_url?,
    };
    let given = config.peer_url.is_some()
        && config.client_url.is_some()
        && config.listen_peer_url.is_some()
        && !config.listen_client_urls.is_empty();
    if !given && !has_facts {
        section.mistake(
            "peer_url, client_url, listen_peer_url and listen_client_urls are needed: without node_facts nobody else \
             says them",
        );
        return None;
    }
    Some(Some(config))
}

fn member_url(text: String) -> Result<String, &'static str> {
    match text.strip_prefix("https://") {
        Some(rest) if rest.contains(':') && !rest.contains(['/', ',', '@']) => Ok(text),
        _ => Err("must be https://HOST:PORT"),
    }
}

fn plain_directory(text: String) -> Result<PathBuf, &'static str> {
    let plain = text.starts_with('/') && !text.split('/').any(|part| part == "." || part == "..");
    match plain && !text.trim_matches('/').is_empty() {
        true => Ok(PathBuf::from(text)),
        false => Err("must be absolute paths of directories, without . and .., not / itself"),
    }
}

fn key_wrap(file: &mut Reader<'_>) -> Option<KeyWrapConfig> {
    let mut section = file.required_section("key_wrap")?;
    let method = section
        .required_text("method")
        .checked(|m| match m.as_str() {
            "aws-kms" | "local-file" => Ok(m),
            _ => Err("must be \"aws-kms\" or \"local-file\""),
        });
    match method?.as_str() {
        "aws-kms" => {
            let key_id = section.required_text("key_id").checked(not_empty)?;
            Some(KeyWrapConfig::AwsKms { key_id })
        }
        _ => {
            let path = section.required_text("path").checked(absolute)?;
            Some(KeyWrapConfig::LocalFile { path })
        }
    }
}

fn not_empty(text: String) -> Result<String, &'static str> {
    if text.trim().is_empty() {
        return Err("must not be empty");
    }
    Ok(text)
}

fn absolute(text: String) -> Result<PathBuf, &'static str> {
    let path = PathBuf::from(text);
    if !path.is_absolute() {
        return Err("must be an absolute path");
    }
    Ok(path)
}

fn http_url(text: String) -> Result<String, &'static str> {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(text),
        _ => Err("must be a URL that begins with http:// or https://"),
    }
}

fn seconds(n: i64) -> Result<Duration, String> {
    match u64::try_from(n) {
        Ok(s) if (1..=MAXIMUM_POLL_INTERVAL_SECONDS).contains(&n) => Ok(Duration::from_secs(s)),
        _ => Err(format!(
            "must be between 1 and {MAXIMUM_POLL_INTERVAL_SECONDS}"
        )),
    }
}

fn listen(text: String) -> Result<Option<SocketAddr>, &'static str> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .map_err(|_| "must be an address and a port, such as 127.0.0.1:9102, or empty")
}

#[cfg(test)]
mod tests;
