//! A targets document by itself: what a publish that never became current has left, what was published while the
//! timestamp that names it is gone, and what older releases have left for whoever looks back.

use jiff::Timestamp;
use tough::schema::{Root, Signed, Targets};

use super::target::{ArtifactTarget, ReleaseTarget, TargetError};
use crate::names::ReleaseNumber;

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

/// What a targets document says by itself: its signature is all that was checked, so it may be expired, superseded, or
/// never have been current.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoneTargets {
    /// Its version, as it was signed.
    pub version: ReleaseNumber,
    /// The newest of the roots under which its signature is good, counted from 1. Keys that came later give a larger one.
    pub newest_root: usize,
    /// The bundles that it lists, by number.
    pub releases: Vec<ReleaseTarget>,
    /// The other targets that it lists.
    pub artifacts: Vec<ArtifactTarget>,
    /// When it expires.
    pub expires: Timestamp,
}

impl LoneTargets {
    /// Reads a document that was signed under one of `roots`, oldest first.
    ///
    /// # Errors
    /// [`LoneTargetsError`].
    pub fn read<'a>(
        roots: impl IntoIterator<Item = &'a str>,
        document: &[u8],
    ) -> Result<Self, LoneTargetsError> {
        let targets: Signed<Targets> =
            serde_json::from_slice(document).map_err(LoneTargetsError::Malformed)?;
        let good_under = |root: &str| {
            let root = serde_json::from_str::<Signed<Root>>(root);
            root.is_ok_and(|root| root.signed.verify_role(&targets).is_ok())
        };
        let newest_root = (1..)
            .zip(roots)
            .filter(|(_, root)| good_under(root))
            .map(|(number, _)| number)
            .last()
            .ok_or(LoneTargetsError::Signature)?;
        let (mut releases, mut artifacts) = (Vec::new(), Vec::new());
        for (name, target) in &targets.signed.targets {
            match ReleaseTarget::read(name.raw(), target).map_err(LoneTargetsError::Target)? {
                Some(release) => releases.push(release),
                None => artifacts.push(ArtifactTarget::read(name.raw(), target)),
            }
        }
        releases.sort_by_key(ReleaseTarget::release);
        Ok(Self {
            version: ReleaseNumber::from(targets.signed.version),
            newest_root,
            releases,
            artifacts,
            expires: targets.signed.expires,
        })
    }

    /// The release that is current where this document is.
    #[must_use]
    pub fn current(&self) -> Option<&ReleaseTarget> {
        self.releases.last()
    }

    /// The release that was known to be good when it was signed.
    #[must_use]
    pub fn good(&self) -> Option<&ReleaseTarget> {
        self.releases.first()
    }
}

/// The current release that a targets document lists, if it was signed under one of `roots`; see [`LoneTargets`].
///
/// # Errors
/// [`LoneTargetsError`].
pub fn release_of_lone_targets<'a>(
    roots: impl IntoIterator<Item = &'a str>,
    document: &[u8],
) -> Result<Option<ReleaseTarget>, LoneTargetsError> {
    Ok(LoneTargets::read(roots, document)?.releases.pop())
}
