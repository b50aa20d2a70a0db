//! Which of the keyring each pod and host of a group is given, and in which files.
//!
//! This is the one place that decides it. A pod gets what its own program reads, a host what its kubelet reads.

use std::collections::BTreeMap;

use shared::check::secret_dir::SecretFile;
use shared::documents::{Authority, AuthorityName, Certified, Pki, Rotating};
use shared::names::GroupName;
use shared::secret::SecretBytes;

use super::configuration::{bootstrap_secrets, encryption};
use super::kubeconfig::{Trust, User, kubeconfig};
use super::{Names, PkiError};
use crate::env::SECURE;
use crate::render::{ADDONS_OBJECTS, Secrets};

/// Where the agent keeps the certificate of a secure node's kubelet, with its key in the same file.
const KUBELET_CLIENT: &str = "/var/lib/platform-agent/kubelet/kubelet-client.pem";
/// Where a node finds the cluster's authority: what `host/kubelet/ca.crt` of a release becomes.
const HOST_CA: &str = "/etc/kubernetes/host/kubelet/ca.crt";
/// Root's alone.
const MODE: u32 = 0o600;

/// What a group's release holds of the keyring.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delivery {
    /// Each pod's files, made from the keyring.
    pub pods: Secrets,
    /// Files at fixed paths of a release (`host/…`), made from the keyring.
    pub fixed: BTreeMap<String, SecretFile>,
}

/// What a group is given. The secure group runs the control plane; every other group is of workers.
///
/// # Errors
/// A keyring that was not completed.
pub fn deliver(group: &GroupName, pki: &Pki, names: &Names) -> Result<Delivery, PkiError> {
    let mut maker = Maker {
        pki,
        names,
        made: Delivery::default(),
    };
    if group.as_str() == SECURE {
        maker.etcd()?;
        maker.api_server()?;
        maker.controller_manager()?;
        maker.scheduler()?;
        maker.addons()?;
        maker.proxy(&Names::local_api_url())?;
        maker.secure_host()?;
    } else {
        maker.proxy(&names.internal_api_url())?;
        maker.worker_host()?;
    }
    Ok(maker.made)
}

struct Maker<'a> {
    pki: &'a Pki,
    names: &'a Names,
    made: Delivery,
}

impl<'a> Maker<'a> {
    fn etcd(&mut self) -> Result<(), PkiError> {
        let ca = self.bundle(AuthorityName::Etcd)?;
        self.put("etcd", "ca.crt", bytes_of(&ca));
        self.put("etcd", "peer-ca.crt", bytes_of(&ca));
        self.put_leaf("etcd", "server", "etcd-server")?;
        self.put_leaf("etcd", "peer", "etcd-peer")?;
        self.put_leaf("etcd", "peer-client", "etcd-peer-client")
    }

    fn api_server(&mut self) -> Result<(), PkiError> {
        let pod = "kube-apiserver";
        // Kubelets come with certificates of an authority of their own.
        let clients =
            self.bundle(AuthorityName::Cluster)? + &self.bundle(AuthorityName::KubeletClient)?;
        self.put(pod, "ca.crt", bytes_of(&clients));
        self.put_leaf(pod, "apiserver", "apiserver")?;
        let etcd = self.bundle(AuthorityName::Etcd)?;
        self.put(pod, "etcd-ca.crt", bytes_of(&etcd));
        self.put_leaf(pod, "etcd-client", "etcd-client")?;
        self.put_leaf(pod, "kubelet-client", "apiserver-kubelet-client")?;
        let front = self.bundle(AuthorityName::FrontProxy)?;
        self.put(pod, "front-proxy-ca.crt", bytes_of(&front));
        self.put_leaf(pod, "front-proxy-client", "front-proxy-client")?;
        let accounts = &self.pki.service_accounts;
        let trusted: String = accounts.trusted().map(|k| k.public.as_str()).collect();
        self.put(pod, "service-account.pub", bytes_of(&trusted));
        self.put(
            pod,
            "service-account.key",
            bytes_of(accounts.current.key.expose()),
        );
        self.put(pod, "encryption.yaml", encryption(self.pki));
        Ok(())
    }

    fn controller_manager(&mut self) -> Result<(), PkiError> {
        let pod = "kube-controller-manager";
        let cluster = self.bundle(AuthorityName::Cluster)?;
        self.put(pod, "ca.crt", bytes_of(&cluster));
        let front = self.bundle(AuthorityName::FrontProxy)?;
        self.put(pod, "front-proxy-ca.crt", bytes_of(&front));
        let accounts = self.pki.service_accounts.current.key.expose();
        self.put(pod, "service-account.key", bytes_of(accounts));
        // What signs: one certificate, and its key. The agent takes the pair from here too.
        let signer = self.authority(AuthorityName::KubeletClient)?.issuer();
        self.put(pod, "kubelet-client-ca.crt", bytes_of(&signer.certificate));
        self.put(pod, "kubelet-client-ca.key", bytes_of(signer.key.expose()));
        self.put_kubeconfig(
            pod,
            "kubeconfig",
            &Names::local_api_url(),
            "kube-controller-manager",
        )
    }

    fn scheduler(&mut self) -> Result<(), PkiError> {
        let pod = "kube-scheduler";
        let cluster = self.bundle(AuthorityName::Cluster)?;
        self.put(pod, "ca.crt", bytes_of(&cluster));
        self.put_kubeconfig(pod, "kubeconfig", &Names::local_api_url(), "kube-scheduler")
    }

    fn addons(&mut self) -> Result<(), PkiError> {
        let api = Names::local_api_url();
        self.put_kubeconfig("addons", "kubeconfig", &api, "addons")?;
        self.put_kubeconfig("addons", "bootstrap.kubeconfig", &api, "addons-bootstrap")?;
        let tokens = bootstrap_secrets(&self.pki.bootstrap);
        self.put(ADDONS_OBJECTS, "bootstrap-token.yaml", tokens);
        Ok(())
    }

    fn proxy(&mut self, server: &str) -> Result<(), PkiError> {
        self.put_kubeconfig("kube-proxy", "kubeconfig", server, "kube-proxy")
    }

    fn secure_host(&mut self) -> Result<(), PkiError> {
        self.host_ca()?;
        let user = User::File(KUBELET_CLIENT);
        let file = self.host_kubeconfig(&Names::local_api_url(), user);
        self.put_fixed("host/kubelet/kubeconfig", file);
        Ok(())
    }

    fn worker_host(&mut self) -> Result<(), PkiError> {
        self.host_ca()?;
        let user = User::Token(&self.pki.bootstrap.current);
        let file = self.host_kubeconfig(&self.names.internal_api_url(), user);
        self.put_fixed("host/kubelet/bootstrap.kubeconfig", file);
        Ok(())
    }

    /// Whom the kubelet lets in: the API server, whose certificate the cluster's authority issued.
    fn host_ca(&mut self) -> Result<(), PkiError> {
        let cluster = self.bundle(AuthorityName::Cluster)?;
        self.put_fixed("host/kubelet/ca.crt", bytes_of(&cluster));
        Ok(())
    }

    fn authority(&self, name: AuthorityName) -> Result<&'a Rotating<Authority>, PkiError> {
        let found = self.pki.authorities.get(&name);
        found.ok_or_else(|| PkiError::Missing(format!("{name} authority")))
    }

    fn bundle(&self, name: AuthorityName) -> Result<String, PkiError> {
        Ok(self.authority(name)?.trust_bundle())
    }

    fn leaf(&self, name: &str) -> Result<&'a Certified, PkiError> {
        let found = self.pki.leaves.get(name);
        found.ok_or_else(|| PkiError::Missing(format!("certificate {name}")))
    }

    fn kubeconfig(&self, server: &str, user: User<'_>) -> Result<SecretBytes, PkiError> {
        let trusted = self.bundle(AuthorityName::Cluster)?;
        let trust = Trust::Embedded(&trusted);
        Ok(kubeconfig(&self.names.environment, server, trust, user))
    }

    fn host_kubeconfig(&self, server: &str, user: User<'_>) -> SecretBytes {
        let trust = Trust::File(HOST_CA);
        kubeconfig(&self.names.environment, server, trust, user)
    }

    fn put_kubeconfig(
        &mut self,
        pod: &str,
        name: &str,
        server: &str,
        leaf: &str,
    ) -> Result<(), PkiError> {
        let file = self.kubeconfig(server, User::Certificate(self.leaf(leaf)?))?;
        self.put(pod, name, file);
        Ok(())
    }

    /// `NAME.crt` and `NAME.key`.
    fn put_leaf(&mut self, pod: &str, name: &str, leaf: &str) -> Result<(), PkiError> {
        let leaf = self.leaf(leaf)?;
        self.put(pod, &format!("{name}.crt"), bytes_of(&leaf.certificate));
        self.put(pod, &format!("{name}.key"), bytes_of(leaf.key.expose()));
        Ok(())
    }

    fn put(&mut self, pod: &str, name: &str, bytes: SecretBytes) {
        insert(&mut self.made.pods, pod, name, bytes);
    }

    fn put_fixed(&mut self, path: &str, bytes: SecretBytes) {
        self.made.fixed.insert(path.to_owned(), roots(bytes));
    }
}

fn insert(into: &mut Secrets, pod: &str, name: &str, bytes: SecretBytes) {
    into.entry(pod.to_owned())
        .or_default()
        .insert(name.to_owned(), roots(bytes));
}

fn roots(bytes: SecretBytes) -> SecretFile {
    SecretFile {
        bytes,
        mode: MODE,
        owner: (0, 0),
    }
}

fn bytes_of(text: &str) -> SecretBytes {
    SecretBytes::new(text.as_bytes().to_vec())
}
