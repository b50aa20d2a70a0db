//! Versions of what runs.

use super::{Refused, digits_only};
use crate::env::keys::SUPPORTED_KUBERNETES_MINOR;

/// `1.2.3` as numbers; no leading zeros, as image tags have none.
fn three_numbers(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.split('.').map(|part| {
        let plain = digits_only(part) && (part.len() == 1 || !part.starts_with('0'));
        plain.then(|| part.parse::<u32>().ok()).flatten()
    });
    let version = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(version)
}

pub(super) fn check_kubernetes(text: &str) -> Result<(), Refused> {
    let Some((major, minor, _)) = three_numbers(text) else {
        let bare = text
            .strip_prefix('v')
            .filter(|bare| three_numbers(bare).is_some());
        let help = bare.map_or("a version looks like 1.36.3".to_owned(), |bare| {
            format!("write it without the v: {bare}")
        });
        return Err(Refused::because("is not a Kubernetes version").but(help));
    };
    if format!("{major}.{minor}") == SUPPORTED_KUBERNETES_MINOR {
        return Ok(());
    }
    Err(Refused::because(format!("is Kubernetes {major}.{minor}; this release of the platform runs {SUPPORTED_KUBERNETES_MINOR} only"))
        .but(format!("take a {SUPPORTED_KUBERNETES_MINOR} patch, or the platform release for {major}.{minor}")))
}

pub(super) fn check_etcd(text: &str) -> Result<(), Refused> {
    let version = text
        .split_once('-')
        .filter(|(_, build)| digits_only(build))
        .and_then(|(version, _)| three_numbers(version));
    match version {
        Some(version @ (3, _, _)) if version >= (3, 5, 24) => Ok(()),
        Some(_) => Err(Refused::because(
            "is an etcd that Kubernetes 1.36 does not accept; it takes 3.5.24 and later 3.x",
        )),
        None => Err(Refused::because("is not an etcd version")
            .but("it is the tag of the image, like 3.6.8-0")),
    }
}
