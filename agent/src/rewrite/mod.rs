//! Having everything that is stored encrypted with the key in use (§11).
//!
//! What is left to do is read from etcd itself, by the key's name before each value, and done through the API server, which
//! alone has the keys. So it can be left at any point and begun again: what is done is not done twice.

mod api;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use shared::rewrite::{RewriteOrder, SECRETS_PREFIX, StoredScan, StoredUnder, secret_at};

pub use api::{ApiClient, ApiError, Wrote};

use crate::clock::Clock;
use crate::etcd::{EtcdClient, EtcdError};

/// How often one Secret that others write at the same time is tried: whoever writes it has it encrypted anew as well.
const TRIES: u32 = 5;
/// The pause before it is tried again.
const AGAIN: Duration = Duration::from_millis(100);

/// It ended early, or something could not be rewritten.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// etcd cannot be read.
    #[error("what is stored cannot be read")]
    Etcd(#[from] EtcdError),
    /// The API server did not do it.
    #[error("{left} objects could not be encrypted anew, the first for this")]
    Api {
        /// How many.
        left: u64,
        /// Why.
        #[source]
        source: ApiError,
    },
    /// What is no Secret has a Secret's place in etcd, or is encrypted in a way that is not the platform's.
    #[error("{0} keys below {SECRETS_PREFIX} are not those of Secrets")]
    Strange(u64),
}

/// One run of an order.
#[derive(Debug)]
pub struct Rewriter {
    /// The node's own member.
    pub etcd: EtcdClient,
    /// The order.
    pub order: RewriteOrder,
    /// Counts what was rewritten.
    pub rewritten: Arc<AtomicU64>,
    /// The node's clock.
    pub clock: Arc<dyn Clock>,
}

// === impl RewriteError ===

impl RewriteError {
    /// A word for metrics labels and the status.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Etcd(error) => error.kind.label(),
            Self::Api { source, .. } => source.label(),
            Self::Strange(_) => "strange_keys",
        }
    }
}

// === impl Rewriter ===

impl Rewriter {
    /// Has everything rewritten that is under another key, and then looks under which keys things are.
    ///
    /// # Errors
    /// [`RewriteError`], with what was found where that was found out.
    pub async fn run(&self) -> (Option<StoredScan>, Result<(), RewriteError>) {
        let done = self.rewrite().await;
        if let Err(RewriteError::Etcd(error)) = done {
            return (None, Err(error.into()));
        }
        // Not by what was done, but by what is there.
        match self.scan().await {
            Ok(scan) => (Some(scan), done),
            Err(error) => (None, done.and(Err(error.into()))),
        }
    }

    async fn rewrite(&self) -> Result<(), RewriteError> {
        let mut api =
            ApiClient::new(&self.order).map_err(|source| RewriteError::Api { left: 0, source })?;
        let mut failed: Option<(u64, ApiError)> = None;
        let (mut strange, mut from) = (0, None);
        loop {
            let page = self.etcd.page(SECRETS_PREFIX, from.as_deref()).await?;
            for entry in &page.entries {
                if StoredUnder::of(&entry.value) == StoredUnder::Key(&self.order.key) {
                    continue;
                }
                let Some((namespace, name)) = secret_at(&entry.key) else {
                    strange += 1;
                    continue;
                };
                match self.one(&mut api, namespace, name).await {
                    Ok(()) => {}
                    // Nobody there, or nothing allowed: no other one would fare better.
                    Err(source @ (ApiError::Unreachable { .. } | ApiError::Order(_))) => {
                        let left = failed.map_or(1, |(left, _)| left + 1);
                        return Err(RewriteError::Api { left, source });
                    }
                    Err(source) => {
                        failed = Some(match failed {
                            Some((left, first)) => (left + 1, first),
                            None => (1, source),
                        });
                    }
                }
            }
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        match failed {
            Some((left, source)) => Err(RewriteError::Api { left, source }),
            None if strange > 0 => Err(RewriteError::Strange(strange)),
            None => Ok(()),
        }
    }

    async fn one(&self, api: &mut ApiClient, namespace: &str, name: &str) -> Result<(), ApiError> {
        for _ in 0..TRIES {
            match api.touch(namespace, name).await? {
                Wrote::Unchanged => {
                    self.rewritten.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Wrote::Gone => break,
                Wrote::Conflict => tokio::time::sleep(AGAIN).await,
            }
        }
        // What is in conflict still is found by the scan, and tried again with the next run.
        Ok(())
    }

    async fn scan(&self) -> Result<StoredScan, EtcdError> {
        let mut scan = StoredScan::default();
        let mut from = None;
        loop {
            let page = self.etcd.page(SECRETS_PREFIX, from.as_deref()).await?;
            if scan.revision == 0 {
                scan.revision = page.revision;
            }
            for entry in &page.entries {
                scan.count(StoredUnder::of(&entry.value), &self.order.key);
            }
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        scan.at = self.now();
        Ok(scan)
    }

    fn now(&self) -> Timestamp {
        self.clock.now()
    }
}
