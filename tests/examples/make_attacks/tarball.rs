//! Archives made by hand: what no honest publisher's archive holds.

use std::io::Write as _;

use shared::bundle::INDEX_NAME;
use tar::{Builder, EntryType, Header};

/// One entry, with nothing checked.
pub struct Entry<'a> {
    pub name: &'a [u8],
    pub kind: EntryType,
    pub mode: u32,
    pub link: &'a [u8],
    pub data: &'a [u8],
}

impl<'a> Entry<'a> {
    pub fn file(name: &'a [u8], data: &'a [u8]) -> Self {
        Self {
            name,
            kind: EntryType::Regular,
            mode: 0o600,
            link: b"",
            data,
        }
    }

    pub fn special(name: &'a [u8], kind: EntryType) -> Self {
        Self {
            kind,
            ..Self::file(name, b"")
        }
    }

    pub fn link(name: &'a [u8], kind: EntryType, link: &'a [u8]) -> Self {
        Self {
            link,
            ..Self::special(name, kind)
        }
    }
}

/// An archive of exactly these entries.
pub fn archive(entries: &[Entry<'_>]) -> anyhow::Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_ustar();
        header.set_entry_type(entry.kind);
        header.set_size(entry.data.len() as u64);
        header.set_mode(entry.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        // Not `set_path`, which would refuse what must be refused elsewhere.
        let old = header.as_old_mut();
        old.name[..entry.name.len()].copy_from_slice(entry.name);
        old.linkname[..entry.link.len()].copy_from_slice(entry.link);
        header.set_cksum();
        archive.append(&header, entry.data)?;
    }
    Ok(archive.into_inner()?)
}

/// The archive of an index and these entries, compressed.
pub fn bundle(index: &[u8], entries: Vec<Entry<'_>>) -> anyhow::Result<Vec<u8>> {
    let mut all = vec![Entry::file(INDEX_NAME.as_bytes(), index)];
    all.extend(entries);
    compress(&archive(&all)?)
}

/// zstd as the publisher makes it.
pub fn compress(plain: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 19)?;
    encoder.include_checksum(true)?;
    encoder.write_all(plain)?;
    Ok(encoder.finish()?)
}

/// zstd that asks its reader for a window of 128 MiB.
pub fn compress_with_large_window(plain: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3)?;
    encoder.window_log(27)?;
    encoder.write_all(plain)?;
    // Without a flush the frame would be small enough to need no window.
    encoder.flush()?;
    encoder.write_all(b"")?;
    Ok(encoder.finish()?)
}
