//! From what projects publish to what nodes take: one file, or a tar archive under zstd.

use std::collections::BTreeMap;
use std::io::Read as _;

use anyhow::{Context as _, bail};
use flate2::read::MultiGzDecoder;
use shared::artifact::{read_archive, write_archive};
use shared::limits;
use shared::names::ArchivePath;
use tar::{Archive, EntryType};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// What nodes fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Whether they are an archive.
    pub archive: bool,
}

/// Converts what a source gave: a gzipped tar archive becomes one of its files (`member`) or an archive of its executables,
/// always the same for the same input; an archive that nodes take is looked at and kept; anything else is one file.
///
/// # Errors
/// What no node would take, or a member that is not there.
pub fn convert(bytes: Vec<u8>, member: Option<&str>) -> anyhow::Result<Converted> {
    if bytes.starts_with(&GZIP) {
        let files = executables(&bytes)?;
        return match member {
            Some(member) => one_of(files, member),
            None => {
                let bytes = write_archive(&files, Vec::new()).context("cannot pack")?;
                checked(bytes)
            }
        };
    }
    if member.is_some() {
        bail!("--member is for a gzipped tar archive (.tgz), and this is none");
    }
    if bytes.starts_with(&ZSTD) {
        return checked(bytes);
    }
    Ok(Converted {
        bytes,
        archive: false,
    })
}

/// An archive that was read as a node reads it.
fn checked(bytes: Vec<u8>) -> anyhow::Result<Converted> {
    read_archive(&bytes[..], |_, _, _| Ok(()))?;
    Ok(Converted {
        bytes,
        archive: true,
    })
}

fn one_of(mut files: BTreeMap<ArchivePath, Vec<u8>>, member: &str) -> anyhow::Result<Converted> {
    let is_it = |path: &&ArchivePath| {
        path.as_str() == member || path.as_str().rsplit('/').next() == Some(member)
    };
    let found: Vec<ArchivePath> = files.keys().filter(is_it).cloned().collect();
    match found.as_slice() {
        [path] => Ok(Converted {
            bytes: files.remove(path).unwrap_or_default(),
            archive: false,
        }),
        [] => {
            let names: Vec<&str> = files.keys().map(ArchivePath::as_str).collect();
            bail!(
                "the archive has no executable {member}; it has {}",
                names.join(", ")
            )
        }
        _ => bail!("the archive has {member} more than once: name it with its directory"),
    }
}

/// The executables of a gzipped tar archive: licences and readmes are not for a machine's directories.
fn executables(gzipped: &[u8]) -> anyhow::Result<BTreeMap<ArchivePath, Vec<u8>>> {
    // Several members, as some tools write them, are one stream.
    let plain = MultiGzDecoder::new(gzipped).take(limits::ARTIFACT_PLAIN_BYTES + 1);
    let mut files = BTreeMap::new();
    let mut total = 0_u64;
    let mut archive = Archive::new(plain);
    for entry in archive.entries().context("not a tar archive")? {
        let mut entry = entry.context("the archive is damaged")?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let plain_name = name.trim_start_matches("./").trim_end_matches('/');
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => {}
            EntryType::Directory | EntryType::XGlobalHeader => continue,
            other => bail!("{name} in the archive is a {other:?}, and not a plain file"),
        }
        if entry.header().mode().unwrap_or(0) & 0o111 == 0 {
            continue;
        }
        let path = ArchivePath::new(plain_name)
            .with_context(|| format!("{name} in the archive cannot go onto a node"))?;
        total += entry.size();
        if files.len() >= limits::ARTIFACT_FILES || total > limits::ARTIFACT_PLAIN_BYTES {
            bail!(
                "the archive has more than {} files or {} bytes",
                limits::ARTIFACT_FILES,
                limits::ARTIFACT_PLAIN_BYTES
            );
        }
        let mut bytes = Vec::new();
        entry
            .read_to_end(&mut bytes)
            .context("the archive is damaged")?;
        if files.insert(path.clone(), bytes).is_some() {
            bail!("{path} is in the archive twice");
        }
    }
    if files.is_empty() {
        bail!("the archive holds no executable file");
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn tgz(files: &[(&str, u32, EntryType)], time: u64) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, mode, kind) in files {
            let mut header = tar::Header::new_gnu();
            header.set_path(name).unwrap();
            header.set_mode(*mode);
            header.set_mtime(time);
            header.set_entry_type(*kind);
            if *kind == EntryType::Symlink {
                header.set_link_name("/etc/passwd").unwrap();
            }
            let body = if *kind == EntryType::Regular {
                *name
            } else {
                ""
            };
            header.set_size(body.len() as u64);
            header.set_cksum();
            archive.append(&header, body.as_bytes()).unwrap();
        }
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&archive.into_inner().unwrap()).unwrap();
        gzip.finish().unwrap()
    }

    const PLUGINS: [(&str, u32, EntryType); 4] = [
        ("./", 0o755, EntryType::Directory),
        ("./loopback", 0o755, EntryType::Regular),
        ("./bridge", 0o755, EntryType::Regular),
        ("./LICENSE", 0o644, EntryType::Regular),
    ];

    #[test]
    fn a_tgz_becomes_the_same_archive_of_its_executables_each_time() {
        let one = convert(tgz(&PLUGINS, 1), None).unwrap();
        assert!(one.archive);
        assert_eq!(one, convert(tgz(&PLUGINS, 99), None).unwrap());
        let mut names = Vec::new();
        read_archive(&one.bytes[..], |path, _, _| {
            names.push(path.to_string());
            Ok(())
        })
        .unwrap();
        assert_eq!(names, ["bridge", "loopback"]);
        // What nodes take already is kept as it is.
        assert_eq!(convert(one.bytes.clone(), None).unwrap(), one);
    }

    #[test]
    fn a_member_becomes_one_file() {
        let one = convert(tgz(&PLUGINS, 1), Some("bridge")).unwrap();
        assert_eq!(
            (one.bytes.as_slice(), one.archive),
            (&b"./bridge"[..], false)
        );
        let refused = convert(tgz(&PLUGINS, 1), Some("LICENSE")).unwrap_err();
        assert!(
            refused.to_string().contains("bridge, loopback"),
            "{refused}"
        );
        assert!(convert(b"\x7fELF".to_vec(), Some("x")).is_err());
    }

    #[test]
    fn what_no_node_takes_is_refused_here() {
        for (name, kind) in [
            ("link", EntryType::Symlink),
            ("a/b/c/d/e", EntryType::Regular),
            (".hidden", EntryType::Regular),
        ] {
            assert!(
                convert(tgz(&[(name, 0o755, kind)], 1), None).is_err(),
                "{name}"
            );
        }
        assert!(
            convert(tgz(&PLUGINS[3..], 1), None).is_err(),
            "no executable"
        );
        let good = tgz(&PLUGINS, 1);
        assert!(
            convert(good[..good.len() - 20].to_vec(), None).is_err(),
            "cut off"
        );
        let not_tar = zstd::encode_all(&b"not tar"[..], 1).unwrap();
        assert!(convert(not_tar, None).is_err());
    }
}
