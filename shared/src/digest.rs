//! SHA-256 as a value.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// A SHA-256 digest; shown and parsed as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Digest([u8; 32]);

/// A digest of bytes that come in pieces. By aws-lc, which is several times as fast where there is much to digest.
#[derive(Clone)]
pub struct Sha256Writer(aws_lc_rs::digest::Context);

/// The text is not 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 digest is 64 lower-case hex digits")]
pub struct InvalidDigest;

// === impl Sha256Digest ===

impl Sha256Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// A digest from its raw bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first twelve hex digits: enough for a person to tell two apart.
    #[must_use]
    pub fn short(&self) -> String {
        hex::encode(self.0).chars().take(12).collect()
    }
}

// === impl Sha256Writer ===

impl Sha256Writer {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all of them.
    #[must_use]
    pub fn finish(self) -> Sha256Digest {
        let mut raw = [0_u8; 32];
        // SHA-256 has that length.
        raw.copy_from_slice(self.0.finish().as_ref());
        Sha256Digest(raw)
    }

    /// The digest and the length of everything that `reader` gives, in constant memory.
    ///
    /// # Errors
    /// What the reader says.
    pub fn of_reader(mut reader: impl io::Read) -> io::Result<(Sha256Digest, u64)> {
        let mut hash = Self::default();
        let mut buffer = vec![0_u8; 64 * 1024];
        let mut length = 0;
        loop {
            let n = match reader.read(&mut buffer) {
                Ok(0) => return Ok((hash.finish(), length)),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            hash.update(buffer.get(..n).unwrap_or_default());
            length += n as u64;
        }
    }
}

impl Default for Sha256Writer {
    fn default() -> Self {
        Self(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256))
    }
}

impl fmt::Debug for Sha256Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256Writer")
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.short())
    }
}

impl FromStr for Sha256Digest {
    type Err = InvalidDigest;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        if s.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(InvalidDigest);
        }
        let mut raw = [0_u8; 32];
        hex::decode_to_slice(s, &mut raw).map_err(|_| InvalidDigest)?;
        Ok(Self(raw))
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_give_the_digest_of_the_whole() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let read = Sha256Writer::of_reader(&bytes[..]).unwrap();
        assert_eq!(read, (Sha256Digest::of(&bytes), 200_000));
    }

    #[test]
    fn known_vector() {
        // FIPS 180-2, the message "abc".
        assert_eq!(
            Sha256Digest::of(b"abc").to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn refuses_other_spellings() {
        assert!("BA".repeat(32).parse::<Sha256Digest>().is_err());
        assert!("ba".repeat(31).parse::<Sha256Digest>().is_err());
        assert!("zz".repeat(32).parse::<Sha256Digest>().is_err());
    }
}
