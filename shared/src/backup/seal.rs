//! Encrypting a snapshot while it comes, and decrypting it again; neither holds more of it than a part (§10.1).

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};

use age::stream::StreamWriter;
use age::x25519::{Identity, Recipient};
use bytes::{Bytes, BytesMut};

use super::PART_BYTES;
use crate::bundle::SealError;
use crate::secret::SecretText;

/// The recipient of an identity, as text.
///
/// # Errors
/// [`SealError::Identity`].
pub fn recipient_of(identity: &SecretText) -> Result<String, SealError> {
    let identity = Identity::from_str(identity.expose()).map_err(|_| SealError::Identity)?;
    Ok(identity.to_public().to_string())
}

/// What age writes to; emptied after each write.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<BytesMut>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Plain bytes in, parts of an age file out.
pub struct Sealer {
    writer: StreamWriter<Sink>,
    sink: Sink,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

impl Sealer {
    /// To these recipients.
    ///
    /// # Errors
    /// [`SealError`] naming a recipient that is none.
    pub fn new(recipients: &[String]) -> Result<Self, SealError> {
        let parsed: Vec<Recipient> = recipients
            .iter()
            .map(|text| Recipient::from_str(text).map_err(|_| SealError::Recipient(text.clone())))
            .collect::<Result<_, _>>()?;
        let all = parsed.iter().map(|r| r as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(all).map_err(SealError::Encrypt)?;
        let sink = Sink::default();
        let writer = encryptor
            .wrap_output(sink.clone())
            .map_err(SealError::Stream)?;
        Ok(Self { writer, sink })
    }

    /// Takes the next plain bytes; gives a part where one is full.
    ///
    /// # Errors
    /// [`SealError::Stream`], never for one in memory.
    pub fn write(&mut self, plain: &[u8]) -> Result<Option<Bytes>, SealError> {
        self.writer.write_all(plain).map_err(SealError::Stream)?;
        Ok(self.sink.part(false))
    }

    /// The end: the parts that remain, of which only the last is shorter than the others.
    ///
    /// # Errors
    /// As [`Sealer::write`].
    pub fn finish(self) -> Result<Vec<Bytes>, SealError> {
        self.writer.finish().map_err(SealError::Stream)?;
        Ok(std::iter::from_fn(|| self.sink.part(true)).collect())
    }
}

impl Sink {
    fn part(&self, also_short: bool) -> Option<Bytes> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let full = usize::try_from(PART_BYTES).unwrap_or(usize::MAX);
        let take = match held.len() {
            0 => return None,
            n if n >= full => full,
            n if also_short => n,
            _ => return None,
        };
        Some(held.split_to(take).freeze())
    }
}

/// The plain bytes of an age file.
#[derive(Debug)]
pub struct Opener;

impl Opener {
    /// Reads `sealed` with an identity; what it gives is authentic piece by piece, and whole only where it ends without an
    /// error.
    ///
    /// # Errors
    /// [`SealError`] where it is no age file, or not for that identity.
    pub fn open<R: Read>(sealed: R, with: &SecretText) -> Result<impl Read, SealError> {
        let identity = Identity::from_str(with.expose()).map_err(|_| SealError::Identity)?;
        let decryptor = age::Decryptor::new(sealed).map_err(SealError::Decrypt)?;
        decryptor
            .decrypt(std::iter::once(&identity as &dyn age::Identity))
            .map_err(SealError::Decrypt)
    }
}

/// Decrypts `sealed` into `plain`, and gives how many bytes there were.
///
/// # Errors
/// [`SealError`]; what was written by then is not to be used.
pub fn open_file(
    sealed: impl Read,
    with: &SecretText,
    plain: &mut impl Write,
    limit: u64,
) -> Result<u64, SealError> {
    let mut reader = Opener::open(sealed, with)?.take(limit.saturating_add(1));
    let mut buffer = vec![0_u8; 256 * 1024];
    let mut length = 0;
    loop {
        let n = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(SealError::Stream(e)),
        };
        length += n as u64;
        if length > limit {
            return Err(SealError::TooLarge(limit));
        }
        let piece = buffer.get(..n).unwrap_or_default();
        plain.write_all(piece).map_err(SealError::Stream)?;
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::new_identity;

    #[test]
    fn parts_are_one_age_file() {
        let (own, offline) = (new_identity(), new_identity());
        let recipients = [&own, &offline].map(|i| recipient_of(i).unwrap());
        let mut sealer = Sealer::new(&recipients).unwrap();
        let plain: Vec<u8> = (0..PART_BYTES + 77).map(|n| n.to_le_bytes()[1]).collect();
        let mut parts = Vec::new();
        for piece in plain.chunks(100_000) {
            parts.extend(sealer.write(piece).unwrap());
        }
        parts.extend(sealer.finish().unwrap());
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[0].len() as u64, PART_BYTES);
        let sealed = parts.concat();
        for identity in [&own, &offline] {
            let mut opened = Vec::new();
            let read = open_file(&sealed[..], identity, &mut opened, PART_BYTES * 2).unwrap();
            assert!(read == plain.len() as u64 && opened == plain);
        }
        let mut rest = Vec::new();
        assert!(open_file(&sealed[..], &new_identity(), &mut rest, PART_BYTES * 2).is_err());
        let cut = &sealed[..sealed.len() - 1];
        assert!(open_file(cut, &own, &mut rest, PART_BYTES * 2).is_err());
        assert!(open_file(&sealed[..], &own, &mut Vec::new(), 1000).is_err());
        let mut changed = sealed.clone();
        changed[1_000_000] ^= 1;
        assert!(open_file(&changed[..], &own, &mut rest, PART_BYTES * 2).is_err());
    }

    #[test]
    fn nobody_to_open_it_is_refused() {
        assert!(Sealer::new(&[]).is_err());
        assert!(Sealer::new(&["age1nobody".to_owned()]).is_err());
    }
}
