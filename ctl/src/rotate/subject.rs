//! What rotates, and what a step changes.

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use shared::documents::{Authority, AuthorityName, OutOfStep, Pki, Rotating, Step};

use crate::pki::{
    Names, PkiError, new_authority, new_bootstrap_token, new_key_pair, next_generation,
};

/// How long a service account's token may be used after it was issued: kubelet replaces a pod's within a day.
const ACCOUNT_TOKENS: SignedDuration = SignedDuration::from_hours(48);
/// How long a kubelet's certificate lives (kube-controller-manager's default of `--cluster-signing-duration`): the
/// kubelet asks for another when it likes, and no report says by which authority its present one was issued.
const KUBELET_CERTIFICATES: SignedDuration = SignedDuration::from_hours(24 * 365);

/// Something in the keyring that is replaced in steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A certificate authority.
    Authority(AuthorityName),
    /// The key that signs the tokens of service accounts.
    ServiceAccounts,
    /// The token with which new machines ask for a certificate.
    Tokens,
}

/// A step of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The successor is trusted.
    Stage,
    /// The successor is used.
    Promote,
    /// The predecessor is trusted no more.
    Retire,
}

/// A step could not be taken on a PKI.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepError {
    /// It does not follow the one before it.
    #[error(transparent)]
    OutOfStep(#[from] OutOfStep),
    /// Something could not be made.
    #[error(transparent)]
    Make(#[from] PkiError),
}

impl Subject {
    /// Everything that `rotate ca` knows.
    #[must_use]
    pub fn of_ca() -> Vec<Self> {
        let authorities = AuthorityName::ALL.into_iter().map(Self::Authority);
        authorities.chain([Self::ServiceAccounts]).collect()
    }

    /// Its name, on the command line and in the keyring.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Authority(name) => name.as_str(),
            Self::ServiceAccounts => "service-accounts",
            Self::Tokens => "tokens",
        }
    }

    /// How far its rotation is; none where the PKI lacks it.
    #[must_use]
    pub fn step(self, pki: &Pki) -> Option<Step> {
        match self {
            Self::Authority(name) => pki.authorities.get(&name).map(Rotating::step),
            Self::ServiceAccounts => Some(pki.service_accounts.step()),
            Self::Tokens => Some(pki.bootstrap.step()),
        }
    }

    /// How long after it was promoted what its predecessor has issued may still be in use.
    #[must_use]
    pub const fn outlives(self) -> SignedDuration {
        match self {
            Self::Authority(AuthorityName::KubeletClient) => KUBELET_CERTIFICATES,
            Self::ServiceAccounts => ACCOUNT_TOKENS,
            Self::Authority(_) | Self::Tokens => SignedDuration::ZERO,
        }
    }

    /// Takes a step, in memory.
    ///
    /// # Errors
    /// [`StepError`]; nothing is changed then.
    pub(super) fn advance(
        self,
        pki: &mut Pki,
        action: Action,
        names: &Names,
        now: Timestamp,
    ) -> Result<(), StepError> {
        match self {
            Self::Authority(name) => {
                let missing = || PkiError::Missing(format!("{name} authority"));
                let rotating = pki.authorities.get_mut(&name).ok_or_else(missing)?;
                let make = |r: &Rotating<Authority>| {
                    let generation = next_generation(r.trusted());
                    new_authority(&names.environment, name, generation, now)
                };
                step(rotating, action, make)
            }
            Self::ServiceAccounts => step(&mut pki.service_accounts, action, |_| new_key_pair()),
            Self::Tokens => step(&mut pki.bootstrap, action, |_| Ok(new_bootstrap_token())),
        }
    }
}

fn step<T>(
    rotating: &mut Rotating<T>,
    action: Action,
    make: impl FnOnce(&Rotating<T>) -> Result<T, PkiError>,
) -> Result<(), StepError> {
    match action {
        Action::Stage => {
            let next = make(rotating)?;
            rotating.stage(next)?;
        }
        Action::Promote => rotating.promote()?,
        Action::Retire => drop(rotating.retire()?),
    }
    Ok(())
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Subject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::of_ca();
        let found = known.iter().find(|s| s.as_str() == text);
        found.copied().ok_or_else(|| {
            let names: Vec<&str> = known.iter().map(|s| s.as_str()).collect();
            format!("no authority has that name; there are {}", names.join(", "))
        })
    }
}

impl Action {
    /// The step that follows.
    #[must_use]
    pub const fn after(step: Step) -> Self {
        match step {
            Step::Steady => Self::Stage,
            Step::Staged => Self::Promote,
            Step::Promoted => Self::Retire,
        }
    }

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stage => "stage",
            Self::Promote => "promote",
            Self::Retire => "retire",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
