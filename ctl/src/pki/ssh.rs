//! An ssh key pair in OpenSSH's formats: `authorized_keys` lines as in RFC 4253 §6.6 and RFC 8709, private files as in
//! OpenSSH's `PROTOCOL.key`. A few length-prefixed fields: the crates that write them bring a dozen others along.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use shared::documents::SshKey;
use shared::secret::SecretText;
use zeroize::Zeroizing;

use super::PkiError;

const KIND: &[u8] = b"ssh-ed25519";
const MAGIC: &[u8] = b"openssh-key-v1\0";
/// The private part is padded to the block length of the cipher, which for "none" is this.
const BLOCK: usize = 8;
const LINE: usize = 70;

/// A fresh Ed25519 key pair, without a passphrase: the keyring is what encrypts it.
///
/// # Errors
/// [`PkiError::SshKey`].
pub fn new_ssh_key(comment: &str) -> Result<SshKey, PkiError> {
    let seed = Zeroizing::new(rand::random::<[u8; 32]>());
    let pair =
        Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).map_err(|_| PkiError::SshKey)?;
    let public = pair.public_key().as_ref();
    let blob = fields(&[KIND, public]);
    // The same number twice: whoever decrypts sees from it that the passphrase was right.
    let check: [u8; 4] = rand::random();
    let secret = Zeroizing::new([seed.as_slice(), public].concat());
    let mut private = Zeroizing::new([check, check].concat());
    private.extend_from_slice(&Zeroizing::new(fields(&[
        KIND,
        public,
        &secret,
        comment.as_bytes(),
    ])));
    let padding = (BLOCK - private.len() % BLOCK) % BLOCK;
    private.extend((1..).take(padding));
    let mut file = Zeroizing::new(MAGIC.to_vec());
    // Cipher, key derivation and its options: none.
    file.extend_from_slice(&fields(&[b"none", b"none", b""]));
    file.extend_from_slice(&1_u32.to_be_bytes());
    file.extend_from_slice(&Zeroizing::new(fields(&[&blob, &private])));
    Ok(SshKey {
        public: format!("ssh-ed25519 {} {comment}", STANDARD.encode(&blob)),
        private: SecretText::new(armoured(&file)),
    })
}

/// Each part after its length.
fn fields(parts: &[&[u8]]) -> Vec<u8> {
    let mut all = Vec::new();
    for part in parts {
        // Every part here has a few hundred bytes at most.
        let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
        all.extend_from_slice(&length.to_be_bytes());
        all.extend_from_slice(part);
    }
    all
}

fn armoured(file: &[u8]) -> String {
    let text = Zeroizing::new(STANDARD.encode(file));
    let mut all = String::from("-----BEGIN OPENSSH PRIVATE KEY-----\n");
    for (at, c) in text.chars().enumerate() {
        if at > 0 && at % LINE == 0 {
            all.push('\n');
        }
        all.push(c);
    }
    all.push_str("\n-----END OPENSSH PRIVATE KEY-----\n");
    all
}
