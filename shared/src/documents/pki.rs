//! The cluster's certificates, and the secrets that are made beside them (§2).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::rotating::Rotating;
use super::rotation::StepMark;
use crate::secret::{SecretBytes, SecretText};

/// What a cluster's parts know each other by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pki {
    /// The certificate authorities.
    pub authorities: BTreeMap<AuthorityName, Rotating<Authority>>,
    /// The certificates they issued, by name.
    pub leaves: BTreeMap<String, Certified>,
    /// Signs the tokens of service accounts.
    pub service_accounts: Rotating<KeyPair>,
    /// Encrypts what the API server stores.
    pub encryption: Rotating<EncryptionKey>,
    /// What else there is to know about encryption at rest.
    #[serde(default, skip_serializing_if = "AtRest::is_empty")]
    pub at_rest: AtRest,
    /// Lets a new machine ask for a kubelet's certificate.
    pub bootstrap: Rotating<BootstrapToken>,
    /// Opens the machines' shell to operators.
    pub ssh: SshKey,
    /// The last step of each rotation that is under way, by what rotates.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rotations: BTreeMap<String, StepMark>,
}

/// A certificate authority of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthorityName {
    /// Issues the API server's certificate, and those of its clients that are not kubelets.
    Cluster,
    /// Issues the certificates with which kubelets come to the API server. Its key is on secure nodes.
    KubeletClient,
    /// Issues all of etcd's certificates.
    Etcd,
    /// Issues the certificate with which the API server comes to aggregated ones.
    FrontProxy,
}

/// An authority's certificate and key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// The common name, which no other authority of the environment has, before or after it.
    pub name: String,
    /// Its certificate, PEM.
    pub certificate: String,
    /// Its key, PKCS#8 PEM.
    pub key: SecretText,
}

/// A leaf certificate with its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certified {
    /// The certificate, PEM.
    pub certificate: String,
    /// Its key, PKCS#8 PEM.
    pub key: SecretText,
}

/// A key pair without a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyPair {
    /// The public key, SPKI PEM.
    pub public: String,
    /// The private key, PKCS#8 PEM.
    pub key: SecretText,
}

/// A key of the API server's encryption at rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncryptionKey {
    /// Its name, stored with each object that it encrypted: no two keys of an environment may share one.
    pub name: String,
    /// 32 bytes; base64 in the document.
    pub secret: SecretBytes,
}

/// What there is to know about encryption at rest beside the key and its successor or predecessor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AtRest {
    /// Keys that were retired, oldest first: a backup may hold what they encrypted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub older: Vec<OlderKey>,
    /// The order to rewrite everything under the key in use, while it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<RewriteMark>,
    /// How many such orders there ever were.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub orders: u64,
}

/// A key that encrypts nothing any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OlderKey {
    /// The key.
    pub key: EncryptionKey,
    /// Whether the API server is given it all the same, to read what a restore has brought back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reads: bool,
    /// The step that took it from the API server last: until that is everywhere, nodes make backups that name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<StepMark>,
}

/// An order to rewrite everything under the key in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewriteMark {
    /// Tells it from every other of the environment.
    pub number: u64,
    /// What the nodes come to the API server with for it.
    pub client: Certified,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A bootstrap token, `ID.SECRET` in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootstrapToken {
    /// 6 of a-z and 0-9; part of the Secret's name in the cluster.
    pub id: String,
    /// 16 of the same.
    pub secret: SecretText,
}

/// An ssh key pair in OpenSSH's own formats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SshKey {
    /// One line, as in `authorized_keys`.
    pub public: String,
    /// The private key's file.
    pub private: SecretText,
}

impl AuthorityName {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Cluster,
        Self::KubeletClient,
        Self::Etcd,
        Self::FrontProxy,
    ];

    /// The name as it is written in documents and in the authority's common name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::KubeletClient => "kubelet-client",
            Self::Etcd => "etcd",
            Self::FrontProxy => "front-proxy",
        }
    }
}

impl fmt::Display for AuthorityName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl AtRest ===

impl AtRest {
    /// Whether there is nothing to know.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The retired keys that the API server is given all the same.
    pub fn reading(&self) -> impl Iterator<Item = &EncryptionKey> {
        self.older.iter().filter(|o| o.reads).map(|o| &o.key)
    }
}

// === impl Pki ===

impl Pki {
    /// Every key of encryption at rest that the API server is given, the one that writes first.
    pub fn encryption_keys(&self) -> impl Iterator<Item = &EncryptionKey> {
        self.encryption.trusted().chain(self.at_rest.reading())
    }
}

impl Rotating<Authority> {
    /// The authority that issues.
    #[must_use]
    pub const fn issuer(&self) -> &Authority {
        &self.current
    }

    /// The certificates of every authority that is trusted, PEM after PEM, by name: so promoting one changes no byte
    /// for those who only trust it, and restarts none of their pods.
    #[must_use]
    pub fn trust_bundle(&self) -> String {
        let mut trusted: Vec<&Authority> = self.trusted().collect();
        trusted.sort_by_key(|a| &a.name);
        trusted.iter().map(|a| a.certificate.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_as_serde_writes_them() {
        for name in AuthorityName::ALL {
            assert_eq!(
                serde_json::to_string(&name).unwrap(),
                format!("\"{}\"", name.as_str())
            );
        }
    }

    #[test]
    fn a_bundle_holds_whom_the_step_trusts_and_no_step_reorders_it() {
        let authority = |name: &str| Authority {
            name: name.to_owned(),
            certificate: format!("{name};"),
            key: SecretText::default(),
        };
        let mut rotating = Rotating::new(authority("ca 1"));
        rotating.stage(authority("ca 2")).unwrap();
        assert_eq!(rotating.trust_bundle(), "ca 1;ca 2;");
        assert_eq!(rotating.issuer().name, "ca 1");
        rotating.promote().unwrap();
        assert_eq!(rotating.trust_bundle(), "ca 1;ca 2;");
        assert_eq!(rotating.issuer().name, "ca 2");
        rotating.retire().unwrap();
        assert_eq!(rotating.trust_bundle(), "ca 2;");
    }
}
