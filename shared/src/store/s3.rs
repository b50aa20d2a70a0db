//! The S3 adapter.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::{Builder, tls};
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_types::retry::ErrorKind;
use bytes::{Bytes, BytesMut};
use futures::stream;
use jiff::Timestamp;
use tokio::time::timeout;

use super::answers::{AnswerLimit, DateWatch, is_too_long};
use super::dns::SystemDns;
use super::{
    ETag, Fetched, ListedObject, ObjectStore, ObjectStream, PutCondition, ServerTime, StoreError,
    StoreErrorKind, deadline_for,
};

/// How long a call without a body of note may take.
const CALL_DEADLINE: Duration = Duration::from_secs(7);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A bucket in S3, or in anything that speaks its protocol.
#[derive(Clone)]
pub struct S3Store {
    client: Client,
    bucket: String,
    server_time: Arc<Mutex<Option<ServerTime>>>,
}

/// The HTTP client of every AWS call: rustls with aws-lc-rs, and name look-ups that work in a static binary.
#[must_use]
pub fn http_client() -> SharedHttpClient {
    Builder::new()
        .tls_provider(tls::Provider::Rustls(
            tls::rustls_provider::CryptoMode::AwsLc,
        ))
        .build_with_resolver(SystemDns::default())
}

/// Bounded connecting; what comes after has deadlines of its own.
pub(super) fn connecting() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .build()
}

/// What every AWS client of a person's has in common: our HTTP client, one attempt (retries are ours, and have a kind), and
/// bounded connecting. The caller adds a profile or credentials and loads it.
#[must_use]
pub fn aws_config_loader(region: &str, endpoint_url: Option<&str>) -> ConfigLoader {
    let loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client())
        .region(Region::new(region.to_owned()))
        .retry_config(RetryConfig::standard().with_max_attempts(1))
        .timeout_config(connecting())
        // Every object has a total deadline of its own; see `deadline_for`.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    match endpoint_url {
        Some(url) => loader.endpoint_url(url),
        None => loader,
    }
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Store")
            .field("bucket", &self.bucket)
            .finish_non_exhaustive()
    }
}

impl S3Store {
    /// The bucket `bucket` through what [`aws_config_loader`] loaded.
    #[must_use]
    pub fn new(sdk: &SdkConfig, bucket: &str) -> Self {
        let server_time = Arc::new(Mutex::new(None));
        let config = aws_sdk_s3::config::Builder::from(sdk)
            // An endpoint of one's own rarely has a wildcard name for each bucket.
            .force_path_style(sdk.endpoint_url().is_some())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .interceptor(DateWatch(Arc::clone(&server_time)))
            .interceptor(AnswerLimit)
            .build();
        Self {
            client: Client::from_conf(config),
            bucket: bucket.to_owned(),
            server_time,
        }
    }

    /// The bucket's name.
    #[must_use]
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    async fn read(
        &self,
        key: &str,
        limit: u64,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError> {
        let request = self
            .client
            .get_object()
            .bucket(&self.bucket)
            .key(key)
            .set_if_none_match(unless.map(|t| t.as_str().to_owned()));
        let mut object = match request.send().await {
            Ok(object) => object,
            Err(e) if status_of(&e) == Some(304) => return Ok(Fetched::NotModified),
            Err(e) => return Err(failed("get", key, e)),
        };
        let too_large = || error("get", key, StoreErrorKind::TooLarge, None);
        let announced = object.content_length().unwrap_or(0);
        if u64::try_from(announced).unwrap_or(u64::MAX) > limit {
            return Err(too_large());
        }
        let etag = ETag::new(object.e_tag().unwrap_or_default());
        let mut bytes = BytesMut::new();
        while let Some(chunk) = object.body.next().await {
            let chunk = chunk
                .map_err(|e| error("get", key, StoreErrorKind::Connection, Some(Box::new(e))))?;
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(too_large());
            }
            bytes.extend_from_slice(&chunk);
        }
        if announced > 0 && bytes.len() as u64 != announced.unsigned_abs() {
            return Err(error("get", key, StoreErrorKind::Connection, None));
        }
        Ok(Fetched::Object {
            bytes: bytes.freeze(),
            etag,
        })
    }

    async fn read_stream(&self, key: &str, limit: u64) -> Result<ObjectStream, StoreError> {
        let request = self.client.get_object().bucket(&self.bucket).key(key);
        let object = request.send().await.map_err(|e| failed("get", key, e))?;
        let announced = object.content_length().unwrap_or(0).unsigned_abs();
        if announced > limit {
            return Err(error("get", key, StoreErrorKind::TooLarge, None));
        }
        let begin = (object.body, key.to_owned(), 0_u64);
        Ok(Box::pin(stream::try_unfold(
            begin,
            move |(mut body, key, read)| async move {
                let broken = StoreErrorKind::Connection;
                let Some(chunk) = body.next().await else {
                    return match announced > 0 && read != announced {
                        true => Err(error("get", &key, broken, None)),
                        false => Ok(None),
                    };
                };
                let chunk = chunk.map_err(|e| error("get", &key, broken, Some(Box::new(e))))?;
                let read = read + chunk.len() as u64;
                if read > limit {
                    return Err(error("get", &key, StoreErrorKind::TooLarge, None));
                }
                Ok(Some((chunk, (body, key, read))))
            },
        )))
    }

    async fn list_pages(&self, prefix: &str) -> Result<Vec<ListedObject>, StoreError> {
        let mut pages = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix)
            .into_paginator()
            .send();
        let mut objects = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| failed("list", prefix, e))?;
            objects.extend(page.contents().iter().filter_map(|o| {
                Some(ListedObject {
                    key: o.key()?.to_owned(),
                    bytes: o.size().unwrap_or(0).unsigned_abs(),
                    written: o
                        .last_modified()
                        .and_then(|t| Timestamp::from_second(t.secs()).ok()),
                })
            }));
        }
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }
}

fn error(
    operation: &'static str,
    key: &str,
    kind: StoreErrorKind,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
) -> StoreError {
    StoreError {
        operation,
        key: key.to_owned(),
        kind,
        source,
    }
}

fn status_of<E>(e: &SdkError<E, HttpResponse>) -> Option<u16> {
    e.raw_response().map(|r| r.status().as_u16())
}

fn failed<E>(operation: &'static str, key: &str, e: SdkError<E, HttpResponse>) -> StoreError
where
    E: std::error::Error + ProvideErrorMetadata + Send + Sync + 'static,
{
    let code = e.as_service_error().and_then(|s| s.code()).unwrap_or("");
    let kind = match &e {
        e if is_too_long(e) => StoreErrorKind::TooLarge,
        SdkError::TimeoutError(_) => StoreErrorKind::Timeout,
        SdkError::DispatchFailure(f) if f.is_timeout() => StoreErrorKind::Timeout,
        SdkError::DispatchFailure(f) if f.is_io() => StoreErrorKind::Connection,
        // A connection that was closed in place of an answer.
        SdkError::DispatchFailure(f) if f.as_other() == Some(ErrorKind::TransientError) => {
            StoreErrorKind::Connection
        }
        SdkError::ServiceError(_) | SdkError::ResponseError(_) => {
            kind_of(status_of(&e).unwrap_or(0), code)
        }
        _ => StoreErrorKind::Other,
    };
    error(operation, key, kind, Some(Box::new(e)))
}

/// The kind of an answer; the codes and statuses are those of the S3 API reference.
fn kind_of(status: u16, code: &str) -> StoreErrorKind {
    match (status, code) {
        (_, "RequestTimeTooSkewed") => StoreErrorKind::ClockSkew,
        (_, "SlowDown") | (429, _) => StoreErrorKind::Throttled,
        (404, "NoSuchBucket") => StoreErrorKind::Other,
        (404, _) => StoreErrorKind::NotFound,
        (401 | 403, _) => StoreErrorKind::Forbidden,
        (409 | 412, _) => StoreErrorKind::Conflict,
        (500..=599, _) => StoreErrorKind::Unavailable,
        // An answer that broke off before it could be parsed.
        (200..=299, _) => StoreErrorKind::Connection,
        _ => StoreErrorKind::Other,
    }
}

async fn within<T>(
    limit: Duration,
    operation: &'static str,
    key: &str,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match timeout(limit, call).await {
        Ok(done) => done,
        Err(_) => Err(error(operation, key, StoreErrorKind::Timeout, None)),
    }
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn get(
        &self,
        key: &str,
        limit: u64,
        unless: Option<&ETag>,
    ) -> Result<Fetched, StoreError> {
        within(
            deadline_for(limit),
            "get",
            key,
            self.read(key, limit, unless),
        )
        .await
    }

    async fn get_stream(&self, key: &str, limit: u64) -> Result<ObjectStream, StoreError> {
        within(CALL_DEADLINE, "get", key, self.read_stream(key, limit)).await
    }

    async fn put(
        &self,
        key: &str,
        bytes: Bytes,
        condition: PutCondition,
    ) -> Result<ETag, StoreError> {
        let limit = deadline_for(bytes.len() as u64);
        let (absent, matches) = match condition {
            PutCondition::Absent => (Some("*".to_owned()), None),
            PutCondition::Matches(etag) => (None, Some(etag.0)),
            PutCondition::Always => (None, None),
        };
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .set_if_none_match(absent)
            .set_if_match(matches)
            .body(ByteStream::from(bytes));
        let sent = Box::pin(async {
            let answer = request.send().await.map_err(|e| failed("put", key, e))?;
            Ok(ETag::new(answer.e_tag().unwrap_or_default()))
        });
        within(limit, "put", key, sent).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let objects = self.list_objects(prefix).await?;
        Ok(objects.into_iter().map(|o| o.key).collect())
    }

    async fn list_objects(&self, prefix: &str) -> Result<Vec<ListedObject>, StoreError> {
        within(CALL_DEADLINE * 4, "list", prefix, self.list_pages(prefix)).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let request = self.client.delete_object().bucket(&self.bucket).key(key);
        within(CALL_DEADLINE, "delete", key, async {
            request.send().await.map_err(|e| failed("delete", key, e))?;
            Ok(())
        })
        .await
    }

    fn server_time(&self) -> Option<ServerTime> {
        *self
            .server_time
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_kinds() {
        for (status, code, kind) in [
            (404, "NoSuchKey", StoreErrorKind::NotFound),
            (403, "AccessDenied", StoreErrorKind::Forbidden),
            (403, "RequestTimeTooSkewed", StoreErrorKind::ClockSkew),
            (409, "ConditionalRequestConflict", StoreErrorKind::Conflict),
            (412, "PreconditionFailed", StoreErrorKind::Conflict),
            (503, "SlowDown", StoreErrorKind::Throttled),
            (500, "InternalError", StoreErrorKind::Unavailable),
            (404, "NoSuchBucket", StoreErrorKind::Other),
        ] {
            assert_eq!(kind_of(status, code), kind, "{status} {code}");
        }
    }
}
