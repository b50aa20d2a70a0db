//! What rotates, and what a step changes.

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use shared::documents::{
    Authority, AuthorityName, OlderKey, OutOfStep, Pki, RewriteMark, Rotating, Step,
};

use crate::pki::{
    Names, PkiError, issue_rewriter, new_authority, new_bootstrap_token, new_encryption_key,
    new_key_pair, next_generation,
};

/// How long a service account's token may be used after it was issued: kubelet replaces a pod's within a day.
const ACCOUNT_TOKENS: SignedDuration = SignedDuration::from_hours(48);
/// How long a kubelet's certificate lives (`--cluster-signing-duration` of kube-controller-manager, and a day for the
/// rollout of its last one that signs with the predecessor): the kubelet asks for another when it likes, and no report says
/// by which authority its present one was issued.
const KUBELET_CERTIFICATES: SignedDuration = SignedDuration::from_hours(720 + 24);

/// Something in the keyring that is replaced in steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A certificate authority.
    Authority(AuthorityName),
    /// The key that signs the tokens of service accounts.
    ServiceAccounts,
    /// The token with which new machines ask for a certificate.
    Tokens,
    /// The key with which the API server encrypts what it stores.
    Encryption,
}

/// A step of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The successor is trusted.
    Stage,
    /// The successor is used.
    Promote,
    /// What was made with the predecessor is made anew.
    Rewrite,
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
            Self::Encryption => "encryption",
        }
    }

    /// How far its rotation is; none where the PKI lacks it.
    #[must_use]
    pub fn step(self, pki: &Pki) -> Option<Step> {
        match self {
            Self::Authority(name) => pki.authorities.get(&name).map(Rotating::step),
            Self::ServiceAccounts => Some(pki.service_accounts.step()),
            Self::Tokens => Some(pki.bootstrap.step()),
            Self::Encryption => Some(encryption_step(pki)),
        }
    }

    /// The step that follows.
    #[must_use]
    pub const fn after(self, step: Step) -> Action {
        match (self, step) {
            (_, Step::Steady) => Action::Stage,
            (_, Step::Staged) => Action::Promote,
            (Self::Encryption, Step::Promoted) => Action::Rewrite,
            (_, Step::Promoted | Step::Rewriting) => Action::Retire,
        }
    }

    /// How long after it was promoted what its predecessor has issued may still be in use.
    #[must_use]
    pub const fn outlives(self) -> SignedDuration {
        match self {
            Self::Authority(AuthorityName::KubeletClient) => KUBELET_CERTIFICATES,
            Self::ServiceAccounts => ACCOUNT_TOKENS,
            Self::Authority(_) | Self::Tokens | Self::Encryption => SignedDuration::ZERO,
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
            Self::Encryption => encryption(pki, action, now),
        }
    }
}

/// What a restore has brought back keeps a rotation from being over: it is to be rewritten too.
fn encryption_step(pki: &Pki) -> Step {
    match pki.encryption.step() {
        Step::Staged => Step::Staged,
        _ if pki.at_rest.rewrite.is_some() => Step::Rewriting,
        Step::Steady if pki.at_rest.reading().next().is_none() => Step::Steady,
        _ => Step::Promoted,
    }
}

fn encryption(pki: &mut Pki, action: Action, now: Timestamp) -> Result<(), StepError> {
    let found = encryption_step(pki);
    let out_of_step = |wanted| Err(StepError::OutOfStep(OutOfStep { found, wanted }));
    match (action, found) {
        (Action::Stage, Step::Steady) => pki.encryption.stage(new_encryption_key())?,
        (Action::Promote, Step::Staged) => pki.encryption.promote()?,
        // Once more: what the nodes come to the API server with has an end.
        (Action::Rewrite, Step::Promoted | Step::Rewriting) => {
            let client = issue_rewriter(pki, now)?;
            let number = pki.at_rest.orders + 1;
            pki.at_rest.orders = number;
            pki.at_rest.rewrite = Some(RewriteMark { number, client });
        }
        (Action::Retire, Step::Rewriting) => {
            for older in &mut pki.at_rest.older {
                older.reads = false;
            }
            // A backup may hold what it encrypted.
            if let Some(key) = pki.encryption.previous.take() {
                let older = OlderKey {
                    key,
                    reads: false,
                    retired: None,
                };
                pki.at_rest.older.push(older);
            }
            pki.at_rest.rewrite = None;
        }
        (Action::Stage, _) => return out_of_step("staged"),
        (Action::Promote, _) => return out_of_step("promoted"),
        (Action::Rewrite, _) => return out_of_step("rewritten"),
        (Action::Retire, _) => return out_of_step("retired"),
    }
    Ok(())
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
        Action::Rewrite => {
            let found = rotating.step();
            return Err(StepError::OutOfStep(OutOfStep {
                found,
                wanted: "rewritten",
            }));
        }
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
    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stage => "stage",
            Self::Promote => "promote",
            Self::Rewrite => "rewrite",
            Self::Retire => "retire",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
