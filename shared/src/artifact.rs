//! An artifact that is many files: a tar archive under zstd, of regular files and nothing else (§3.6).
//!
//! [`read_archive`] is the one reader: the agent unpacks with it, and platformctl looks with it at what it has made, so
//! that what no node would take is not published. It holds no file in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Read, Write};

use tar::{Archive, Builder, EntryType, Header};

use crate::bundle::irregular;
use crate::limits;
use crate::names::ArchivePath;

/// zstd level: artifacts are packed once and fetched by every node.
const LEVEL: i32 = 12;

/// Why an archive is refused.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It does not decompress, needs a larger window than allowed, or is no well-formed archive.
    #[error("the archive is damaged, or not tar under zstd")]
    Damaged(#[source] io::Error),
    /// It unpacks to more than allowed.
    #[error(
        "the archive has more than {} files, or unpacks to more than {} bytes",
        limits::ARTIFACT_FILES,
        limits::ARTIFACT_PLAIN_BYTES
    )]
    TooLarge,
    /// Something follows its end.
    #[error("the archive goes on after its end")]
    Trailing,
    /// It has no file.
    #[error("the archive holds no file")]
    Empty,
    /// An entry that no node would write.
    #[error("entry {name:?} of the archive {what}")]
    Entry {
        /// Its name, as far as it is text.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// What the caller did with a file failed.
    #[error("cannot take {name} from the archive")]
    File {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Reads an archive file by file; `each` is given a path, a length and the bytes.
///
/// # Errors
/// [`ArchiveError`]; files before the failing one have been given out by then.
pub fn read_archive<R: BufRead>(
    packed: R,
    mut each: impl FnMut(&ArchivePath, u64, &mut dyn Read) -> io::Result<()>,
) -> Result<(), ArchiveError> {
    let damaged = ArchiveError::Damaged;
    let mut decoder = zstd::Decoder::with_buffer(packed)
        .map_err(damaged)?
        .single_frame();
    decoder
        .window_log_max(limits::ZSTD_WINDOW_LOG)
        .map_err(damaged)?;
    let mut seen = BTreeSet::new();
    let mut total = 0_u64;
    {
        let mut archive = Archive::new(&mut decoder);
        // Raw: an extension header is an entry like any other, and refused as such.
        for entry in archive.entries().map_err(damaged)?.raw(true) {
            let mut entry = entry.map_err(damaged)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let refused = |what: &dyn ToString| ArchiveError::Entry {
                name: name.chars().take(120).collect(),
                what: what.to_string(),
            };
            if let Some(kind) = irregular(entry.header().entry_type()) {
                return Err(refused(&format!("is a {kind}, not a regular file")));
            }
            let path = ArchivePath::new(name.clone()).map_err(|e| refused(&e.rule))?;
            let below = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|r| r.starts_with('/'));
            if seen.iter().any(|s: &ArchivePath| {
                *s == path || below(s.as_str(), path.as_str()) || below(path.as_str(), s.as_str())
            }) {
                return Err(refused(&"is there twice, or both a file and a directory"));
            }
            let size = entry.size();
            total = total.saturating_add(size);
            if seen.len() >= limits::ARTIFACT_FILES || total > limits::ARTIFACT_PLAIN_BYTES {
                return Err(ArchiveError::TooLarge);
            }
            let mut bytes = Counted {
                inner: &mut entry,
                read: 0,
            };
            each(&path, size, &mut bytes).map_err(|source| ArchiveError::File {
                name: path.to_string(),
                source,
            })?;
            // What the caller has left, so that a file that is cut off is noticed all the same.
            io::copy(&mut bytes, &mut io::sink()).map_err(damaged)?;
            if bytes.read != size {
                return Err(damaged(io::ErrorKind::UnexpectedEof.into()));
            }
            seen.insert(path);
        }
    }
    let mut after = [0_u8; 4096];
    let mut zeros = 0_u64;
    loop {
        let n = decoder.read(&mut after).map_err(damaged)?;
        if n == 0 {
            break;
        }
        zeros += n as u64;
        // The end is two blocks of zeros; tools pad it to twenty.
        if after.iter().take(n).any(|b| *b != 0) || zeros > 64 * 1024 {
            return Err(ArchiveError::Trailing);
        }
    }
    let mut rest = decoder.finish();
    if !rest.fill_buf().map_err(damaged)?.is_empty() {
        return Err(ArchiveError::Trailing);
    }
    match seen.is_empty() {
        true => Err(ArchiveError::Empty),
        false => Ok(()),
    }
}

struct Counted<R> {
    inner: R,
    read: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.read += n as u64;
        Ok(n)
    }
}

/// Writes an archive that [`read_archive`] takes; the same files always give the same bytes.
///
/// # Errors
/// What `out` says.
pub fn write_archive<W: Write>(files: &BTreeMap<ArchivePath, Vec<u8>>, out: W) -> io::Result<W> {
    let mut encoder = zstd::Encoder::new(out, LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.window_log(limits::ZSTD_WINDOW_LOG - 1)?;
    let mut archive = Builder::new(encoder);
    for (path, bytes) in files {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_path(path.as_str())?;
        header.set_size(bytes.len() as u64);
        // Mode and owner are the index's affair, and no time of day is in it.
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        archive.append(&header, bytes.as_slice())?;
    }
    archive.into_inner()?.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> BTreeMap<ArchivePath, Vec<u8>> {
        let file = |n: &&str| (n.parse().unwrap(), n.repeat(5000).into_bytes());
        names.iter().map(file).collect()
    }

    fn read(packed: &[u8]) -> Result<BTreeMap<ArchivePath, Vec<u8>>, ArchiveError> {
        let mut all = BTreeMap::new();
        read_archive(packed, |path, size, bytes| {
            let mut text = Vec::new();
            bytes.read_to_end(&mut text)?;
            assert_eq!(text.len() as u64, size);
            all.insert(path.clone(), text);
            Ok(())
        })?;
        Ok(all)
    }

    fn packed(build: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
        let mut archive = Builder::new(Vec::new());
        build(&mut archive);
        zstd::encode_all(&archive.into_inner().unwrap()[..], 3).unwrap()
    }

    fn entry(archive: &mut Builder<Vec<u8>>, name: &str, kind: EntryType) {
        let mut header = Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        if kind == EntryType::Symlink {
            header.set_link_name("/etc/passwd").unwrap();
        }
        header.set_size(if kind == EntryType::Regular { 1 } else { 0 });
        header.set_mode(0o755);
        header.set_cksum();
        let bytes: &[u8] = if kind == EntryType::Regular {
            b"x"
        } else {
            b""
        };
        archive.append(&header, bytes).unwrap();
    }

    #[test]
    fn what_is_written_is_read_and_always_the_same() {
        let files = files(&["bridge", "host-local", "sub/loopback"]);
        let one = write_archive(&files, Vec::new()).unwrap();
        assert_eq!(one, write_archive(&files, Vec::new()).unwrap());
        assert_eq!(read(&one).unwrap(), files);
    }

    #[test]
    fn everything_but_plain_files_below_is_refused() {
        for (name, kind) in [
            ("../escape", EntryType::Regular),
            ("/etc/passwd", EntryType::Regular),
            ("a/../../b", EntryType::Regular),
            (".hidden", EntryType::Regular),
            ("a//b", EntryType::Regular),
            ("link", EntryType::Symlink),
            ("hard", EntryType::Link),
            ("dir", EntryType::Directory),
            ("pipe", EntryType::Fifo),
            ("dev", EntryType::Block),
            ("pax", EntryType::XHeader),
        ] {
            let refused = read(&packed(|a| entry(a, name, kind)));
            assert!(
                matches!(refused, Err(ArchiveError::Entry { .. })),
                "{name}: {refused:?}"
            );
        }
        let twice = |names: [&'static str; 2]| {
            read(&packed(|a| {
                for name in names {
                    entry(a, name, EntryType::Regular);
                }
            }))
        };
        for names in [["a", "a"], ["a", "a/b"], ["a/b", "a"]] {
            assert!(matches!(twice(names), Err(ArchiveError::Entry { .. })));
        }
        assert!(twice(["a", "ab"]).is_ok());
    }

    #[test]
    fn damage_is_noticed() {
        let good = write_archive(&files(&["a", "b"]), Vec::new()).unwrap();
        for at in [good.len() - 1, good.len() / 2, 5] {
            assert!(read(&good[..at]).is_err(), "cut at {at}");
        }
        let longer = [&good[..], b"more"].concat();
        assert!(matches!(read(&longer), Err(ArchiveError::Trailing)));
        assert!(matches!(read(&packed(|_| ())), Err(ArchiveError::Empty)));
        let many = packed(|a| {
            for n in 0..=limits::ARTIFACT_FILES {
                entry(a, &format!("f{n}"), EntryType::Regular);
            }
        });
        assert!(matches!(read(&many), Err(ArchiveError::TooLarge)));
    }
}
