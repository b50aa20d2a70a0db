//! The encryption around the plain bundle: age, to the release's own identity and the recovery recipients (§5.2).

use std::io::{self, Read as _, Write as _};
use std::str::FromStr as _;

use age::secrecy::ExposeSecret as _;
use age::x25519::{Identity, Recipient};

use crate::secret::{SecretBytes, SecretText};

/// A failure to encrypt or decrypt. No variant carries content or keys.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A recipient that is not an age X25519 recipient.
    #[error("{0:?} is not an age recipient (they begin with age1)")]
    Recipient(String),
    /// An identity that does not parse.
    #[error("the age identity does not parse")]
    Identity,
    /// age refused to encrypt.
    #[error("cannot encrypt")]
    Encrypt(#[source] age::EncryptError),
    /// The object is not an age file, or not for this identity, or was changed.
    #[error("cannot decrypt")]
    Decrypt(#[source] age::DecryptError),
    /// The encrypted stream is damaged.
    #[error("the encrypted stream is damaged")]
    Stream(#[source] io::Error),
    /// The plaintext is longer than its limit.
    #[error("the plaintext is longer than {0} bytes")]
    TooLarge(u64),
}

/// A fresh X25519 identity, as the text that `age -i` reads.
#[must_use]
pub fn new_identity() -> SecretText {
    SecretText::new(Identity::generate().to_string().expose_secret().to_owned())
}

fn identity(text: &SecretText) -> Result<Identity, SealError> {
    Identity::from_str(text.expose()).map_err(|_| SealError::Identity)
}

/// Encrypts `plain` to the identity's own recipient and to every one of `more` (offline recovery keys).
///
/// # Errors
/// [`SealError`] naming a recipient that does not parse.
pub fn seal(plain: &[u8], to: &SecretText, more: &[String]) -> Result<Vec<u8>, SealError> {
    let mut recipients = vec![identity(to)?.to_public()];
    for text in more {
        let recipient =
            Recipient::from_str(text).map_err(|_| SealError::Recipient(text.clone()))?;
        recipients.push(recipient);
    }
    let encryptor =
        age::Encryptor::with_recipients(recipients.iter().map(|r| r as &dyn age::Recipient))
            .map_err(SealError::Encrypt)?;
    let mut sealed = Vec::with_capacity(plain.len() + 1024);
    let mut writer = encryptor
        .wrap_output(&mut sealed)
        .map_err(SealError::Stream)?;
    writer.write_all(plain).map_err(SealError::Stream)?;
    writer.finish().map_err(SealError::Stream)?;
    Ok(sealed)
}

/// Decrypts an age object; at most `limit` bytes of plaintext.
///
/// # Errors
/// [`SealError`] where it was not made for this identity, was changed or cut, or is too long.
pub fn open(sealed: &[u8], with: &SecretText, limit: u64) -> Result<SecretBytes, SealError> {
    let identity = identity(with)?;
    let decryptor = age::Decryptor::new_buffered(sealed).map_err(SealError::Decrypt)?;
    let reader = decryptor
        .decrypt(std::iter::once(&identity as &dyn age::Identity))
        .map_err(SealError::Decrypt)?;
    let mut plain = Vec::with_capacity(sealed.len());
    let read = reader.take(limit + 1).read_to_end(&mut plain);
    let plain = SecretBytes::new(plain);
    read.map_err(SealError::Stream)?;
    if plain.len() as u64 > limit {
        return Err(SealError::TooLarge(limit));
    }
    Ok(plain)
}
