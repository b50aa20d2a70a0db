//! The client certificate of a kubelet that must not wait for an API server: issued on the node, from the CA whose key
//! the node's controller manager has anyway.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use shared::digest::Sha256Digest;
use shared::durable::{self, Attributes};
use shared::secret::SecretBytes;
use x509_parser::pem::Pem;

use crate::disk::{DiskError, create_directory};

/// The CA's certificate and key among a release's secrets, where the controller manager reads them too.
pub const AUTHORITY: [&str; 2] = [
    "secrets/kube-controller-manager/kubelet-client-ca.crt",
    "secrets/kube-controller-manager/kubelet-client-ca.key",
];

/// How long a certificate lives.
const LIFE: SignedDuration = SignedDuration::from_hours(24 * 90);
/// How far before now it begins: the API server's clock may be behind.
const BACKDATED: SignedDuration = SignedDuration::from_hours(1);
/// Begins the line that names the CA certificate's digest; PEM readers skip it.
const ISSUED_BY: &str = "# issued by ";

/// What is known of the certificate on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// Digest of the CA's certificate file.
    pub authority: Sha256Digest,
    /// Its common name.
    pub name: String,
    /// It begins.
    pub not_before: Timestamp,
    /// It ends.
    pub not_after: Timestamp,
}

/// Why a certificate is issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// There is none that can be read.
    Absent,
    /// The CA is another one.
    Authority,
    /// The node has another name.
    Name,
    /// A third of its life or less is left.
    Age,
    /// It begins in the future: it was issued by a wrong clock.
    Clock,
}

/// No certificate could be issued.
#[derive(Debug, thiserror::Error)]
pub enum KubeletError {
    /// The CA's pair in the release cannot be used.
    #[error("the kubelet client CA of the release cannot be used: {0}")]
    Authority(String),
    /// Making it failed.
    #[error("cannot issue the kubelet's client certificate")]
    Issue(#[source] rcgen::Error),
    /// The disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// The kubelet's client certificate.
#[derive(Debug)]
pub struct KubeletCertificate {
    path: PathBuf,
    node_name: String,
    /// The certificate and the inode it was seen in.
    known: Option<(Current, u64)>,
}

/// Whether a certificate is due.
#[must_use]
pub fn due(
    current: Option<&Current>,
    authority: &Sha256Digest,
    name: &str,
    now: Timestamp,
) -> Option<Due> {
    let Some(current) = current else {
        return Some(Due::Absent);
    };
    let life = current.not_after.duration_since(current.not_before);
    let left = current.not_after.duration_since(now);
    if current.authority != *authority {
        Some(Due::Authority)
    } else if current.name != name {
        Some(Due::Name)
    } else if now < current.not_before {
        Some(Due::Clock)
    } else if left <= life / 3 {
        Some(Due::Age)
    } else {
        None
    }
}

// === impl KubeletCertificate ===

impl KubeletCertificate {
    /// The certificate of `node_name`, kept in `kubelet/kubelet-client.pem` below `state`.
    #[must_use]
    pub fn new(state: &Path, node_name: &str) -> Self {
        Self {
            path: state.join("kubelet/kubelet-client.pem"),
            node_name: format!("system:node:{node_name}"),
            known: None,
        }
    }

    /// Whether a look at the release's files is worth it: the file was touched, or its time has come.
    #[must_use]
    pub fn is_worth_a_look(&self, now: Timestamp) -> bool {
        let Some((current, inode)) = &self.known else {
            return true;
        };
        let there = std::fs::symlink_metadata(&self.path).map(|m| m.ino());
        let same = there.is_ok_and(|i| i == *inode);
        !same || due(Some(current), &current.authority, &self.node_name, now).is_some()
    }

    /// When the certificate on the disk ends, as far as it was looked at.
    #[must_use]
    pub fn expires(&self) -> Option<Timestamp> {
        self.known.as_ref().map(|(current, _)| current.not_after)
    }

    /// Issues a certificate where one is due; says why it did. Without a pair in the release there is nothing to do. The
    /// key is kept.
    ///
    /// # Errors
    /// [`KubeletError`]; the certificate on the disk stays then.
    pub fn care(
        &mut self,
        pair: Option<(SecretBytes, SecretBytes)>,
        now: Timestamp,
    ) -> Result<Option<Due>, KubeletError> {
        let Some((certificate, key)) = pair else {
            return Ok(None);
        };
        let authority = Sha256Digest::of(certificate.expose());
        let there = read(&self.path)?;
        let current = there.as_ref().and_then(|pem| parse(pem));
        let why = due(current.as_ref(), &authority, &self.node_name, now);
        if why.is_some() {
            let pem = self.issue(
                &certificate,
                &key,
                authority,
                there.as_ref().map(|t| t.as_slice()),
                now,
            )?;
            if let Some(directory) = self.path.parent() {
                create_directory(directory, 0o700)?;
            }
            durable::write_file(&self.path, pem.expose(), Attributes::mode(0o600))
                .map_err(DiskError::from)?;
        }
        let now_there = read(&self.path)?;
        let inode = std::fs::symlink_metadata(&self.path).map(|m| m.ino());
        self.known = now_there
            .as_ref()
            .and_then(|pem| parse(pem))
            .zip(inode.ok());
        Ok(why)
    }

    fn issue(
        &self,
        certificate: &SecretBytes,
        key: &SecretBytes,
        authority: Sha256Digest,
        former: Option<&[u8]>,
        now: Timestamp,
    ) -> Result<SecretBytes, KubeletError> {
        let unusable = |why: &str| KubeletError::Authority(why.to_owned());
        let text = |bytes: &SecretBytes| String::from_utf8(bytes.expose().to_vec()).ok();
        let ca = text(certificate).ok_or_else(|| unusable("its certificate is no PEM"))?;
        let ca_key = zeroize::Zeroizing::new(text(key).unwrap_or_default());
        let key_pair =
            KeyPair::from_pem(&ca_key).map_err(|_| unusable("its key does not parse"))?;
        let (from, until) = validity(certificate.expose())
            .ok_or_else(|| unusable("its certificate does not parse"))?;
        if now < from || until <= now {
            return Err(unusable(&format!(
                "it is valid from {from} to {until}, and it is {now}"
            )));
        }
        let issuer = Issuer::from_ca_cert_pem(&ca, key_pair).map_err(KubeletError::Issue)?;

        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "system:nodes");
        name.push(DnType::CommonName, self.node_name.clone());
        params.distinguished_name = name;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let mut serial: [u8; 16] = rand::random();
        // Positive, and of full length (RFC 5280, 4.1.2.2).
        if let Some(first) = serial.first_mut() {
            *first = (*first & 0x7f) | 0x40;
        }
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let at = |time: Timestamp| {
            let seconds = u64::try_from(time.as_second()).unwrap_or(0);
            date_time_ymd(1970, 1, 1) + std::time::Duration::from_secs(seconds)
        };
        params.not_before = at(now.checked_sub(BACKDATED).unwrap_or(from).max(from));
        params.not_after = at(now.checked_add(LIFE).unwrap_or(until).min(until));

        let own = match former.and_then(key_part) {
            Some(own) => own,
            None => KeyPair::generate().map_err(KubeletError::Issue)?,
        };
        let signed = params
            .signed_by(&own, &issuer)
            .map_err(KubeletError::Issue)?;
        let own_pem = zeroize::Zeroizing::new(own.serialize_pem());
        let pem = format!("{ISSUED_BY}{authority}\n{}{}", signed.pem(), *own_pem);
        Ok(SecretBytes::new(pem.into_bytes()))
    }
}

/// The private key's block of a file that holds a certificate too.
fn key_part(pem: &[u8]) -> Option<KeyPair> {
    let text = std::str::from_utf8(pem).ok()?;
    let begin = text.find("-----BEGIN PRIVATE KEY-----")?;
    KeyPair::from_pem(text.get(begin..)?).ok()
}

fn read(path: &Path) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, DiskError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(zeroize::Zeroizing::new(bytes))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(DiskError::io("read", path)(e)),
    }
}

fn validity(pem: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let block = Pem::iter_from_buffer(pem)
        .filter_map(Result::ok)
        .find(|p| p.label == "CERTIFICATE")?;
    let certificate = block.parse_x509().ok()?;
    let validity = certificate.validity();
    Some((
        Timestamp::from_second(validity.not_before.timestamp()).ok()?,
        Timestamp::from_second(validity.not_after.timestamp()).ok()?,
    ))
}

/// What a file of ours holds; none where it is no whole pair.
fn parse(pem: &[u8]) -> Option<Current> {
    let text = std::str::from_utf8(pem).ok()?;
    let authority = text.lines().next()?.strip_prefix(ISSUED_BY)?.parse().ok()?;
    key_part(pem)?;
    let (not_before, not_after) = validity(pem)?;
    let block = Pem::iter_from_buffer(pem)
        .filter_map(Result::ok)
        .find(|p| p.label == "CERTIFICATE")?;
    let certificate = block.parse_x509().ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    Some(Current {
        authority,
        name: name.as_str().ok()?.to_owned(),
        not_before,
        not_after,
    })
}

impl fmt::Display for Due {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "there was none",
            Self::Authority => "the CA is another one",
            Self::Name => "the node has another name",
            Self::Age => "a third of its life was left",
            Self::Clock => "it began in the future",
        })
    }
}

#[cfg(test)]
mod tests;
