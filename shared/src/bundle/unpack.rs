//! The plain `tar.zst` → a release, or a refusal before any byte of it is used (§6.2).

use std::collections::BTreeMap;
use std::io::{self, Read};

use tar::{Archive, Entry, EntryType};

use super::{INDEX_NAME, Index, IndexProblem, Release};
use crate::limits;
use crate::names::{EntryPath, InvalidName};
use crate::secret::SecretBytes;

/// Why a bundle's plain content was refused.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream is not zstd, is damaged, or needs a larger window than allowed.
    #[error("the bundle does not decompress")]
    Decompress(#[source] io::Error),
    /// It decompresses to more than allowed.
    #[error("the bundle decompresses to more than {} bytes", limits::PLAIN_BYTES)]
    Bomb,
    /// The archive structure is damaged.
    #[error("the bundle is not a well-formed archive")]
    Archive(#[source] io::Error),
    /// Something follows the end of the archive or of the compressed stream.
    #[error("the bundle goes on after its end")]
    Trailing,
    /// The first entry is not the index.
    #[error("the first entry of the bundle is not {INDEX_NAME}")]
    NoIndex,
    /// The index does not parse.
    #[error("the index does not parse")]
    Index(#[source] serde_json::Error),
    /// An entry that is not a regular file.
    #[error("entry {path:?} is a {kind}, not a regular file")]
    EntryType {
        /// The entry's name, as far as it is text.
        path: String,
        /// What it is.
        kind: &'static str,
    },
    /// An entry whose name is not text.
    #[error("entry {0} of the bundle has a name that is not UTF-8")]
    NotText(usize),
    /// An entry whose name breaks the rule.
    #[error("an entry of the bundle has a refused name")]
    Name(#[source] InvalidName),
    /// Two entries of one name.
    #[error("{0} is in the bundle twice")]
    Duplicate(EntryPath),
    /// More entries than allowed.
    #[error("the bundle has more than {} files", limits::FILES)]
    TooManyFiles,
    /// One entry is larger than allowed.
    #[error("{path} is larger than the {limit} bytes allowed")]
    TooLarge {
        /// Which entry.
        path: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// The index and the files disagree.
    #[error("the bundle contradicts its index: {}", list(.0))]
    Contradiction(Vec<IndexProblem>),
}

fn list(problems: &[IndexProblem]) -> String {
    let shown: Vec<String> = problems.iter().take(5).map(ToString::to_string).collect();
    let rest = problems.len().saturating_sub(shown.len());
    let more = if rest > 0 {
        format!("; and {rest} more")
    } else {
        String::new()
    };
    format!("{}{more}", shown.join("; "))
}

/// Decodes and checks a plain bundle.
///
/// # Errors
/// [`UnpackError`]; nothing of the bundle has left memory then.
pub fn unpack(packed: &[u8]) -> Result<Release, UnpackError> {
    let plain = decompress(packed)?;
    let mut rest = plain.expose();
    let (index, contents) = read_archive(&mut rest)?;
    // tar ends with two zero blocks, which the reader has consumed one or both of; anything else is smuggled.
    if rest.iter().any(|b| *b != 0) {
        return Err(UnpackError::Trailing);
    }
    Release::new(index, contents).map_err(UnpackError::Contradiction)
}

fn decompress(packed: &[u8]) -> Result<SecretBytes, UnpackError> {
    let mut decoder = zstd::Decoder::with_buffer(packed)
        .map_err(UnpackError::Decompress)?
        .single_frame();
    decoder
        .window_log_max(limits::ZSTD_WINDOW_LOG)
        .map_err(UnpackError::Decompress)?;
    let mut plain = Vec::new();
    let read = (&mut decoder)
        .take(limits::PLAIN_BYTES + 1)
        .read_to_end(&mut plain);
    let plain = SecretBytes::new(plain);
    read.map_err(UnpackError::Decompress)?;
    if plain.len() as u64 > limits::PLAIN_BYTES {
        return Err(UnpackError::Bomb);
    }
    if !decoder.finish().is_empty() {
        return Err(UnpackError::Trailing);
    }
    Ok(plain)
}

fn read_archive(
    plain: &mut &[u8],
) -> Result<(Index, BTreeMap<EntryPath, SecretBytes>), UnpackError> {
    let mut archive = Archive::new(plain);
    // Raw: an extension header (long name, pax, sparse) is an entry like any other, and refused as such.
    let mut entries = archive.entries().map_err(UnpackError::Archive)?.raw(true);

    let first = entries.next().ok_or(UnpackError::NoIndex)?;
    let mut first = first.map_err(UnpackError::Archive)?;
    if entry_name(&first, 0)? != INDEX_NAME {
        return Err(UnpackError::NoIndex);
    }
    regular(&first, INDEX_NAME)?;
    let bytes = read_entry(&mut first, INDEX_NAME, limits::INDEX_BYTES)?;
    let index: Index = serde_json::from_slice(bytes.expose()).map_err(UnpackError::Index)?;

    let mut contents = BTreeMap::new();
    for (at, entry) in entries.enumerate() {
        let mut entry = entry.map_err(UnpackError::Archive)?;
        let name = entry_name(&entry, at + 1)?;
        regular(&entry, &name)?;
        let path = EntryPath::new(name).map_err(UnpackError::Name)?;
        if contents.contains_key(&path) {
            return Err(UnpackError::Duplicate(path));
        }
        if contents.len() >= limits::FILES {
            return Err(UnpackError::TooManyFiles);
        }
        let bytes = read_entry(&mut entry, path.as_str(), limits::FILE_BYTES)?;
        contents.insert(path, bytes);
    }
    Ok((index, contents))
}

fn entry_name<R: Read>(entry: &Entry<'_, R>, at: usize) -> Result<String, UnpackError> {
    String::from_utf8(entry.path_bytes().into_owned()).map_err(|_| UnpackError::NotText(at))
}

fn regular<R: Read>(entry: &Entry<'_, R>, name: &str) -> Result<(), UnpackError> {
    match irregular(entry.header().entry_type()) {
        None => Ok(()),
        Some(kind) => Err(UnpackError::EntryType {
            path: name.chars().take(120).collect(),
            kind,
        }),
    }
}

/// What an entry is that is no regular file.
pub(crate) fn irregular(entry_type: EntryType) -> Option<&'static str> {
    Some(match entry_type {
        EntryType::Regular => return None,
        EntryType::Symlink => "symbolic link",
        EntryType::Link => "hard link",
        EntryType::Char => "character device",
        EntryType::Block => "block device",
        EntryType::Fifo => "FIFO",
        EntryType::Directory => "directory",
        EntryType::GNULongName | EntryType::GNULongLink => "GNU long name",
        EntryType::XHeader | EntryType::XGlobalHeader => "pax header",
        _ => "special entry",
    })
}

fn read_entry<R: Read>(
    entry: &mut Entry<'_, R>,
    name: &str,
    limit: u64,
) -> Result<SecretBytes, UnpackError> {
    let size = entry.size();
    if size > limit {
        return Err(UnpackError::TooLarge {
            path: name.to_owned(),
            limit,
        });
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    let read = entry.read_to_end(&mut bytes);
    let bytes = SecretBytes::new(bytes);
    read.map_err(UnpackError::Archive)?;
    if bytes.len() as u64 != size {
        let cut = io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the archive ends inside an entry",
        );
        return Err(UnpackError::Archive(cut));
    }
    Ok(bytes)
}
