//! HTTP/1.1 by hand, so that a fault is exactly the bytes that it says.

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest request head that is read, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// A request as it came, with its whole body.
#[derive(Debug)]
pub struct RawRequest {
    pub method: Method,
    /// Path and query, byte for byte: a signature covers them.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Reads requests one after the other from a connection.
#[derive(Debug, Default)]
pub struct RequestReader {
    /// Bytes that were read beyond the last request.
    ahead: Vec<u8>,
}

impl RequestReader {
    /// The next request, or nothing when the client closed between two.
    pub async fn next<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
    ) -> anyhow::Result<Option<RawRequest>> {
        let head_end = loop {
            if let Some(at) = self
                .ahead
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                break at;
            }
            if self.ahead.len() > MAX_HEAD {
                bail!("a request head longer than {MAX_HEAD} bytes");
            }
            if stream.read_buf(&mut self.ahead).await? == 0 {
                if self.ahead.is_empty() {
                    return Ok(None);
                }
                bail!("the client closed within a request head");
            }
        };
        let rest = self.ahead.split_off(head_end + 4);
        let head = std::mem::replace(&mut self.ahead, rest);
        let (method, target, headers) = parse_head(&String::from_utf8(head)?)?;
        if headers.contains_key(http::header::TRANSFER_ENCODING) {
            bail!("a request body without a Content-Length; S3 clients send one");
        }
        if headers
            .get(http::header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
        {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let length = match headers.get(http::header::CONTENT_LENGTH) {
            Some(value) => value.to_str()?.parse().context("Content-Length")?,
            None => 0_usize,
        };
        while self.ahead.len() < length {
            if stream.read_buf(&mut self.ahead).await? == 0 {
                bail!("the client closed within a request body");
            }
        }
        let rest = self.ahead.split_off(length);
        let body = Bytes::from(std::mem::replace(&mut self.ahead, rest));
        Ok(Some(RawRequest {
            method,
            target,
            headers,
            body,
        }))
    }
}

fn parse_head(head: &str) -> anyhow::Result<(Method, String, HeaderMap)> {
    let mut lines = head.trim_end().split("\r\n");
    let mut first = lines.next().context("no request line")?.split(' ');
    let method = Method::from_bytes(first.next().context("no method")?.as_bytes())?;
    let target = first.next().context("no request target")?.to_owned();
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .with_context(|| format!("no header: {line}"))?;
        headers.append(
            HeaderName::from_bytes(name.as_bytes())?,
            HeaderValue::from_str(value.trim())?,
        );
    }
    Ok((method, target, headers))
}

/// How the end of an answer's body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// By this Content-Length, whatever is sent.
    Length(u64),
    /// By a last chunk.
    Chunked,
    /// There is no body, and `headers` say what they say.
    None,
}

/// Writes status line and headers; the framing's headers replace those in `headers`.
pub async fn write_head<S: AsyncWrite + Unpin>(
    stream: &mut S,
    status: StatusCode,
    headers: &HeaderMap,
    framing: Framing,
) -> std::io::Result<()> {
    let mut head = format!(
        "HTTP/1.1 {} {}\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or("")
    )
    .into_bytes();
    for (name, value) in headers {
        let framed = *name == http::header::TRANSFER_ENCODING
            || *name == http::header::CONNECTION
            || (*name == http::header::CONTENT_LENGTH && framing != Framing::None);
        if !framed {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
    }
    match framing {
        Framing::Length(length) => {
            head.extend_from_slice(format!("content-length: {length}\r\n").as_bytes())
        }
        Framing::Chunked => head.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::None => {}
    }
    head.extend_from_slice(b"\r\n");
    stream.write_all(&head).await
}

/// Writes one chunk of a chunked body.
pub async fn write_chunk<S: AsyncWrite + Unpin>(
    stream: &mut S,
    content: &[u8],
) -> std::io::Result<()> {
    if content.is_empty() {
        // An empty chunk would be the end.
        return Ok(());
    }
    let mut chunk = format!("{:x}\r\n", content.len()).into_bytes();
    chunk.extend_from_slice(content);
    chunk.extend_from_slice(b"\r\n");
    stream.write_all(&chunk).await
}
