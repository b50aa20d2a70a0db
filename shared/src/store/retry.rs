//! Retries with a kind, a jittered backoff and a cap; and the write that may be repeated.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng as _;

use super::{Fetched, ObjectStore, PutCondition, StoreError, StoreErrorKind};

/// How often and how long apart a transient failure is retried.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// Attempts in all, the first included.
    pub attempts: u32,
    /// The longest first pause.
    pub first: Duration,
    /// The longest pause.
    pub cap: Duration,
}

impl Backoff {
    /// For a person who waits: four attempts within a few seconds.
    pub const INTERACTIVE: Self = Self {
        attempts: 4,
        first: Duration::from_millis(200),
        cap: Duration::from_secs(3),
    };

    /// The longest pause before attempt `attempt` (counted from 1): doubling, capped.
    #[must_use]
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let doubled = self
            .first
            .saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(1)));
        doubled.min(self.cap)
    }

    /// A pause with full jitter: anything up to the ceiling, so that many clients spread out.
    #[must_use]
    pub fn pause(&self, attempt: u32) -> Duration {
        self.ceiling(attempt)
            .mul_f64(rand::rng().random_range(0.1..=1.0))
    }
}

/// Runs `call` until it succeeds, fails for good, or the attempts are used up.
///
/// # Errors
/// The last failure.
pub async fn with_retries<T, F, Fut>(backoff: Backoff, mut call: F) -> Result<T, StoreError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, StoreError>>,
{
    let mut attempt = 1;
    loop {
        match call().await {
            Err(error) if error.kind.is_transient() && attempt < backoff.attempts => {
                tracing::debug!(%error, attempt, "retrying");
                tokio::time::sleep(backoff.pause(attempt)).await;
                attempt += 1;
            }
            done => return done,
        }
    }
}

/// Writes an immutable object so that repeating is harmless: an object that is there already with the same bytes is
/// a success (an earlier answer was lost), also where no answer came at all.
///
/// # Errors
/// [`StoreErrorKind::Conflict`] where other bytes hold that key; else the last failure.
pub async fn put_immutable(
    store: &dyn ObjectStore,
    backoff: Backoff,
    key: &str,
    bytes: &Bytes,
) -> Result<(), StoreError> {
    let put = with_retries(backoff, || {
        store.put(key, bytes.clone(), PutCondition::Absent)
    });
    let failure = match put.await {
        Ok(_) => return Ok(()),
        // After a failure on the way the write may have happened all the same.
        Err(e) if e.kind == StoreErrorKind::Conflict || e.kind.is_transient() => e,
        Err(e) => return Err(e),
    };
    let limit = bytes.len() as u64;
    match with_retries(backoff, || store.get(key, limit, None)).await {
        Ok(Fetched::Object { bytes: there, .. }) if there == *bytes => Ok(()),
        Ok(_) => Err(taken(failure)),
        Err(e) if e.kind == StoreErrorKind::TooLarge => Err(taken(failure)),
        Err(e) if failure.kind == StoreErrorKind::Conflict => Err(e),
        Err(_) => Err(failure),
    }
}

/// Other bytes hold the key, whatever kept us from being told.
fn taken(failure: StoreError) -> StoreError {
    StoreError {
        kind: StoreErrorKind::Conflict,
        ..failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn failure(kind: StoreErrorKind) -> StoreError {
        StoreError {
            operation: "get",
            key: "k".into(),
            kind,
            source: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn retries_only_what_may_pass() {
        for (kind, expected) in [
            (StoreErrorKind::Throttled, 4),
            (StoreErrorKind::Forbidden, 1),
            (StoreErrorKind::Conflict, 1),
        ] {
            let calls = AtomicU32::new(0);
            let result: Result<(), _> = with_retries(Backoff::INTERACTIVE, || {
                calls.fetch_add(1, Ordering::Relaxed);
                async { Err(failure(kind)) }
            })
            .await;
            assert_eq!(result.unwrap_err().kind, kind);
            assert_eq!(calls.load(Ordering::Relaxed), expected, "{kind:?}");
        }
    }

    #[test]
    fn pauses_grow_to_the_cap() {
        let b = Backoff::INTERACTIVE;
        assert_eq!(b.ceiling(1), Duration::from_millis(200));
        assert_eq!(b.ceiling(2), Duration::from_millis(400));
        assert_eq!(b.ceiling(40), b.cap);
        for attempt in 1..10 {
            assert!(b.pause(attempt) <= b.ceiling(attempt));
        }
    }
}
