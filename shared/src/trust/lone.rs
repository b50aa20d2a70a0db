//! A targets document by itself: what a publish that never became current has left, and what was published while the
//! timestamp that names it is gone.

use tough::schema::{Root, Signed, Targets};

use super::target::{ReleaseTarget, TargetError};

/// Why a targets document by itself says nothing.
#[derive(Debug, thiserror::Error)]
pub enum LoneTargetsError {
    /// It does not parse.
    #[error("it does not parse")]
    Malformed(#[source] serde_json::Error),
    /// No root that was given has keys that signed it.
    #[error("none of the keyring's roots has the key that signed it")]
    Signature,
    /// It is genuine, but what it lists is not acceptable.
    #[error("its targets cannot be used")]
    Target(#[source] TargetError),
}

/// The current release that a targets document lists, if it was signed under one of `roots`: its signature is all that
/// is checked, so it may be expired, superseded, or never have been current.
///
/// # Errors
/// [`LoneTargetsError`].
pub fn release_of_lone_targets<'a>(
    roots: impl IntoIterator<Item = &'a str>,
    document: &[u8],
) -> Result<Option<ReleaseTarget>, LoneTargetsError> {
    let targets: Signed<Targets> =
        serde_json::from_slice(document).map_err(LoneTargetsError::Malformed)?;
    let is_signed = roots
        .into_iter()
        .filter_map(|root| serde_json::from_str::<Signed<Root>>(root).ok())
        .any(|root| root.signed.verify_role(&targets).is_ok());
    if !is_signed {
        return Err(LoneTargetsError::Signature);
    }
    let mut releases = Vec::new();
    for (name, target) in &targets.signed.targets {
        releases.extend(ReleaseTarget::read(name.raw(), target).map_err(LoneTargetsError::Target)?);
    }
    Ok(releases.into_iter().max_by_key(ReleaseTarget::release))
}
