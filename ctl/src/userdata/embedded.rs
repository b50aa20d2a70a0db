//! The files that user data is made of.

use std::borrow::Cow;
use std::path::Path;

use super::UserDataError;

/// The template's path, in `cloudinit/` and in messages.
pub const TEMPLATE: &str = "cloudinit/user-data.j2";

/// Every file of `cloudinit/`, by path within it. A test keeps the table equal to the directory.
pub const EMBEDDED: &[(&str, &str)] = &[
    ("README.md", include_str!("../../../cloudinit/README.md")),
    (
        "user-data.j2",
        include_str!("../../../cloudinit/user-data.j2"),
    ),
];

/// Programs of `agent/dist/libexec` that go to `/etc/platform-agent`, by name: what starts before the agent.
/// A program that is added there is added here and to [`DIST`]; a test says so.
pub const PROGRAMS: &[&str] = &["platform-boot", "platform-agent-guard"];

macro_rules! dist {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../../agent/dist/", $path)))),*]
    };
}

/// What templates can take from `agent/dist`, by path within it. A test keeps the table equal to the directory.
pub const DIST: &[(&str, &str)] = dist![
    "libexec/platform-agent-guard",
    "libexec/platform-boot",
    "modules-load.d/platform.conf",
    "sysctl.d/90-platform.conf",
    "systemd/kubelet.service",
    "systemd/ntpd.service.d/10-platform.conf",
    "systemd/platform-agent.service",
    "systemd/platform-boot.service",
    "systemd/platform.target",
    "tmpfiles.d/platform-agent.conf",
];

/// The template for a working directory: its own if it has one, else the embedded one.
///
/// # Errors
/// One that cannot be read.
pub fn template_for_working_dir(directory: &Path) -> Result<Cow<'static, str>, UserDataError> {
    let path = directory.join(TEMPLATE);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Cow::Owned(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Cow::Borrowed(include_str!(
            "../../../cloudinit/user-data.j2"
        ))),
        Err(source) => Err(UserDataError::Read { path, source }),
    }
}

/// A unit, a script or a list without its comments and blank lines: user data has little room, and they are in
/// `agent/dist` for who reads them. A program's first line stays.
#[must_use]
pub fn compact(text: &str) -> String {
    text.lines()
        .enumerate()
        .filter(|(at, line)| {
            let line = line.trim_start();
            !line.is_empty() && (!line.starts_with('#') || (*at == 0 && line.starts_with("#!")))
        })
        .map(|(_, line)| format!("{line}\n"))
        .collect()
}
