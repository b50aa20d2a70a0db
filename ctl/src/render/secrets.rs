//! `secrets/<group>/<pod>/` of the working directory: the files that the operator supplies for a pod.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use shared::check::secret_dir::{SecretBytes, SecretFile};

/// The files of each pod of a group, by pod and by name.
pub type Secrets = BTreeMap<String, BTreeMap<String, SecretFile>>;

/// The largest secret file: the limit of any file in a release.
pub const MAX_SECRET_FILE_BYTES: u64 = 1024 * 1024;

/// Why a group's secret files can't be used: every mistake in them, never their contents.
#[derive(Debug, thiserror::Error)]
#[error("the secret files in {} can't be used:\n  {}", dir.display(), problems.join("\n  "))]
pub struct SecretsError {
    /// The directory `secrets/<group>`.
    pub dir: PathBuf,
    /// One line a mistake, each with the path of the file.
    pub problems: Vec<String>,
}

/// Reads `<working_dir>/secrets/<group>/`; no such directory means no secrets.
///
/// A pod is a directory, a secret a regular file in it. Its mode here, which must lie between 0400 and 0644, is its mode
/// on the node.
///
/// # Errors
/// All mistakes at once: symlinks, special files, directories within a pod's, names that are not UTF-8 or start with a
/// dot, files over 1 MiB, modes out of range.
pub fn read_secrets(working_dir: &Path, group: &str) -> Result<Secrets, SecretsError> {
    let dir = working_dir.join("secrets").join(group);
    let mut reader = Reader {
        problems: Vec::new(),
    };
    let mut secrets = Secrets::new();
    match fs::symlink_metadata(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(secrets),
        Err(error) => reader.problems.push(format!("{}: {error}", dir.display())),
        Ok(metadata) if !metadata.is_dir() => reader
            .problems
            .push(format!("{} is no directory", dir.display())),
        Ok(_) => {
            for (pod, path) in reader.list(&dir) {
                match fs::symlink_metadata(&path) {
                    Ok(metadata) if metadata.is_dir() => {
                        secrets.insert(pod, reader.pod(&path));
                    }
                    Ok(_) => reader.problems.push(format!(
                        "{}: a secret belongs into its pod's directory",
                        path.display()
                    )),
                    Err(error) => reader.problems.push(format!("{}: {error}", path.display())),
                }
            }
        }
    }
    if reader.problems.is_empty() {
        Ok(secrets)
    } else {
        Err(SecretsError {
            dir,
            problems: reader.problems,
        })
    }
}

struct Reader {
    problems: Vec<String>,
}

impl Reader {
    fn pod(&mut self, dir: &Path) -> BTreeMap<String, SecretFile> {
        let mut files = BTreeMap::new();
        for (name, path) in self.list(dir) {
            match read_file(&path) {
                Ok(file) => {
                    files.insert(name, file);
                }
                Err(problem) => self.problems.push(format!("{}: {problem}", path.display())),
            }
        }
        files
    }

    /// The entries of a directory with usable names, sorted.
    fn list(&mut self, dir: &Path) -> BTreeMap<String, PathBuf> {
        let mut found = BTreeMap::new();
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) => {
                self.problems.push(format!("{}: {error}", dir.display()));
                return found;
            }
        };
        for entry in entries {
            let path = match entry {
                Ok(entry) => entry.path(),
                Err(error) => {
                    self.problems.push(format!("{}: {error}", dir.display()));
                    continue;
                }
            };
            match path.file_name().and_then(|name| name.to_str()) {
                Some(name) if is_plain_name(name) => {
                    found.insert(name.to_owned(), path);
                }
                Some(_) => self.problems.push(format!(
                    "{}: a name consists of letters, digits, '.', '_' and '-', and does not start with '.'",
                    path.display()
                )),
                None => self.problems.push(format!("{}: the name is not UTF-8", path.display())),
            }
        }
        found
    }
}

/// A leading dot is an editor's or a tool's file, which must not reach a node by accident.
fn is_plain_name(name: &str) -> bool {
    !name.starts_with('.')
        && name.len() <= 128
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

/// The mode is checked on the open file: what is read is what was looked at.
fn read_file(path: &Path) -> Result<SecretFile, String> {
    let file = open(path)?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("only regular files can be secrets".to_owned());
    }
    let mode = metadata.mode() & 0o7777;
    if mode & !0o644 != 0 || mode & 0o400 == 0 {
        return Err(format!(
            "mode {mode:04o} is not between 0400 and 0644; `chmod 600` it"
        ));
    }
    if metadata.len() > MAX_SECRET_FILE_BYTES {
        return Err(format!(
            "{} bytes are more than the limit of 1 MiB",
            metadata.len()
        ));
    }
    // Room for all of it at once: a growing buffer would leave copies behind.
    let mut bytes = Vec::with_capacity(
        usize::try_from(metadata.len())
            .unwrap_or_default()
            .saturating_add(1),
    );
    file.take(MAX_SECRET_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_SECRET_FILE_BYTES {
        return Err("it grew over the limit of 1 MiB while it was read".to_owned());
    }
    Ok(SecretFile {
        bytes: SecretBytes::new(bytes),
        mode,
        owner: (0, 0),
    })
}

fn open(path: &Path) -> Result<File, String> {
    let metadata = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
    if metadata.is_symlink() {
        return Err("a symlink can't be a secret; put the file itself here".to_owned());
    }
    if !metadata.is_file() {
        return Err("only regular files can be secrets".to_owned());
    }
    // No link followed and no wait on a FIFO, should the file be swapped in between.
    let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn working_dir() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let pod = dir.path().join("secrets/secure/etcd");
        fs::create_dir_all(&pod).unwrap();
        (dir, pod)
    }

    fn write(path: &Path, bytes: &[u8], mode: u32) {
        fs::write(path, bytes).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn files_come_with_their_modes() {
        let (dir, pod) = working_dir();
        write(&pod.join("ca.crt"), b"public", 0o644);
        write(&pod.join("ca.key"), b"private", 0o600);
        let secrets = read_secrets(dir.path(), "secure").unwrap();
        let etcd = &secrets["etcd"];
        assert_eq!((etcd["ca.crt"].mode, etcd["ca.key"].mode), (0o644, 0o600));
        assert_eq!(etcd["ca.key"].bytes.expose(), b"private");
        assert!(read_secrets(dir.path(), "compute").unwrap().is_empty());
    }

    #[test]
    fn every_mistake_is_reported_and_no_content() {
        let (dir, pod) = working_dir();
        write(&pod.join("good"), b"hunter2", 0o600);
        symlink(pod.join("good"), pod.join("link")).unwrap();
        nix::unistd::mkfifo(&pod.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        fs::create_dir(pod.join("dir")).unwrap();
        write(&pod.join("open"), b"hunter2", 0o666);
        write(&pod.join("big"), &vec![b'x'; 1024 * 1024 + 1], 0o600);
        write(&pod.join(".swp"), b"hunter2", 0o600);
        write(&pod.join(OsStr::from_bytes(b"bad\xff")), b"hunter2", 0o600);
        write(&pod.join("../stray"), b"hunter2", 0o600);
        let error = read_secrets(dir.path(), "secure").unwrap_err();
        let shown = format!("{error} {error:?}");
        for part in [
            "link: a symlink",
            "fifo: only regular",
            "dir: only regular",
            "mode 0666",
            "1 MiB",
            ".swp: a name",
            "not UTF-8",
            "stray: a secret belongs",
        ] {
            assert!(shown.contains(part), "{part} is not in {shown}");
        }
        assert_eq!(error.problems.len(), 8);
        assert!(!shown.contains("hunter2"));
    }

    #[test]
    fn a_file_of_exactly_the_limit_is_fine() {
        let (dir, pod) = working_dir();
        write(&pod.join("big"), &vec![b'x'; 1024 * 1024], 0o400);
        assert!(read_secrets(dir.path(), "secure").is_ok());
    }
}
