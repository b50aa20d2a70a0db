//! The secrets of the PKI that are no certificates.

use rand::Rng as _;
use shared::documents::{BootstrapToken, EncryptionKey, KeyPair};
use shared::secret::{SecretBytes, SecretText};

use super::{PkiError, making};

/// What bootstrap tokens are made of (Kubernetes: `[a-z0-9]{6}\.[a-z0-9]{16}`).
const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const TOKEN_ID: usize = 6;
const TOKEN_SECRET: usize = 16;

/// A fresh key pair for service accounts: ECDSA P-256, which the API server signs with as ES256.
///
/// # Errors
/// What rcgen said.
pub fn new_key_pair() -> Result<KeyPair, PkiError> {
    let pair = rcgen::KeyPair::generate().map_err(making("the service accounts' key"))?;
    Ok(KeyPair {
        public: pair.public_key_pem(),
        key: SecretText::new(pair.serialize_pem()),
    })
}

/// A fresh bootstrap token: 82 random bits in its secret part.
#[must_use]
pub fn new_bootstrap_token() -> BootstrapToken {
    BootstrapToken {
        id: random_text(TOKEN_ID),
        secret: SecretText::new(random_text(TOKEN_SECRET)),
    }
}

/// A fresh key for encryption at rest. Its name is random, so that no two keys of an environment ever share one.
#[must_use]
pub fn new_encryption_key() -> EncryptionKey {
    EncryptionKey {
        name: format!("key-{}", random_text(8)),
        secret: SecretBytes::new(rand::random::<[u8; 32]>().to_vec()),
    }
}

fn random_text(length: usize) -> String {
    let mut random = rand::rng();
    (0..length)
        .filter_map(|_| ALPHABET.get(random.random_range(0..ALPHABET.len())))
        .map(|byte| char::from(*byte))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_what_kubernetes_takes() {
        let token = new_bootstrap_token();
        let fits = |text: &str| text.bytes().all(|b| ALPHABET.contains(&b));
        assert_eq!(
            (token.id.len(), token.secret.expose().len()),
            (TOKEN_ID, TOKEN_SECRET)
        );
        assert!(fits(&token.id) && fits(token.secret.expose()));
        assert_ne!(token, new_bootstrap_token());
    }

    #[test]
    fn encryption_keys_have_32_bytes_and_names_of_their_own() {
        let (one, two) = (new_encryption_key(), new_encryption_key());
        assert_eq!(one.secret.len(), 32);
        assert_ne!(one.name, two.name);
        assert_ne!(one.secret, two.secret);
    }
}
