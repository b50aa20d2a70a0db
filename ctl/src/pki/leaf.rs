//! The leaf certificates: which there are, and how one is issued.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use shared::documents::{Authority, AuthorityName, Certified, Pki};
use shared::secret::SecretText;

use super::authority::{issuer, serial, set_validity};
use super::names::Names;
use super::{BACKDATE, LEAF_LIFE, PkiError, REWRITER_LIFE, inspect, making};

/// What a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// To serve.
    Server,
    /// To come as a client.
    Client,
    /// Both: etcd's own gateway comes to its server with the server's certificate.
    Both,
}

/// A certificate as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeafSpec {
    /// Its name in the keyring.
    pub name: &'static str,
    /// Who issues it.
    pub authority: AuthorityName,
    /// The common name: for Kubernetes the user.
    pub common_name: String,
    /// The organisation: for Kubernetes the user's group.
    pub organization: Option<String>,
    /// The DNS names it is for.
    pub dns_names: BTreeSet<String>,
    /// The addresses it is for.
    pub addresses: BTreeSet<IpAddr>,
    /// What it may be used for.
    pub usage: Usage,
}

/// Every certificate of an environment, each name once.
#[must_use]
pub fn specs(names: &Names) -> Vec<LeafSpec> {
    use AuthorityName::{Cluster, Etcd, FrontProxy};
    let machines = names.machines();
    let api_dns = [
        names.public_api(),
        names.internal_api(),
        "kubernetes".to_owned(),
        "kubernetes.default".to_owned(),
        "kubernetes.default.svc".to_owned(),
        format!("kubernetes.default.svc.{}", names.cluster_domain),
        machines.clone(),
    ];
    vec![
        server("etcd-server", Etcd, "etcd", Usage::Both)
            .named([machines.clone()])
            .on_loopback(),
        // What a peer listens with. Peers advertise their machines' DNS names.
        server("etcd-peer", Etcd, "etcd-peer", Usage::Both)
            .named([machines])
            .on_loopback(),
        // What a peer comes with: etcd looks the address of a caller whose certificate has names up in reverse, and
        // asks nothing of one without.
        client("etcd-peer-client", Etcd, "etcd-peer"),
        client("etcd-client", Etcd, "kube-apiserver-etcd-client"),
        server("apiserver", Cluster, "kube-apiserver", Usage::Server)
            .named(api_dns)
            .at(IpAddr::V4(names.service_ip))
            .on_loopback(),
        client(
            "apiserver-kubelet-client",
            Cluster,
            "kube-apiserver-kubelet-client",
        ),
        client(
            "kube-controller-manager",
            Cluster,
            "system:kube-controller-manager",
        ),
        client("kube-scheduler", Cluster, "system:kube-scheduler"),
        client("kube-proxy", Cluster, "system:kube-proxy"),
        client("addons", Cluster, "platform:addons").member_of("platform:addons"),
        // Only for the step that binds the user above to its role: that group passes every authorisation.
        client("addons-bootstrap", Cluster, "platform:addons-bootstrap")
            .member_of("system:masters"),
        client("admin", Cluster, "platform:admin").member_of("system:masters"),
        // --requestheader-allowed-names has this name.
        client("front-proxy-client", FrontProxy, "front-proxy-client"),
    ]
}

/// The certificate with which agents have what is stored rewritten: made for each order, and for as long as that may take.
///
/// # Errors
/// A keyring that was not completed or is damaged.
pub fn issue_rewriter(pki: &Pki, now: Timestamp) -> Result<Certified, PkiError> {
    let name = AuthorityName::Cluster;
    let authority = pki.authorities.get(&name);
    let authority = authority.ok_or_else(|| PkiError::Missing(format!("{name} authority")))?;
    let spec = client("encryption-rewriter", name, "platform:encryption");
    issue_for(&spec, authority.issuer(), now, REWRITER_LIFE)
}

/// Issues a certificate with a fresh key.
///
/// # Errors
/// A damaged authority, or what rcgen said.
pub fn issue(
    spec: &LeafSpec,
    authority: &Authority,
    now: Timestamp,
) -> Result<Certified, PkiError> {
    issue_for(spec, authority, now, LEAF_LIFE)
}

/// As [`issue`], for a life of one's own; it never outlives its authority.
///
/// # Errors
/// As [`issue`].
pub fn issue_for(
    spec: &LeafSpec,
    authority: &Authority,
    now: Timestamp,
    life: SignedDuration,
) -> Result<Certified, PkiError> {
    let what = || format!("the certificate {}", spec.name);
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    if let Some(group) = &spec.organization {
        subject.push(DnType::OrganizationName, group.as_str());
    }
    subject.push(DnType::CommonName, spec.common_name.as_str());
    params.distinguished_name = subject;
    params.serial_number = Some(serial());
    for name in &spec.dns_names {
        let name = name.as_str().try_into().map_err(making(what()))?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    let addresses = spec.addresses.iter().copied();
    params
        .subject_alt_names
        .extend(addresses.map(SanType::IpAddress));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = spec.usage.purposes();
    params.use_authority_key_identifier_extension = true;
    let facts =
        inspect(&authority.certificate).ok_or_else(|| PkiError::Key(authority.name.clone()))?;
    let ends = (now + life).min(facts.not_after);
    let begins = (now - BACKDATE).max(facts.not_before);
    set_validity(&mut params, begins, ends)?;
    let key = KeyPair::generate().map_err(making(what()))?;
    let certificate = params
        .signed_by(&key, &issuer(authority)?)
        .map_err(making(what()))?
        .pem();
    Ok(Certified {
        certificate,
        key: SecretText::new(key.serialize_pem()),
    })
}

fn client(name: &'static str, authority: AuthorityName, common_name: &str) -> LeafSpec {
    server(name, authority, common_name, Usage::Client)
}

fn server(
    name: &'static str,
    authority: AuthorityName,
    common_name: &str,
    usage: Usage,
) -> LeafSpec {
    LeafSpec {
        name,
        authority,
        common_name: common_name.to_owned(),
        organization: None,
        dns_names: BTreeSet::new(),
        addresses: BTreeSet::new(),
        usage,
    }
}

// === impl LeafSpec ===

impl LeafSpec {
    fn named(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.dns_names.extend(names);
        self
    }

    fn at(mut self, address: IpAddr) -> Self {
        self.addresses.insert(address);
        self
    }

    fn on_loopback(self) -> Self {
        self.named(["localhost".to_owned()])
            .at(IpAddr::V4(Ipv4Addr::LOCALHOST))
            .at(IpAddr::V6(Ipv6Addr::LOCALHOST))
    }

    fn member_of(mut self, group: &str) -> Self {
        self.organization = Some(group.to_owned());
        self
    }
}

// === impl Usage ===

impl Usage {
    /// Whether it may serve, and whether it may come as a client.
    #[must_use]
    pub const fn sides(self) -> (bool, bool) {
        match self {
            Self::Server => (true, false),
            Self::Client => (false, true),
            Self::Both => (true, true),
        }
    }

    fn purposes(self) -> Vec<ExtendedKeyUsagePurpose> {
        let (serves, comes) = self.sides();
        let server = serves.then_some(ExtendedKeyUsagePurpose::ServerAuth);
        let client = comes.then_some(ExtendedKeyUsagePurpose::ClientAuth);
        server.into_iter().chain(client).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::pki) fn names() -> Names {
        Names {
            environment: "dev".to_owned(),
            zone: "example.com".to_owned(),
            region: "eu-west-1".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            service_ip: Ipv4Addr::new(10, 101, 0, 1),
        }
    }

    #[test]
    fn every_name_stands_once_and_clients_have_no_names_to_be_looked_up() {
        let all = specs(&names());
        let unique: BTreeSet<&str> = all.iter().map(|s| s.name).collect();
        assert_eq!(unique.len(), all.len());
        for spec in all {
            let (serves, _) = spec.usage.sides();
            assert_eq!(serves, !spec.dns_names.is_empty(), "{}", spec.name);
            assert_eq!(serves, !spec.addresses.is_empty(), "{}", spec.name);
        }
    }

    #[test]
    fn the_api_server_answers_to_every_name_it_is_called() {
        let all = specs(&names());
        let api = all.iter().find(|s| s.name == "apiserver").unwrap();
        let dns: Vec<&str> = api.dns_names.iter().map(String::as_str).collect();
        assert_eq!(
            dns,
            [
                "*.eu-west-1.compute.internal",
                "kube-internal.example.com",
                "kube.example.com",
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
                "localhost",
            ]
        );
        let addresses: Vec<String> = api.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.101.0.1", "127.0.0.1", "::1"]);
    }
}
