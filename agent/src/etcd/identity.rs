//! Whom a client of etcd trusts and what it comes with, as the release brings it.

use std::fmt;
use std::sync::Arc;

use shared::bundle::Release;
use shared::names::EntryPath;
use shared::secret::SecretBytes;
use tokio_rustls::rustls::ClientConfig;

use crate::tls;

/// Where the release has what a client of etcd needs: it is the API server's.
pub(super) const FILES: [&str; 3] = [
    "secrets/kube-apiserver/etcd-ca.crt",
    "secrets/kube-apiserver/etcd-client.crt",
    "secrets/kube-apiserver/etcd-client.key",
];

/// Whom a client of etcd trusts and what it comes with.
#[derive(Clone)]
pub struct EtcdIdentity {
    pub(super) tls: Arc<ClientConfig>,
}

impl EtcdIdentity {
    /// From PEM text: the authority, our certificate, its key.
    ///
    /// # Errors
    /// Which of the three is not what it should be.
    pub fn from_pem(ca: &[u8], certificate: &[u8], key: &[u8]) -> Result<Self, String> {
        let [of_ca, of_certificate, of_key] = FILES;
        let own = ((of_certificate, certificate), (of_key, key));
        let mut tls = tls::client_config(Some((of_ca, ca)), Some(own))?;
        // The gateway is on HTTP/1.1; on HTTP/2 etcd speaks gRPC as well.
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { tls: Arc::new(tls) })
    }

    /// With the files that a release of the secure group brings for its API server; none where the release has none of
    /// them, which no release of a group without etcd has.
    ///
    /// # Errors
    /// Which file is missing or is not what it should be.
    pub fn from_release(release: &Release) -> Result<Option<Self>, String> {
        let found = FILES.map(|path| {
            let path: EntryPath = path.parse().ok()?;
            release.bytes(&path).map(SecretBytes::expose)
        });
        match found {
            [None, None, None] => Ok(None),
            [Some(ca), Some(certificate), Some(key)] => {
                Self::from_pem(ca, certificate, key).map(Some)
            }
            found => {
                let missing = FILES.iter().zip(found).find(|(_, bytes)| bytes.is_none());
                let missing = missing.map_or("", |(path, _)| *path);
                Err(format!("the release has no {missing}"))
            }
        }
    }
}

impl fmt::Debug for EtcdIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[etcd client identity]")
    }
}
