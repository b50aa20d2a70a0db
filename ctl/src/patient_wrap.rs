//! A key that is asked with patience: KMS answers late, throttles a whole account at once, or does not answer.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use shared::secret::SecretText;
use shared::store::Backoff;
use shared::wrap::{KeyWrap, WrapContext, WrapError, WrappedIdentity};

/// How long one answer may take.
const DEADLINE: Duration = Duration::from_secs(15);

/// No answer in time.
#[derive(Debug, thiserror::Error)]
#[error("no answer within {} s", DEADLINE.as_secs())]
struct NoAnswer;

/// Another [`KeyWrap`], with a deadline and retries for what may pass.
#[derive(Debug)]
pub(crate) struct PatientWrap<W> {
    inner: W,
    backoff: Backoff,
    key: String,
}

impl<W: KeyWrap> PatientWrap<W> {
    /// Asks `inner`; `key` is what its failures name.
    #[must_use]
    pub(crate) fn new(inner: W, key: impl fmt::Display) -> Self {
        Self {
            inner,
            backoff: Backoff::INTERACTIVE,
            key: key.to_string(),
        }
    }

    async fn ask<T, F>(&self, operation: &'static str, call: impl Fn() -> F) -> Result<T, WrapError>
    where
        F: Future<Output = Result<T, WrapError>>,
    {
        let mut attempt = 1;
        loop {
            let answer = tokio::time::timeout(DEADLINE, call()).await;
            let error = match answer {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => error,
                Err(_) => WrapError::Kms {
                    operation,
                    key: self.key.clone(),
                    transient: true,
                    source: Box::new(NoAnswer),
                },
            };
            if !error.is_transient() || attempt >= self.backoff.attempts {
                return Err(error);
            }
            tokio::time::sleep(self.backoff.pause(attempt)).await;
            attempt += 1;
        }
    }
}

#[async_trait]
impl<W: KeyWrap> KeyWrap for PatientWrap<W> {
    async fn wrap(
        &self,
        identity: &SecretText,
        context: &WrapContext,
    ) -> Result<WrappedIdentity, WrapError> {
        self.ask("Encrypt", || self.inner.wrap(identity, context))
            .await
    }

    async fn unwrap(
        &self,
        wrapped: &WrappedIdentity,
        context: &WrapContext,
    ) -> Result<SecretText, WrapError> {
        self.ask("Decrypt", || self.inner.unwrap(wrapped, context))
            .await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Fails, or does not answer, a number of times.
    #[derive(Debug)]
    struct Moody {
        left: AtomicU32,
        transient: bool,
        hangs: bool,
    }

    #[async_trait]
    impl KeyWrap for Moody {
        async fn wrap(
            &self,
            _: &SecretText,
            _: &WrapContext,
        ) -> Result<WrappedIdentity, WrapError> {
            Err(WrapError::Damaged("not asked"))
        }

        async fn unwrap(
            &self,
            _: &WrappedIdentity,
            _: &WrapContext,
        ) -> Result<SecretText, WrapError> {
            let moody = self
                .left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            if moody.is_err() {
                return Ok(SecretText::new("AGE".to_owned()));
            }
            if self.hangs {
                std::future::pending::<()>().await;
            }
            Err(WrapError::Kms {
                operation: "Decrypt",
                key: "k".to_owned(),
                transient: self.transient,
                source: "throttled".into(),
            })
        }
    }

    async fn unwrapped(times: u32, transient: bool, hangs: bool) -> Result<SecretText, WrapError> {
        let moody = Moody {
            left: AtomicU32::new(times),
            transient,
            hangs,
        };
        let wrapped = WrappedIdentity {
            method: shared::wrap::WrapMethod::AwsKms,
            key: "k".to_owned(),
            ciphertext: String::new(),
        };
        let context = WrapContext {
            environment: "dev".parse().unwrap(),
            group: "secure".to_owned(),
            release: 1,
        };
        PatientWrap::new(moody, "k")
            .unwrap(&wrapped, &context)
            .await
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_pass_is_tried_again_and_nothing_else() {
        assert!(unwrapped(3, true, false).await.is_ok());
        assert!(unwrapped(4, true, false).await.is_err());
        assert!(unwrapped(1, false, false).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_never_comes_ends() {
        assert!(unwrapped(1, true, true).await.is_ok());
        let error = unwrapped(4, true, true).await.unwrap_err();
        assert!(matches!(error, WrapError::Kms { .. }), "{error:?}");
    }
}
