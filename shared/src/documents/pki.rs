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
