//! Counting requests, and refusing those that are not signed for this store.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::StatusCode;
use http::header::AUTHORIZATION;
use s3s::access::{S3Access, S3AccessContext};
use s3s::{S3Result, s3_error};

/// What a store was asked since it started. Two of these subtract with [`RequestCounts::since`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestCounts {
    /// All answered requests, whatever the answer.
    pub total: u64,
    /// Answered with 304.
    pub not_modified: u64,
    /// Answered with 401 or 403: no signature, or a wrong one.
    pub refused: u64,
    /// Answered with any other 4xx.
    pub client_errors: u64,
    /// Answered with 5xx.
    pub server_errors: u64,
    /// Authenticated requests by S3 operation (`GetObject`, `PutObject`, …).
    pub by_operation: BTreeMap<String, u64>,
}

impl RequestCounts {
    /// How many authenticated requests asked for `operation`, as S3 names it (`GetObject`).
    #[must_use]
    pub fn of(&self, operation: &str) -> u64 {
        self.by_operation
            .get(operation)
            .copied()
            .unwrap_or_default()
    }

    /// What was asked after `earlier` was taken from the same store.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let by_operation = self
            .by_operation
            .iter()
            .map(|(name, count)| (name.clone(), count.saturating_sub(earlier.of(name))))
            .filter(|(_, count)| *count > 0)
            .collect();
        Self {
            total: self.total.saturating_sub(earlier.total),
            not_modified: self.not_modified.saturating_sub(earlier.not_modified),
            refused: self.refused.saturating_sub(earlier.refused),
            client_errors: self.client_errors.saturating_sub(earlier.client_errors),
            server_errors: self.server_errors.saturating_sub(earlier.server_errors),
            by_operation,
        }
    }
}

/// The counters behind [`RequestCounts`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    total: AtomicU64,
    not_modified: AtomicU64,
    refused: AtomicU64,
    client_errors: AtomicU64,
    server_errors: AtomicU64,
    by_operation: Mutex<BTreeMap<String, u64>>,
    /// Connections that are open now.
    pub(super) connections: AtomicUsize,
}

impl Counters {
    pub(super) fn answered(&self, status: StatusCode) {
        self.total.fetch_add(1, Ordering::Relaxed);
        let by_status = match status {
            StatusCode::NOT_MODIFIED => &self.not_modified,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => &self.refused,
            status if status.is_client_error() => &self.client_errors,
            status if status.is_server_error() => &self.server_errors,
            _ => return,
        };
        by_status.fetch_add(1, Ordering::Relaxed);
    }

    fn asked(&self, operation: &str) {
        let mut by_operation = self
            .by_operation
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match by_operation.get_mut(operation) {
            Some(count) => *count += 1,
            None => {
                by_operation.insert(operation.to_owned(), 1);
            }
        }
    }

    pub(super) fn snapshot(&self) -> RequestCounts {
        RequestCounts {
            total: self.total.load(Ordering::Relaxed),
            not_modified: self.not_modified.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            client_errors: self.client_errors.load(Ordering::Relaxed),
            server_errors: self.server_errors.load(Ordering::Relaxed),
            by_operation: self
                .by_operation
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }
}

/// Lets in what is signed with the store's key for the store's region, and counts it.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) counters: Arc<Counters>,
    pub(super) region: String,
}

#[async_trait::async_trait]
impl S3Access for Gate {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        if context.credentials().is_none() {
            return Err(s3_error!(AccessDenied, "the request is not signed"));
        }
        let authorization = context
            .headers()
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        if let Some(region) = authorization.and_then(signed_region)
            && region != self.region
        {
            return Err(s3_error!(
                AuthorizationHeaderMalformed,
                "the request is signed for the region '{region}'; this store is in '{}'",
                self.region
            ));
        }
        self.counters.asked(context.s3_op().name());
        Ok(())
    }
}

/// The region in the credential scope of a SigV4 header: `Credential=KEY/DATE/REGION/SERVICE/aws4_request`.
fn signed_region(authorization: &str) -> Option<&str> {
    let (_, credential) = authorization.split_once("Credential=")?;
    let scope = credential.split([',', ' ']).next()?;
    // From the end, as an access key may have slashes.
    scope.rsplit('/').nth(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_region_is_read_from_the_credential_scope() {
        let header = "AWS4-HMAC-SHA256 Credential=AK/ID/20260101/eu-central-1/s3/aws4_request, SignedHeaders=host, Signature=00";
        assert_eq!(signed_region(header), Some("eu-central-1"));
        assert_eq!(signed_region("AWS AK:signature"), None);
    }

    #[test]
    fn counts_subtract() {
        let counters = Counters::default();
        counters.asked("GetObject");
        counters.answered(StatusCode::OK);
        let before = counters.snapshot();
        counters.asked("GetObject");
        counters.answered(StatusCode::NOT_MODIFIED);
        counters.answered(StatusCode::FORBIDDEN);
        let after = counters.snapshot().since(&before);
        assert_eq!((after.total, after.not_modified, after.refused), (2, 1, 1));
        assert_eq!(after.of("GetObject"), 1);
        assert_eq!(after.of("PutObject"), 0);
    }
}
