//! Which release to run: decided from what is verified and what is on the disk, and nothing else.

use shared::digest::Sha256Digest;
use shared::names::{EnvironmentName, GroupName, ReleaseNumber};
use shared::trust::{ReleaseTarget, TargetError};

/// What to do about the release that the verified metadata lists as current.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Nothing has been published yet.
    NothingPublished,
    /// It is on the disk.
    UpToDate,
    /// It is to be adopted.
    Adopt(Box<ReleaseTarget>),
}

/// Genuine metadata that a node must not follow all the same.
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    /// Made for another environment or group.
    #[error("the published release is not for this node")]
    Foreign(#[source] TargetError),
    /// Numbers only grow.
    #[error(
        "release {published} is published, but release {on_disk} is on this node already: numbers only grow"
    )]
    Older {
        /// The number published.
        published: ReleaseNumber,
        /// The number on disk.
        on_disk: ReleaseNumber,
    },
    /// One number, two contents.
    #[error(
        "release {release} is published as bundle {}, but this node has it as bundle {}: one number must not name \
         two bundles", published.short(), on_disk.short()
    )]
    Equivocation {
        /// The number.
        release: ReleaseNumber,
        /// The bundle published.
        published: Sha256Digest,
        /// The bundle on disk.
        on_disk: Sha256Digest,
    },
    /// A removal needs a signed release without the files.
    #[error("no release is published any more, but release {0} is on this node: it stays")]
    Withdrawn(ReleaseNumber),
}

/// Decides (§4.6).
///
/// # Errors
/// [`ChoiceError`]; the node stays as it is then.
pub fn choose(
    current: Option<&ReleaseTarget>,
    on_disk: Option<(ReleaseNumber, Sha256Digest)>,
    environment: &EnvironmentName,
    group: &GroupName,
) -> Result<Choice, ChoiceError> {
    let Some(target) = current else {
        return match on_disk {
            None => Ok(Choice::NothingPublished),
            Some((release, _)) => Err(ChoiceError::Withdrawn(release)),
        };
    };
    target
        .belongs_to(environment, group)
        .map_err(ChoiceError::Foreign)?;
    let Some((release, digest)) = on_disk else {
        return Ok(Choice::Adopt(Box::new(target.clone())));
    };
    match target.release().cmp(&release) {
        std::cmp::Ordering::Less => Err(ChoiceError::Older {
            published: target.release(),
            on_disk: release,
        }),
        std::cmp::Ordering::Greater => Ok(Choice::Adopt(Box::new(target.clone()))),
        std::cmp::Ordering::Equal if target.sha256 == digest => Ok(Choice::UpToDate),
        std::cmp::Ordering::Equal => Err(ChoiceError::Equivocation {
            release,
            published: target.sha256,
            on_disk: digest,
        }),
    }
}

// === impl ChoiceError ===

impl ChoiceError {
    /// A word for metrics labels.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Foreign(_) => "foreign",
            Self::Older { .. } => "rollback",
            Self::Equivocation { .. } => "equivocation",
            Self::Withdrawn(_) => "withdrawn",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use shared::trust::{BundleCustom, KeyringMark, bundle_name};
    use shared::wrap::{WrapMethod, WrappedIdentity};

    fn number(n: u64) -> ReleaseNumber {
        ReleaseNumber::new(n).unwrap()
    }

    fn target(n: u64, content: &[u8]) -> ReleaseTarget {
        ReleaseTarget {
            name: bundle_name(number(n)),
            length: 1,
            sha256: Sha256Digest::of(content),
            custom: BundleCustom {
                environment: "dev".parse().unwrap(),
                group: "secure".parse().unwrap(),
                release: number(n),
                identity: WrappedIdentity {
                    method: WrapMethod::LocalFile,
                    key: String::new(),
                    ciphertext: String::new(),
                },
                content: String::new(),
                keyring: KeyringMark {
                    version: 1,
                    sha256: Sha256Digest::of(b"k"),
                },
                published_at: Timestamp::UNIX_EPOCH,
                published_by: String::new(),
                agent: None,
                artifacts: Vec::new(),
                replaces: None,
                brings_back: None,
                content_unwaived: None,
            },
        }
    }

    fn decide(
        current: Option<&ReleaseTarget>,
        on_disk: Option<(u64, &[u8])>,
    ) -> Result<Choice, &'static str> {
        let on_disk = on_disk.map(|(n, c)| (number(n), Sha256Digest::of(c)));
        choose(
            current,
            on_disk,
            &"dev".parse().unwrap(),
            &"secure".parse().unwrap(),
        )
        .map_err(|e| e.kind())
    }

    #[test]
    fn numbers_only_grow_and_name_one_bundle() {
        let five = target(5, b"five");
        let adopt = Ok(Choice::Adopt(Box::new(five.clone())));
        assert_eq!(decide(None, None), Ok(Choice::NothingPublished));
        assert_eq!(decide(None, Some((5, b"five"))), Err("withdrawn"));
        assert_eq!(decide(Some(&five), None), adopt);
        assert_eq!(decide(Some(&five), Some((4, b"four"))), adopt);
        assert_eq!(
            decide(Some(&five), Some((5, b"five"))),
            Ok(Choice::UpToDate)
        );
        assert_eq!(
            decide(Some(&five), Some((5, b"other"))),
            Err("equivocation")
        );
        assert_eq!(decide(Some(&five), Some((6, b"five"))), Err("rollback"));
    }

    #[test]
    fn another_groups_release_is_refused() {
        let group = "compute".parse().unwrap();
        let refused = choose(Some(&target(5, b"")), None, &"dev".parse().unwrap(), &group);
        assert_eq!(refused.unwrap_err().kind(), "foreign");
    }
}
