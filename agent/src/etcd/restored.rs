//! What a restored cluster is asked beside what every cluster is: to forget what ended with the past, and for a digest of what
//! a member holds.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::answers::number;
use super::client::CALL;
use super::range::Entry;
use super::{EtcdClient, EtcdError};

/// How long digesting everything that a member holds may take.
const DIGEST: Duration = Duration::from_secs(180);

/// A digest of every key and value that a member holds, up to a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct KvDigest {
    /// The digest: equal for members that hold the same since the same compaction.
    #[serde(default)]
    pub hash: u32,
    /// The revision of the last compaction; digests since different ones say nothing about each other. -1 without any.
    #[serde(default, deserialize_with = "number")]
    pub compact_revision: i64,
}

#[derive(Serialize)]
struct Compare {
    result: &'static str,
    target: &'static str,
    key: String,
    mod_revision: String,
}

#[derive(Serialize)]
struct Key {
    key: String,
}

#[derive(Serialize)]
struct Delete {
    request_delete_range: Key,
}

#[derive(Serialize)]
struct Txn {
    compare: [Compare; 1],
    success: [Delete; 1],
}

#[derive(Deserialize)]
struct Done {
    #[serde(default)]
    succeeded: bool,
}

impl EtcdClient {
    /// Removes the keys that begin with `prefix` and were last written at revision `until` or before, and says how many there
    /// were. What is written anew meanwhile stays.
    ///
    /// # Errors
    /// [`EtcdError`]; what was removed by then is removed.
    pub async fn delete_older(&self, prefix: &str, until: u64) -> Result<u64, EtcdError> {
        let mut removed = 0;
        let mut from: Option<Vec<u8>> = None;
        loop {
            let page = self.page(prefix, from.as_deref()).await?;
            for entry in page.entries.iter().filter(|e| e.mod_revision <= until) {
                removed += u64::from(self.delete_unchanged(entry).await?);
            }
            from = page.next;
            if from.is_none() {
                return Ok(removed);
            }
        }
    }

    /// Removes a key that is still as it was read.
    async fn delete_unchanged(&self, entry: &Entry) -> Result<bool, EtcdError> {
        let key = STANDARD.encode(&entry.key);
        let ask = Txn {
            compare: [Compare {
                result: "EQUAL",
                target: "MOD",
                key: key.clone(),
                mod_revision: entry.mod_revision.to_string(),
            }],
            success: [Delete {
                request_delete_range: Key { key },
            }],
        };
        let done: Done = self.ask("delete", "/v3/kv/txn", &ask, CALL).await?;
        Ok(done.succeeded)
    }

    /// The digest of what the member itself holds up to `revision`, which it must have reached and not have compacted.
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn digest(&self, revision: u64) -> Result<KvDigest, EtcdError> {
        #[derive(Serialize)]
        struct Ask {
            revision: String,
        }
        let ask = Ask {
            revision: revision.to_string(),
        };
        self.ask("hash", "/v3/maintenance/hashkv", &ask, DIGEST)
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_read_with_and_without_a_compaction() {
        let read = |text: &str| serde_json::from_str::<KvDigest>(text).unwrap();
        let none = read(r#"{"header":{},"hash":3628877040,"compact_revision":"-1"}"#);
        assert_eq!((none.hash, none.compact_revision), (3_628_877_040, -1));
        assert_eq!(
            read(r#"{"hash":7,"compact_revision":12}"#).compact_revision,
            12
        );
        assert_eq!(read("{}").hash, 0);
    }
}
