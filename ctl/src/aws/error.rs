//! What AWS refused or did not answer, in a kind, with what to do.

use std::error::Error as StdError;
use std::fmt;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::DEADLINE;

/// Longest text of an answer that is shown: EC2 appends kilobytes of an encoded message to some.
const SHOWN: usize = 400;

/// What kind of failure it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AwsErrorKind {
    /// There are no credentials to sign with, or they could not be read.
    NoCredentials,
    /// The credentials have run out.
    Expired,
    /// AWS does not know the credentials.
    InvalidCredentials,
    /// The credentials are good, but may not do this.
    Denied,
    /// The clocks are too far apart.
    ClockSkew,
    /// The region is not enabled in this account.
    RegionDisabled,
    /// What was asked for is not there.
    NotFound,
    /// Too many requests.
    Throttled,
    /// No connection.
    Unreachable,
    /// No answer within [`DEADLINE`].
    Late,
    /// Anything else, by AWS's own word for it.
    Other(String),
}

/// A request to AWS that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{action} on {object} failed: {kind}; {}", self.advice())]
pub struct AwsError {
    /// The action as a policy calls it.
    pub action: &'static str,
    /// What it was about.
    pub object: String,
    /// Of which kind.
    pub kind: AwsErrorKind,
    /// The HTTP status, where there was an answer.
    pub status: Option<u16>,
    /// The region that the answer names as the right one: S3 does, for a bucket.
    pub bucket_region: Option<String>,
    /// What was answered.
    #[source]
    answer: Answer,
}

/// The text of an answer, or why there is none.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
struct Answer(String);

// === impl AwsError ===

impl AwsError {
    pub(super) fn of<E>(
        action: &'static str,
        object: String,
        error: &SdkError<E, HttpResponse>,
    ) -> Self
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let raw = error.raw_response();
        let service = error.as_service_error().map(ProvideErrorMetadata::meta);
        let code = service.and_then(|m| m.code()).unwrap_or_default();
        let message = service.and_then(|m| m.message()).unwrap_or_default();
        let status = raw.map(|r| r.status().as_u16());
        let kind = match error {
            _ if credentials_in(error).is_some() => AwsErrorKind::NoCredentials,
            SdkError::TimeoutError(_) => AwsErrorKind::Late,
            SdkError::DispatchFailure(_) => AwsErrorKind::Unreachable,
            _ => kind_of(code, message, status.unwrap_or(0)),
        };
        let answer = match (service, code) {
            (Some(_), code) if !code.is_empty() => format!("{code}: {message}"),
            _ => chain(error),
        };
        let header = raw.and_then(|r| r.headers().get("x-amz-bucket-region"));
        Self {
            action,
            object,
            kind,
            status,
            bucket_region: header.map(str::to_owned),
            answer: Answer(answer.chars().take(SHOWN).collect()),
        }
    }

    pub(super) fn late(action: &'static str, object: String) -> Self {
        Self {
            action,
            object,
            kind: AwsErrorKind::Late,
            status: None,
            bucket_region: None,
            answer: Answer("the deadline passed".to_owned()),
        }
    }

    /// A failure as a test of a judgement wants it.
    #[cfg(test)]
    pub(crate) fn made_up(action: &'static str, kind: AwsErrorKind) -> Self {
        Self {
            action,
            object: "it".to_owned(),
            kind,
            status: None,
            bucket_region: None,
            answer: Answer("made up".to_owned()),
        }
    }

    /// What was answered.
    #[must_use]
    pub fn answer(&self) -> &str {
        &self.answer.0
    }

    /// Whether it is the credentials, so that nothing else would work either.
    #[must_use]
    pub fn is_about_credentials(&self) -> bool {
        matches!(
            self.kind,
            AwsErrorKind::NoCredentials | AwsErrorKind::Expired | AwsErrorKind::InvalidCredentials
        )
    }

    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> String {
        match &self.kind {
            AwsErrorKind::NoCredentials => {
                "log in (`aws sso login --profile PROFILE`), or mend aws_profile, ~/.aws or the AWS_… variables".to_owned()
            }
            AwsErrorKind::Expired => "log in again (`aws sso login`, or fetch a new session token)".to_owned(),
            AwsErrorKind::InvalidCredentials => {
                "check the profile's access key, and that the account has the region enabled".to_owned()
            }
            AwsErrorKind::Denied => format!("have {} allowed to whoever you are logged in as", self.action),
            AwsErrorKind::ClockSkew => "set this machine's clock (`timedatectl set-ntp true`)".to_owned(),
            AwsErrorKind::RegionDisabled => "enable the region in the account's settings, or change aws_region".to_owned(),
            AwsErrorKind::NotFound => "check its name, and that it is in this account and region".to_owned(),
            AwsErrorKind::Throttled => "try again in a minute".to_owned(),
            AwsErrorKind::Unreachable | AwsErrorKind::Late => {
                "check the network, HTTPS_PROXY and aws_endpoint_url, then try again".to_owned()
            }
            AwsErrorKind::Other(_) => "see AWS's own words below".to_owned(),
        }
    }
}

// === impl AwsErrorKind ===

impl fmt::Display for AwsErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds;
        f.write_str(match self {
            Self::NoCredentials => "there are no usable AWS credentials",
            Self::Expired => "the AWS credentials have expired",
            Self::InvalidCredentials => "AWS does not accept these credentials",
            Self::Denied => "access denied",
            Self::ClockSkew => "this machine's clock is too far from AWS's",
            Self::RegionDisabled => "the region is not enabled in this account",
            Self::NotFound => "not found",
            Self::Throttled => "AWS is throttling this account",
            Self::Unreachable => "AWS cannot be reached",
            Self::Late => {
                seconds = format!("no answer within {} s", DEADLINE.as_secs());
                &seconds
            }
            Self::Other(word) => word,
        })
    }
}

/// The kind of an answer, by the common error codes of AWS's query, JSON and REST services.
fn kind_of(code: &str, message: &str, status: u16) -> AwsErrorKind {
    let skewed = ["not yet current", "Signature expired"];
    match (code, status) {
        ("RequestTimeTooSkewed", _) => AwsErrorKind::ClockSkew,
        ("SignatureDoesNotMatch" | "InvalidSignatureException" | "RequestExpired", _)
            if code == "RequestExpired" || skewed.iter().any(|s| message.contains(s)) =>
        {
            AwsErrorKind::ClockSkew
        }
        ("ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired", _) => {
            AwsErrorKind::Expired
        }
        ("OptInRequired" | "SubscriptionRequiredException", _) => AwsErrorKind::RegionDisabled,
        (
            "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "InvalidAccessKeyId"
            | "AuthFailure"
            | "SignatureDoesNotMatch"
            | "InvalidSignatureException"
            | "InvalidToken"
            | "MissingAuthenticationToken"
            | "MissingAuthenticationTokenException"
            | "IncompleteSignature",
            _,
        ) => AwsErrorKind::InvalidCredentials,
        (
            "AccessDenied"
            | "AccessDeniedException"
            | "UnauthorizedOperation"
            | "AuthorizationError",
            _,
        ) => AwsErrorKind::Denied,
        (
            "Throttling"
            | "ThrottlingException"
            | "ThrottledException"
            | "RequestLimitExceeded"
            | "SlowDown"
            | "TooManyRequestsException",
            _,
        )
        | (_, 429) => AwsErrorKind::Throttled,
        (code, _)
            if code.ends_with("NotFound")
                || code.ends_with("NotFoundException")
                || code.ends_with(".Malformed")
                || code.starts_with("NoSuch") =>
        {
            AwsErrorKind::NotFound
        }
        ("", 401 | 403) => AwsErrorKind::Denied,
        ("", 404) => AwsErrorKind::NotFound,
        ("", status) => AwsErrorKind::Other(format!("status {status}")),
        (code, _) => AwsErrorKind::Other(code.to_owned()),
    }
}

fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |e| (*e).source())
}

fn credentials_in<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a CredentialsError> {
    causes(error).find_map(|cause| cause.downcast_ref())
}

/// The chain of causes in one line, without what the SDK says twice.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut texts: Vec<String> = Vec::new();
    for cause in causes(error) {
        let text = cause.to_string();
        if !texts.iter().any(|seen| seen.contains(&text)) {
            texts.push(text);
        }
    }
    texts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_kinds() {
        use AwsErrorKind::*;
        for (code, message, status, kind) in [
            ("ExpiredToken", "", 403, Expired),
            ("ExpiredTokenException", "", 400, Expired),
            ("RequestExpired", "", 400, ClockSkew),
            ("RequestTimeTooSkewed", "", 403, ClockSkew),
            (
                "SignatureDoesNotMatch",
                "Signature expired: …",
                403,
                ClockSkew,
            ),
            (
                "SignatureDoesNotMatch",
                "The request signature …",
                403,
                InvalidCredentials,
            ),
            ("InvalidClientTokenId", "", 403, InvalidCredentials),
            ("AuthFailure", "", 401, InvalidCredentials),
            ("UnauthorizedOperation", "", 403, Denied),
            ("AccessDeniedException", "", 400, Denied),
            ("", "", 403, Denied),
            ("", "", 404, NotFound),
            ("InvalidAMIID.NotFound", "", 400, NotFound),
            ("InvalidAMIID.Malformed", "", 400, NotFound),
            ("NotFoundException", "", 400, NotFound),
            ("NoSuchBucket", "", 404, NotFound),
            ("OptInRequired", "", 403, RegionDisabled),
            ("RequestLimitExceeded", "", 503, Throttled),
            (
                "ValidationError",
                "",
                400,
                Other("ValidationError".to_owned()),
            ),
            ("", "", 500, Other("status 500".to_owned())),
        ] {
            assert_eq!(kind_of(code, message, status), kind, "{code} {status}");
        }
    }

    #[test]
    fn every_failure_names_the_action_the_object_and_what_to_do() {
        let error = AwsError::made_up("kms:DescribeKey", AwsErrorKind::Denied);
        assert_eq!(
            error.to_string(),
            "kms:DescribeKey on it failed: access denied; have kms:DescribeKey allowed to whoever you are logged in as"
        );
        assert_eq!(error.source().unwrap().to_string(), "made up");
    }
}
