//! Who we are to AWS, and whether that is the environment's account.

use super::{Aws, AwsError, call};
use crate::env::{Account, Environment};
use crate::exit::Mistake;

/// Who signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The account's 12 digits.
    pub account: String,
    /// The user or the role's session.
    pub arn: String,
}

/// The account is not the environment's, or it cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// It is another one.
    #[error(
        "these credentials are of account {found}, but aws_account of environment {environment} is {wanted}: log in to the \
         right account (aws_profile, AWS_PROFILE), or mend aws_account"
    )]
    Other {
        /// The environment.
        environment: String,
        /// What it names.
        wanted: String,
        /// What the credentials are of.
        found: String,
    },
    /// The environment names an alias, and the account's cannot be read.
    #[error(
        "aws_account of environment {environment} is the alias {wanted}, which cannot be compared with account {found}; \
         the account's 12 digits there need no permission"
    )]
    Alias {
        /// The environment.
        environment: String,
        /// What it names.
        wanted: String,
        /// What the credentials are of.
        found: String,
        /// Why not.
        #[source]
        source: Box<AwsError>,
    },
}

impl Aws {
    /// Who the credentials are of; needs no permission.
    ///
    /// # Errors
    /// [`AwsError`].
    pub async fn caller(&self) -> Result<Caller, AwsError> {
        let answer = call(
            "sts:GetCallerIdentity",
            format!("region {}", self.region()),
            self.sts().get_caller_identity().send(),
        )
        .await?;
        Ok(Caller {
            account: answer.account().unwrap_or_default().to_owned(),
            arn: answer.arn().unwrap_or_default().to_owned(),
        })
    }

    /// The account's aliases: one at most.
    ///
    /// # Errors
    /// [`AwsError`].
    pub async fn aliases(&self) -> Result<Vec<String>, AwsError> {
        let answer = call(
            "iam:ListAccountAliases",
            "the account",
            self.iam().list_account_aliases().send(),
        )
        .await?;
        Ok(answer.account_aliases)
    }

    /// Holds the credentials against the environment's account: to be called before anything is changed.
    ///
    /// # Errors
    /// An [`AwsError`] where the credentials do not work; [`AccountError`], which is a [`Mistake`], where they are of
    /// another account.
    pub async fn require_account(&self, environment: &Environment) -> anyhow::Result<Caller> {
        let caller = self.caller().await?;
        let aliases = match needs_aliases(environment) {
            true => self.aliases().await,
            false => Ok(Vec::new()),
        };
        judge_account(environment, &caller, aliases).map_err(|error| match error {
            AccountError::Other { .. } => anyhow::Error::new(Mistake(error.to_string())),
            AccountError::Alias { .. } => anyhow::Error::new(error),
        })?;
        Ok(caller)
    }
}

fn is_number(account: &Account) -> bool {
    account.as_str().bytes().all(|b| b.is_ascii_digit())
}

/// Whether the environment names its account by an alias.
pub(crate) fn needs_aliases(environment: &Environment) -> bool {
    environment.account.as_ref().is_some_and(|a| !is_number(a))
}

/// Whether the caller is of the environment's account.
pub(crate) fn judge_account(
    environment: &Environment,
    caller: &Caller,
    aliases: Result<Vec<String>, AwsError>,
) -> Result<(), AccountError> {
    let Some(wanted) = &environment.account else {
        return Ok(());
    };
    let other = |found: String| AccountError::Other {
        environment: environment.name.to_string(),
        wanted: wanted.to_string(),
        found,
    };
    if is_number(wanted) {
        return match caller.account == wanted.as_str() {
            true => Ok(()),
            false => Err(other(caller.account.clone())),
        };
    }
    match aliases {
        Ok(aliases) if aliases.iter().any(|a| a == wanted.as_str()) => Ok(()),
        Ok(aliases) => Err(other(match aliases.first() {
            Some(alias) => format!("{} ({alias})", caller.account),
            None => format!("{} (which has no alias)", caller.account),
        })),
        Err(source) => Err(AccountError::Alias {
            environment: environment.name.to_string(),
            wanted: wanted.to_string(),
            found: caller.account.clone(),
            source: Box::new(source),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::AwsErrorKind;
    use super::*;
    use crate::testing::environment;

    fn caller() -> Caller {
        Caller {
            account: "123456789012".to_owned(),
            arn: "arn:aws:iam::123456789012:user/op".to_owned(),
        }
    }

    #[test]
    fn the_account_is_held_against_digits_or_an_alias() {
        let by_number = environment("");
        let of = |account: &str| Caller {
            account: account.to_owned(),
            ..caller()
        };
        assert!(!needs_aliases(&by_number));
        judge_account(&by_number, &caller(), Ok(vec![])).unwrap();
        let error = judge_account(&by_number, &of("210987654321"), Ok(vec![])).unwrap_err();
        assert!(
            error.to_string().contains(
                "of account 210987654321, but aws_account of environment dev is 123456789012"
            ),
            "{error}"
        );
        let by_alias = environment("aws_account = \"acme-dev\"");
        assert!(needs_aliases(&by_alias));
        let aliases = |names: &[&str]| Ok(names.iter().map(|n| (*n).to_owned()).collect());
        judge_account(&by_alias, &caller(), aliases(&["acme-dev"])).unwrap();
        for (found, says) in [
            (aliases(&["acme-prod"]), "123456789012 (acme-prod)"),
            (aliases(&[]), "(which has no alias)"),
            (
                Err(AwsError::made_up(
                    "iam:ListAccountAliases",
                    AwsErrorKind::Denied,
                )),
                "cannot be compared",
            ),
        ] {
            let error = judge_account(&by_alias, &caller(), found).unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
