//! Wrapping with AWS KMS under the encryption context {environment, group, release}.

use std::collections::HashMap;

use async_trait::async_trait;
use aws_sdk_kms::Client;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;

use super::{KeyWrap, WrapContext, WrapError, WrapMethod, WrappedIdentity, encoded, pinned};
use crate::secret::{SecretBytes, SecretText};

/// Wraps identities with one KMS key. The key is pinned on decrypt too: without it KMS would open with whatever key
/// the ciphertext names, of any account that lets us.
#[derive(Debug, Clone)]
pub struct KmsWrap {
    client: Client,
    key_id: String,
}

impl KmsWrap {
    /// Uses `key_id` (a key id, ARN or alias) through `client`.
    #[must_use]
    pub fn new(client: Client, key_id: String) -> Self {
        Self { client, key_id }
    }

    fn failed<E, R>(&self, operation: &'static str) -> impl FnOnce(SdkError<E, R>) -> WrapError
    where
        E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
        R: std::fmt::Debug + Send + Sync + 'static,
    {
        let key = self.key_id.clone();
        move |error| {
            let transient = match &error {
                SdkError::ServiceError(e) => matches!(
                    e.err().code(),
                    Some(
                        "ThrottlingException"
                            | "KMSInternalException"
                            | "DependencyTimeoutException"
                            | "KeyUnavailableException"
                    )
                ),
                SdkError::ConstructionFailure(_) => false,
                _ => true,
            };
            WrapError::Kms {
                operation,
                key,
                transient,
                source: Box::new(error),
            }
        }
    }
}

fn encryption_context(context: &WrapContext) -> HashMap<String, String> {
    HashMap::from([
        ("environment".to_owned(), context.environment.to_string()),
        ("group".to_owned(), context.group.clone()),
        ("release".to_owned(), context.release.to_string()),
    ])
}

#[async_trait]
impl KeyWrap for KmsWrap {
    async fn wrap(
        &self,
        identity: &SecretText,
        context: &WrapContext,
    ) -> Result<WrappedIdentity, WrapError> {
        let file = context.identity_file(identity);
        let answer = self
            .client
            .encrypt()
            .key_id(&self.key_id)
            .set_encryption_context(Some(encryption_context(context)))
            .plaintext(Blob::new(file.expose().as_bytes()))
            .send()
            .await
            .map_err(self.failed("Encrypt"))?;
        let ciphertext = answer
            .ciphertext_blob()
            .ok_or(WrapError::Damaged("KMS answered without a ciphertext"))?;
        Ok(WrappedIdentity {
            method: WrapMethod::AwsKms,
            key: self.key_id.clone(),
            ciphertext: encoded(ciphertext.as_ref()),
        })
    }

    async fn unwrap(
        &self,
        wrapped: &WrappedIdentity,
        context: &WrapContext,
    ) -> Result<SecretText, WrapError> {
        let ciphertext = pinned(wrapped, WrapMethod::AwsKms, &self.key_id)?;
        let answer = self
            .client
            .decrypt()
            .key_id(&self.key_id)
            .set_encryption_context(Some(encryption_context(context)))
            .ciphertext_blob(Blob::new(ciphertext))
            .send()
            .await
            .map_err(self.failed("Decrypt"))?;
        let plain = answer
            .plaintext
            .ok_or(WrapError::Damaged("KMS answered without a plaintext"))?;
        let plain = SecretBytes::new(plain.into_inner());
        context.identity_in(plain.expose())
    }
}
