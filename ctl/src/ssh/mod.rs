//! The operators' way onto the machines: the environment's key in `~/.ssh`, and the command that uses it.

mod block;
mod install;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub use block::{DamagedBlock, with_block};
pub use install::{InstallError, Installed, install_key, key_path, write_key};

use crate::instances::Instance;

/// The user that the machines let in with the environment's key.
pub const USER: &str = "core";

/// The home directory of whoever calls, by its variable.
///
/// # Errors
/// A [`crate::exit::Mistake`] where it is not set.
pub fn home_directory() -> anyhow::Result<PathBuf> {
    std::env::var_os("HOME")
        .filter(|home| !home.is_empty())
        .map(PathBuf::from)
        .ok_or_else(|| crate::exit::mistake("HOME is not set: it says where ~/.ssh is"))
}

/// The arguments of `ssh` for a machine, after the program's name; none where the machine has no address. Addresses are
/// given to other machines later, so what is remembered of a host's key is remembered by the instance's id.
#[must_use]
pub fn arguments(
    instance: &Instance,
    key: &Path,
    private: bool,
    command: &[OsString],
) -> Option<Vec<OsString>> {
    let public = instance.public_ip.as_ref().filter(|_| !private);
    let address = public.or(instance.private_ip.as_ref())?;
    let options = [
        "IdentitiesOnly=yes".to_owned(),
        "StrictHostKeyChecking=accept-new".to_owned(),
        format!("HostKeyAlias={}", instance.id),
    ];
    let mut all = vec![OsString::from("-i"), key.into()];
    for option in options {
        all.extend([OsString::from("-o"), option.into()]);
    }
    all.push(format!("{USER}@{address}").into());
    if !command.is_empty() {
        // What follows is the command's, dashes or not.
        all.push("--".into());
        all.extend(command.iter().cloned());
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instances::tests::instance;

    fn text(arguments: Option<Vec<OsString>>) -> String {
        let arguments = arguments.unwrap();
        let words: Vec<_> = arguments.iter().map(|a| a.to_str().unwrap()).collect();
        words.join(" ")
    }

    #[test]
    fn the_public_address_first_and_the_command_last() {
        let mut machine = instance("dev-secure", "i-1", 9);
        let key = Path::new("/home/op/.ssh/dev");
        let common = "-i /home/op/.ssh/dev -o IdentitiesOnly=yes -o StrictHostKeyChecking=accept-new -o HostKeyAlias=i-1";
        assert_eq!(
            text(arguments(&machine, key, false, &[])),
            format!("{common} core@192.0.2.9")
        );
        let command = ["journalctl".into(), "-u".into(), "kubelet".into()];
        assert_eq!(
            text(arguments(&machine, key, true, &command)),
            format!("{common} core@10.100.2.9 -- journalctl -u kubelet")
        );
        machine.public_ip = None;
        assert!(text(arguments(&machine, key, false, &[])).ends_with("core@10.100.2.9"));
        machine.private_ip = None;
        assert_eq!(arguments(&machine, key, false, &[]), None);
    }
}
