//! PEM files of a secret directory: each certificate parses, is valid now, and belongs to the key beside it.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;
use zeroize::Zeroize;

use super::private_key::public_half;

/// One thing that is wrong with a file of a secret directory. It never holds a part of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertProblem {
    /// The directory, as the caller names it, such as `secure/etcd`.
    pub dir: String,
    /// The file in it.
    pub file: String,
    /// What is wrong.
    pub kind: CertProblemKind,
}

/// What can be wrong with a certificate or a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertProblemKind {
    /// A `.crt` or `.pem` file without a PEM certificate in it.
    NoCertificate,
    /// A PEM block can't be read.
    BadPem,
    /// A block says it is a certificate and is none.
    BadCertificate,
    /// A block says it is a private key and is none of P-256, P-384, RSA or Ed25519.
    BadKey,
    /// Valid only from a later time on.
    NotYetValid {
        /// When it begins.
        not_before: Timestamp,
    },
    /// No longer valid.
    Expired {
        /// When it ended.
        not_after: Timestamp,
    },
    /// A `NAME.crt` whose key is not the one in `NAME.key`.
    KeyMismatch {
        /// The key's file.
        key_file: String,
    },
}

impl fmt::Display for CertProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}: ", self.dir, self.file)?;
        self.kind.fmt(f)
    }
}

impl fmt::Display for CertProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate => f.write_str("holds no PEM certificate"),
            Self::BadPem => f.write_str("holds a PEM block that can't be read"),
            Self::BadCertificate => f.write_str("holds a certificate that can't be parsed"),
            Self::BadKey => f.write_str("holds a private key that is none of P-256, P-384, RSA (2048 bits or more) or Ed25519"),
            Self::NotYetValid { not_before } => write!(f, "the certificate is valid only from {not_before} on"),
            Self::Expired { not_after } => write!(f, "the certificate expired at {not_after}"),
            Self::KeyMismatch { key_file } => write!(f, "the certificate does not belong to the key in {key_file}"),
        }
    }
}

impl std::error::Error for CertProblem {}

/// What was found in one secret directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertReport {
    /// Everything that is wrong.
    pub problems: Vec<CertProblem>,
    /// When the first of the certificates expires (or did); `None` when there is none.
    pub earliest_expiry: Option<Timestamp>,
}

/// Checks the PEM files among `files`, a pod's secret directory, at the time `now`.
///
/// `NAME.crt`'s first certificate must belong to `NAME.key`, where both exist. Files of other kinds are left alone,
/// except that a certificate in any file must be valid.
pub fn check_pem_files<B: AsRef<[u8]>>(
    dir_name: &str,
    files: &BTreeMap<String, B>,
    now: Timestamp,
) -> CertReport {
    let mut report = CertReport::default();
    for (name, bytes) in files {
        let mut contents = read(bytes.as_ref());
        let expects_certificate = name.ends_with(".crt") || name.ends_with(".pem");
        if expects_certificate
            && contents.certificates.is_empty()
            && contents.problems.is_empty()
            && !contents.has_key
        {
            contents.problems.push(CertProblemKind::NoCertificate);
        }
        for certificate in &contents.certificates {
            report.earliest_expiry = Some(
                report
                    .earliest_expiry
                    .map_or(certificate.not_after, |at| at.min(certificate.not_after)),
            );
            if now < certificate.not_before {
                contents.problems.push(CertProblemKind::NotYetValid {
                    not_before: certificate.not_before,
                });
            }
            if now > certificate.not_after {
                contents.problems.push(CertProblemKind::Expired {
                    not_after: certificate.not_after,
                });
            }
        }
        if let Some(stem) = name.strip_suffix(".crt") {
            let key_file = format!("{stem}.key");
            let leaf = contents.certificates.first();
            let key = files
                .get(&key_file)
                .and_then(|bytes| read(bytes.as_ref()).public_key);
            if let (Some(leaf), Some(key)) = (leaf, key)
                && leaf.public_key != key
            {
                contents
                    .problems
                    .push(CertProblemKind::KeyMismatch { key_file });
            }
        }
        let problem = |kind| CertProblem {
            dir: dir_name.to_owned(),
            file: name.clone(),
            kind,
        };
        report
            .problems
            .extend(contents.problems.into_iter().map(problem));
    }
    report
}

/// `-----BEGIN CERTIFICATE-----` in base64: how a certificate begins inside a kubeconfig.
const EMBEDDED: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t";

/// When the first of the certificates in a file expires, of those in PEM and those that it carries in base64 as a
/// kubeconfig does; none where it has none that can be read.
#[must_use]
pub fn earliest_expiry(file: &[u8]) -> Option<Timestamp> {
    let first = |pem: &[u8]| read(pem).certificates.iter().map(|c| c.not_after).min();
    let text = std::str::from_utf8(file).unwrap_or_default();
    let embedded = text.match_indices(EMBEDDED).filter_map(|(at, _)| {
        let rest = text.get(at..)?;
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+/=".contains(c)));
        let pem = STANDARD
            .decode(rest.get(..end.unwrap_or(rest.len()))?)
            .ok()?;
        first(&pem)
    });
    embedded.chain(first(file)).min()
}

struct Certificate {
    not_before: Timestamp,
    not_after: Timestamp,
    public_key: Vec<u8>,
}

#[derive(Default)]
struct Contents {
    certificates: Vec<Certificate>,
    /// The public half of the first private key.
    public_key: Option<Vec<u8>>,
    has_key: bool,
    problems: Vec<CertProblemKind>,
}

fn read(bytes: &[u8]) -> Contents {
    let mut contents = Contents::default();
    for block in Pem::iter_from_buffer(bytes) {
        let Ok(mut block) = block else {
            contents.problems.push(CertProblemKind::BadPem);
            // What follows a broken block can't be told apart from it.
            break;
        };
        if block.label == "CERTIFICATE" {
            match certificate(&block.contents) {
                Some(certificate) => contents.certificates.push(certificate),
                None => contents.problems.push(CertProblemKind::BadCertificate),
            }
        } else if block.label.ends_with("PRIVATE KEY") {
            contents.has_key = true;
            match public_half(&block.label, &block.contents) {
                Some(key) => contents.public_key = contents.public_key.or(Some(key)),
                None => contents.problems.push(CertProblemKind::BadKey),
            }
        }
        block.contents.zeroize();
    }
    contents
}

fn certificate(der: &[u8]) -> Option<Certificate> {
    let (rest, parsed) = X509Certificate::from_der(der).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let validity = parsed.validity();
    Some(Certificate {
        not_before: Timestamp::from_second(validity.not_before.timestamp()).ok()?,
        not_after: Timestamp::from_second(validity.not_after.timestamp()).ok()?,
        public_key: parsed.public_key().subject_public_key.data.to_vec(),
    })
}

#[cfg(test)]
mod tests;
