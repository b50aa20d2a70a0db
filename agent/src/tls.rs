//! What a TLS client of ours comes with and trusts, from PEM text that a release brought.

use std::sync::Arc;

use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A PEM file: what to call it in an error, and its text.
pub type Pem<'a> = (&'a str, &'a [u8]);

/// A client that trusts the certificates of `trusted` alone (nobody, where there is none) and, with `own`, comes with
/// that certificate chain and key.
///
/// # Errors
/// Which file could not be read as what it should be; never a byte of it.
pub fn client_config(
    trusted: Option<Pem<'_>>,
    own: Option<(Pem<'_>, Pem<'_>)>,
) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted.map(certificates).transpose()?.unwrap_or_default() {
        roots.add(certificate).map_err(|e| e.to_string())?;
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots);
    let Some((certificate, key)) = own else {
        return Ok(config.with_no_client_auth());
    };
    let of_key =
        PrivateKeyDer::from_pem_slice(key.1).map_err(|_| format!("{}: no private key", key.0))?;
    config
        .with_client_auth_cert(certificates(certificate)?, of_key)
        .map_err(|e| e.to_string())
}

fn certificates(file: Pem<'_>) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(file.1).collect();
    let read = read.map_err(|e| format!("{}: {e}", file.0))?;
    match read.is_empty() {
        true => Err(format!("{}: no certificate", file.0)),
        false => Ok(read),
    }
}
