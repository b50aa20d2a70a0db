//! A release → the plain `tar.zst`; the same release always gives the same bytes.

use std::io::Write as _;

use tar::{Builder, EntryType, Header};

use super::{INDEX_NAME, Index, Release};
use crate::limits;
use crate::secret::SecretBytes;

/// zstd level: past this the gain on manifests and PEM is under a percent.
const LEVEL: i32 = 9;

/// A release that cannot become a bundle.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The index could not be written as JSON.
    #[error("cannot encode the index")]
    Encode(#[source] serde_json::Error),
    /// The archive could not be written.
    #[error("cannot write the archive")]
    Archive(#[source] std::io::Error),
    /// Over a limit.
    #[error("the {what} has {bytes} bytes, more than the {limit} allowed")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// Its length.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
}

fn within(what: &'static str, bytes: usize, limit: u64) -> Result<(), PackError> {
    let bytes = bytes as u64;
    if bytes > limit {
        return Err(PackError::TooLarge { what, bytes, limit });
    }
    Ok(())
}

/// Packs a release (§5.1): the index first, then its files in order, as a deterministic ustar archive under zstd.
///
/// # Errors
/// [`PackError`] where a limit is broken.
pub fn pack(release: &Release) -> Result<SecretBytes, PackError> {
    let index = encode_index(release.index())?;
    let mut archive = Builder::new(Vec::new());
    append(&mut archive, INDEX_NAME, 0o600, (0, 0), &index)?;
    for (entry, bytes) in release.files() {
        let owner = (u64::from(entry.uid), u64::from(entry.gid));
        append(
            &mut archive,
            entry.path.as_str(),
            entry.mode.bits(),
            owner,
            bytes.expose(),
        )?;
    }
    let plain = SecretBytes::new(archive.into_inner().map_err(PackError::Archive)?);
    within("archive", plain.len(), limits::PLAIN_BYTES)?;

    let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL).map_err(PackError::Archive)?;
    encoder.include_checksum(true).map_err(PackError::Archive)?;
    encoder
        .write_all(plain.expose())
        .map_err(PackError::Archive)?;
    let packed = SecretBytes::new(encoder.finish().map_err(PackError::Archive)?);
    within("compressed archive", packed.len(), limits::BUNDLE_BYTES)?;
    Ok(packed)
}

fn encode_index(index: &Index) -> Result<Vec<u8>, PackError> {
    let bytes = serde_json::to_vec_pretty(index).map_err(PackError::Encode)?;
    within("index", bytes.len(), limits::INDEX_BYTES)?;
    Ok(bytes)
}

fn append(
    archive: &mut Builder<Vec<u8>>,
    path: &str,
    mode: u32,
    (uid, gid): (u64, u64),
    bytes: &[u8],
) -> Result<(), PackError> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_path(path).map_err(PackError::Archive)?;
    header.set_size(bytes.len() as u64);
    header.set_mode(mode);
    header.set_uid(uid);
    header.set_gid(gid);
    // No time of day in the archive: the same release is the same bytes.
    header.set_mtime(0);
    header.set_cksum();
    archive.append(&header, bytes).map_err(PackError::Archive)
}
