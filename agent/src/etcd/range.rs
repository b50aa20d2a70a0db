//! Reading what is stored, page by page.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize};

use super::answers::number;
use super::client::{CALL, end_of_prefix};
use super::{EtcdClient, EtcdError, EtcdErrorKind};

/// Keys of one page at most: as many as usually fit into an answer.
const PAGE: u32 = 128;

/// A key with its value.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Entry {
    /// The key.
    #[serde(deserialize_with = "base64")]
    pub key: Vec<u8>,
    /// The value: it may be a secret that is not encrypted.
    #[serde(default, deserialize_with = "base64")]
    pub value: Vec<u8>,
    /// The revision at which it was last written.
    #[serde(default, deserialize_with = "number")]
    pub mod_revision: u64,
}

/// Some of what is stored, in the order of the keys.
#[derive(Debug, Clone)]
pub struct Page {
    /// What there is.
    pub entries: Vec<Entry>,
    /// The store's revision when it was read.
    pub revision: u64,
    /// Where the next page begins; none after the last.
    pub next: Option<Vec<u8>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Header {
    #[serde(deserialize_with = "number")]
    revision: u64,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    header: Header,
    #[serde(default)]
    kvs: Vec<Entry>,
    #[serde(default)]
    more: bool,
}

#[derive(Serialize)]
struct Ask {
    key: String,
    range_end: String,
    limit: String,
}

fn base64<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(d)?;
    // Never the text itself: it may be a secret.
    let bad = |_| serde::de::Error::custom("no base64");
    STANDARD.decode(text).map_err(bad)
}

// === impl Entry ===

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = String::from_utf8_lossy(&self.key);
        write!(f, "{key} ({} bytes)", self.value.len())
    }
}

// === impl EtcdClient ===

impl EtcdClient {
    /// A page of what begins with `prefix`, from the key `from` on (from the first one, where there is none).
    ///
    /// # Errors
    /// [`EtcdError`].
    pub async fn page(&self, prefix: &str, from: Option<&[u8]>) -> Result<Page, EtcdError> {
        let mut limit = PAGE;
        loop {
            let ask = Ask {
                key: STANDARD.encode(from.unwrap_or(prefix.as_bytes())),
                range_end: STANDARD.encode(end_of_prefix(prefix.as_bytes())),
                limit: limit.to_string(),
            };
            let answer: Answer = match self.ask("range", "/v3/kv/range", &ask, CALL).await {
                Err(error) if error.kind == EtcdErrorKind::TooLarge && limit > 1 => {
                    limit /= 4;
                    limit = limit.max(1);
                    continue;
                }
                answer => answer?,
            };
            let next = answer.kvs.last().filter(|_| answer.more).map(|last| {
                let mut next = last.key.clone();
                next.push(0);
                next
            });
            return Ok(Page {
                entries: answer.kvs,
                revision: answer.header.revision,
                next,
            });
        }
    }
}
