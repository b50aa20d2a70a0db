//! A snapshot as it comes: one JSON object a line, each with a piece of the database in base64.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde::Deserialize;
use tokio::task::JoinHandle;

use super::answers::Refusal;
use super::{EtcdError, EtcdErrorKind};

const OPERATION: &str = "snapshot";
/// Longest line that is taken, in bytes. etcd sends pieces of 32 KiB, which are 43 KiB of base64.
const LINE_BYTES: usize = 1024 * 1024;
/// How long nothing may come. A member whose disk is busy takes its time.
const SILENCE: Duration = Duration::from_secs(60);

/// The pieces of a snapshot, in order. It ends by itself where etcd has said that nothing remains; one that breaks off is
/// an error. What came is **not** checked here: an etcd snapshot ends with 32 bytes of SHA-256 over all before them.
pub struct SnapshotStream {
    endpoint: String,
    body: Incoming,
    connection: JoinHandle<()>,
    buffer: BytesMut,
    /// How much of the buffer is known to hold no line end.
    searched: usize,
    remaining: Option<u64>,
    ended: bool,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    result: Option<Piece<'a>>,
    error: Option<Refusal>,
}

#[derive(Deserialize)]
struct Piece<'a> {
    #[serde(borrow, default)]
    blob: Cow<'a, str>,
    #[serde(borrow, default)]
    remaining_bytes: Option<Cow<'a, str>>,
}

// === impl SnapshotStream ===

impl SnapshotStream {
    pub(super) fn new(endpoint: String, body: Incoming, connection: JoinHandle<()>) -> Self {
        Self {
            endpoint,
            body,
            connection,
            buffer: BytesMut::new(),
            searched: 0,
            remaining: None,
            ended: false,
        }
    }

    /// How much etcd said remains after the last piece, in bytes (the 32 of the digest not counted); none before the first.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        self.remaining
    }

    /// The next piece; none at the end.
    ///
    /// # Errors
    /// [`EtcdError`]; nothing comes after one.
    pub async fn next(&mut self) -> Result<Option<Bytes>, EtcdError> {
        if self.ended {
            return Ok(None);
        }
        let next = self.piece().await;
        if !matches!(next, Ok(Some(_))) {
            self.ended = true;
            self.connection.abort();
        }
        next
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, EtcdError> {
        loop {
            let rest = self.buffer.get(self.searched..).unwrap_or_default();
            if let Some(at) = rest.iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(self.searched + at);
                self.buffer.advance(1);
                self.searched = 0;
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return self.decode(&line).map(Some);
            }
            self.searched = self.buffer.len();
            if self.buffer.len() > LINE_BYTES {
                return Err(self.odd("a line longer than any that etcd sends"));
            }
            match self.more().await? {
                true => {}
                false if self.buffer.trim_ascii().is_empty() => return self.end(),
                // The last line may come without its end.
                false => {
                    let line = self.buffer.split();
                    self.searched = 0;
                    return self.decode(&line).map(Some);
                }
            }
        }
    }

    /// Reads on; false at the end of the answer.
    async fn more(&mut self) -> Result<bool, EtcdError> {
        let frame = tokio::time::timeout(SILENCE, self.body.frame()).await;
        let frame = frame.map_err(|e| self.broken(Some(Box::new(e))))?;
        match frame {
            None => Ok(false),
            Some(Err(e)) => Err(self.broken(Some(Box::new(e)))),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.buffer.extend_from_slice(&data);
                }
                Ok(true)
            }
        }
    }

    fn decode(&mut self, line: &[u8]) -> Result<Bytes, EtcdError> {
        let parsed: Line<'_> = serde_json::from_slice(line)
            .map_err(|_| self.odd("a line that is no piece of a snapshot"))?;
        if let Some(refusal) = parsed.error {
            return Err(EtcdError {
                endpoint: self.endpoint.clone(),
                operation: OPERATION,
                kind: EtcdErrorKind::of_answer(refusal.code(), refusal.message()),
                said: refusal.message().to_owned(),
                source: None,
            });
        }
        let piece = parsed
            .result
            .ok_or_else(|| self.odd("a line without a piece"))?;
        // protobuf's JSON leaves a number out that is 0.
        let remaining = piece.remaining_bytes.as_deref().unwrap_or("0");
        let remaining = remaining
            .parse()
            .map_err(|_| self.odd("a length that is none"))?;
        let blob = STANDARD
            .decode(piece.blob.as_bytes())
            .map_err(|_| self.odd("a piece that is no base64"))?;
        self.remaining = Some(remaining);
        Ok(Bytes::from(blob))
    }

    fn end(&self) -> Result<Option<Bytes>, EtcdError> {
        match self.remaining {
            Some(0) => Ok(None),
            _ => Err(self.broken(None)),
        }
    }

    fn broken(&self, source: Option<Box<dyn std::error::Error + Send + Sync>>) -> EtcdError {
        self.error(EtcdErrorKind::Unreachable, "the snapshot broke off", source)
    }

    fn odd(&self, said: &str) -> EtcdError {
        self.error(EtcdErrorKind::Other, said, None)
    }

    fn error(
        &self,
        kind: EtcdErrorKind,
        said: &str,
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    ) -> EtcdError {
        EtcdError {
            endpoint: self.endpoint.clone(),
            operation: OPERATION,
            kind,
            said: said.to_owned(),
            source,
        }
    }
}

impl Drop for SnapshotStream {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl fmt::Debug for SnapshotStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotStream")
            .field("endpoint", &self.endpoint)
            .field("remaining", &self.remaining)
            .finish_non_exhaustive()
    }
}
