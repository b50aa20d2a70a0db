//! The public half of a private key, to tell whether a certificate belongs to it.

use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair,
};

/// The public key in the form it has inside a certificate's subject public key: an uncompressed point for ECDSA, a
/// PKCS#1 `RSAPublicKey` for RSA, the 32 bytes for Ed25519.
///
/// `label` is the PEM label. `None` when the bytes are no such key, or of a kind that the platform does not use
/// (P-256, P-384, RSA and Ed25519 are).
pub(crate) fn public_half(label: &str, der: &[u8]) -> Option<Vec<u8>> {
    match label {
        "PRIVATE KEY" => ecdsa(|algorithm| EcdsaKeyPair::from_pkcs8(algorithm, der).ok())
            .or_else(|| {
                RsaKeyPair::from_pkcs8(der)
                    .ok()
                    .map(|pair| pair.public_key().as_ref().to_vec())
            })
            .or_else(|| {
                // "Maybe unchecked": OpenSSL writes Ed25519 keys without the public half.
                Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
                    .ok()
                    .map(|pair| pair.public_key().as_ref().to_vec())
            }),
        "EC PRIVATE KEY" => {
            ecdsa(|algorithm| EcdsaKeyPair::from_private_key_der(algorithm, der).ok())
        }
        "RSA PRIVATE KEY" => RsaKeyPair::from_der(der)
            .ok()
            .map(|pair| pair.public_key().as_ref().to_vec()),
        _ => None,
    }
}

fn ecdsa(
    parse: impl Fn(&'static aws_lc_rs::signature::EcdsaSigningAlgorithm) -> Option<EcdsaKeyPair>,
) -> Option<Vec<u8>> {
    let pair = parse(&ECDSA_P256_SHA256_ASN1_SIGNING)
        .or_else(|| parse(&ECDSA_P384_SHA384_ASN1_SIGNING))?;
    Some(pair.public_key().as_ref().to_vec())
}
