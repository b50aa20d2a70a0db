//! The environment's key as a file, and its block in the configuration of ssh.

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use shared::documents::SshKey;
use shared::durable::{self, Attributes, DurableError};

use super::USER;
use super::block::{DamagedBlock, with_block};
use crate::env::{Cidr, Environment};

/// Largest file that is taken for a key or a configuration, in bytes.
const LARGEST: u64 = 1024 * 1024;

/// What was done. Nothing of it where everything was as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The key's file.
    pub key: PathBuf,
    /// Whether the key was written.
    pub wrote_key: bool,
    /// The configuration's file.
    pub config: PathBuf,
    /// Whether the configuration was written.
    pub wrote_config: bool,
}

/// The key or its block could not be put into place.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Another key has that name.
    #[error(
        "{0} is not a key of this environment's: move it away, for the environment's key is written there"
    )]
    Foreign(PathBuf),
    /// The block in the configuration.
    #[error("{path}: {damage}")]
    Block {
        /// The configuration.
        path: PathBuf,
        /// What is wrong with it.
        damage: DamagedBlock,
    },
    /// Something cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// What.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Something cannot be written.
    #[error(transparent)]
    Write(#[from] DurableError),
}

/// Where the environment's key lies in `home`.
#[must_use]
pub fn key_path(environment: &Environment, home: &Path) -> PathBuf {
    home.join(".ssh").join(environment.name.as_str())
}

/// Writes the key to `~/.ssh/ENV` (mode 0600) and its public half beside it, and the block of the environment into
/// `~/.ssh/config`. What is there already is left, and what else is in the configuration too. Nothing is written before
/// everything was looked at.
///
/// # Errors
/// [`InstallError`].
pub fn install_key(
    environment: &Environment,
    key: &SshKey,
    home: &Path,
) -> Result<Installed, InstallError> {
    // A configuration may be a link into somebody's own repository: it stays one.
    let config = home.join(".ssh/config");
    let config = std::fs::canonicalize(&config).unwrap_or(config);
    let text = read(&config)?.unwrap_or_default();
    let wanted =
        with_block(&text, environment.name.as_str(), &block(environment)).map_err(|damage| {
            InstallError::Block {
                path: config.clone(),
                damage,
            }
        })?;
    let wrote_key = write_key(environment, key, home)?;
    let wrote_config = wanted != text;
    if wrote_config {
        let mode = std::fs::metadata(&config).map_or(0o600, |m| m.permissions().mode() & 0o777);
        durable::write_file(&config, wanted.as_bytes(), Attributes::mode(mode))?;
    }
    Ok(Installed {
        key: key_path(environment, home),
        wrote_key,
        config,
        wrote_config,
    })
}

/// The key alone; whether it was written.
///
/// # Errors
/// [`InstallError`].
pub fn write_key(
    environment: &Environment,
    key: &SshKey,
    home: &Path,
) -> Result<bool, InstallError> {
    let path = key_path(environment, home);
    let private = key.private.expose();
    let there = read(&path)?;
    if let Some(there) = &there
        && there != private
        && !is_ours(there, key)
    {
        return Err(InstallError::Foreign(path));
    }
    let public = format!("{}\n", key.public);
    let public_path = path.with_extension("pub");
    let public_there = read(&public_path)?;
    if let Some(there) = &public_there
        && *there != public
        && comment(there.trim_end()) != comment(&key.public)
    {
        return Err(InstallError::Foreign(public_path));
    }
    let directory = home.join(".ssh");
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&directory);
    made.map_err(|source| {
        InstallError::Write(DurableError {
            step: "make",
            path: directory,
            source,
        })
    })?;
    if public_there.as_deref() != Some(&public) {
        durable::write_file(&public_path, public.as_bytes(), Attributes::mode(0o644))?;
    }
    let is_private =
        std::fs::metadata(&path).is_ok_and(|m| m.permissions().mode() & 0o777 == 0o600);
    let right = there.as_deref() == Some(private) && is_private;
    if !right {
        durable::write_file(&path, private.as_bytes(), Attributes::mode(0o600))?;
    }
    Ok(!right)
}

fn read(path: &Path) -> Result<Option<String>, InstallError> {
    let failed = |source| InstallError::Read {
        path: path.to_owned(),
        source,
    };
    match std::fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
        Ok(m) if m.len() > LARGEST => return Err(failed(std::io::Error::other("more than 1 MiB"))),
        Ok(_) => {}
    }
    std::fs::read_to_string(path).map(Some).map_err(failed)
}

/// What stands after the key in its public half.
fn comment(public: &str) -> Option<&str> {
    public.split(' ').nth(2)
}

/// Whether a file is an earlier key of the same environment: an OpenSSH key without a passphrase that carries the same
/// comment, as one from before the environment was made anew does.
fn is_ours(file: &str, key: &SshKey) -> bool {
    let Some(comment) = comment(&key.public) else {
        return false;
    };
    let body: String = file.lines().filter(|l| !l.starts_with("-----")).collect();
    let Ok(bytes) = STANDARD.decode(body) else {
        return false;
    };
    let length = u32::try_from(comment.len()).unwrap_or(0).to_be_bytes();
    let field = [&length, comment.as_bytes()].concat();
    bytes.starts_with(b"openssh-key-v1\0") && bytes.windows(field.len()).any(|w| w == field)
}

/// The block: for the machines' names and their addresses in the VPC.
fn block(environment: &Environment) -> String {
    let name = &environment.name;
    let addresses = patterns(&environment.networks.vpc);
    format!(
        "Host {name}-* {addresses}\n    User {USER}\n    IdentityFile ~/.ssh/{name}\n    IdentitiesOnly yes\n"
    )
}

/// The network as a pattern of ssh's: down to whole octets, so it may match a little more.
fn patterns(network: &Cidr) -> String {
    let octets = Ipv4Addr::octets(&network.network());
    let [a, b, c, _] = octets;
    match network.prefix() {
        24..=32 => format!("{a}.{b}.{c}.*"),
        16..=23 => format!("{a}.{b}.*"),
        _ => format!("{a}.*"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::pki::new_ssh_key;
    use crate::testing::environment;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn it_is_installed_once_and_nothing_else_is_lost() {
        let home = tempfile::tempdir().unwrap();
        let dev = environment("");
        let key = new_ssh_key("platform-dev").unwrap();
        let first = install_key(&dev, &key, home.path()).unwrap();
        assert!(first.wrote_key && first.wrote_config);
        assert_eq!(mode(&first.key), 0o600);
        assert_eq!(mode(&home.path().join(".ssh")), 0o700);
        assert_eq!(
            fs::read_to_string(&first.key).unwrap(),
            key.private.expose()
        );
        let config = fs::read_to_string(&first.config).unwrap();
        assert!(
            config.contains("Host dev-* 10.100.*\n    User core\n    IdentityFile ~/.ssh/dev\n"),
            "{config}"
        );
        let again = install_key(&dev, &key, home.path()).unwrap();
        assert!(!again.wrote_key && !again.wrote_config);

        // Somebody's own lines, his mode and his link stay.
        let own = home.path().join("dotfiles");
        fs::write(&own, "# mine\nHost old\n").unwrap();
        fs::set_permissions(&own, fs::Permissions::from_mode(0o640)).unwrap();
        let link = home.path().join(".ssh/config");
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&own, &link).unwrap();
        // A key that everybody may read is no key to ssh.
        fs::set_permissions(&first.key, fs::Permissions::from_mode(0o644)).unwrap();
        let mended = install_key(&dev, &key, home.path()).unwrap();
        assert!(mended.wrote_key && mended.wrote_config);
        assert_eq!((mode(&mended.key), mode(&own)), (0o600, 0o640));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let text = fs::read_to_string(&own).unwrap();
        assert!(
            text.starts_with("# mine\nHost old\n") && text.contains("Host dev-*"),
            "{text}"
        );
    }

    #[test]
    fn an_earlier_key_gives_way_and_somebody_elses_does_not() {
        let home = tempfile::tempdir().unwrap();
        let dev = environment("");
        let (one, two) = (new_ssh_key("platform-dev"), new_ssh_key("platform-dev"));
        install_key(&dev, &one.unwrap(), home.path()).unwrap();
        let two = two.unwrap();
        assert!(install_key(&dev, &two, home.path()).unwrap().wrote_key);
        let path = key_path(&dev, home.path());
        for foreign in [
            new_ssh_key("me@home").unwrap().private.expose().to_owned(),
            "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n".to_owned(),
            String::new(),
        ] {
            fs::write(&path, &foreign).unwrap();
            let config = home.path().join(".ssh/config");
            fs::write(&config, "Host mine\n").unwrap();
            let error = install_key(&dev, &two, home.path()).unwrap_err();
            assert!(matches!(error, InstallError::Foreign(_)), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), foreign);
            assert_eq!(fs::read_to_string(&config).unwrap(), "Host mine\n");
        }
    }

    #[test]
    fn a_damaged_block_stops_everything() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join(".ssh")).unwrap();
        fs::write(
            home.path().join(".ssh/config"),
            "# platformctl: begin dev\n",
        )
        .unwrap();
        let key = new_ssh_key("platform-dev").unwrap();
        let error = install_key(&environment(""), &key, home.path()).unwrap_err();
        assert!(error.to_string().contains(".ssh/config: line 1"), "{error}");
        assert!(!home.path().join(".ssh/dev").exists());
    }

    #[test]
    fn networks_as_patterns() {
        for (network, pattern) in [
            ("10.100.0.0/16", "10.100.*"),
            ("10.100.16.0/20", "10.100.*"),
            ("10.100.7.0/24", "10.100.7.*"),
            ("10.100.7.16/28", "10.100.7.*"),
        ] {
            assert_eq!(patterns(&network.parse().unwrap()), pattern);
        }
    }
}
