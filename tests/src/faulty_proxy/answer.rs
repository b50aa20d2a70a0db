//! Answers, and what a fault does to them on the wire.

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::header::DATE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use jiff::fmt::rfc2822;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::Fault;
use super::wire::{Framing, write_chunk, write_head};

/// One piece of an endless body.
const ENDLESS_PIECE: &[u8] = &[b'A'; 16 * 1024];

/// How often a slow body gets its next bytes, unless a single byte takes longer.
pub(super) const SLOW_TICK: Duration = Duration::from_millis(100);

/// Whether the connection takes another request after an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum After {
    Next,
    #[default]
    Close,
}

/// An answer with its whole body.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// An error as S3 answers it.
pub(super) fn s3_error(status: StatusCode, code: &str) -> Answer {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>fault set on the proxy</Message></Error>"
    );
    let mut headers = HeaderMap::new();
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/xml"),
    );
    let date = rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&jiff::Timestamp::now());
    if let Some(date) = date.ok().and_then(|date| HeaderValue::from_str(&date).ok()) {
        headers.insert(DATE, date);
    }
    Answer {
        status,
        headers,
        body: body.into(),
    }
}

/// Sends an answer with a fault of its body or its headers.
pub(super) async fn send(
    stream: &mut TcpStream,
    method: &Method,
    mut answer: Answer,
    fault: Option<Fault>,
) -> anyhow::Result<After> {
    if let Some(Fault::DateSkew(seconds)) = fault {
        skew_date(&mut answer.headers, seconds)?;
    }
    let (status, headers) = (answer.status, &answer.headers);
    if *method == Method::HEAD
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
    {
        write_head(stream, status, headers, Framing::None).await?;
        return Ok(After::Next);
    }
    let mut body = answer.body.to_vec();
    let length = Framing::Length(body.len() as u64);
    match fault {
        Some(Fault::TruncateBody(at)) => {
            write_head(stream, status, headers, length).await?;
            stream.write_all(&body[..at.min(body.len())]).await?;
            return Ok(After::Close);
        }
        Some(Fault::EndlessBody) => {
            write_head(stream, status, headers, Framing::Chunked).await?;
            write_chunk(stream, &body).await?;
            loop {
                write_chunk(stream, ENDLESS_PIECE).await?;
            }
        }
        Some(Fault::EndlessBodyWithLength) => {
            write_head(stream, status, headers, Framing::Length(1 << 60)).await?;
            stream.write_all(&body).await?;
            loop {
                stream.write_all(ENDLESS_PIECE).await?;
            }
        }
        Some(Fault::SlowBody { bytes_per_second }) => {
            write_head(stream, status, headers, length).await?;
            let (piece, tick) = pace(bytes_per_second);
            for piece in body.chunks(piece) {
                tokio::time::sleep(tick).await;
                stream.write_all(piece).await?;
            }
            return Ok(After::Next);
        }
        Some(Fault::FlipByte(at)) => {
            let last = body.len().saturating_sub(1);
            if let Some(byte) = body.get_mut(at.min(last)) {
                *byte ^= 1;
            }
        }
        // The others are done, or are not about the body.
        Some(
            Fault::Status(..)
            | Fault::Reset
            | Fault::Timeout
            | Fault::LostAnswer
            | Fault::DateSkew(_),
        )
        | None => {}
    }
    write_head(stream, status, headers, length).await?;
    stream.write_all(&body).await?;
    Ok(After::Next)
}

/// How many bytes to send how often for a pace.
pub(super) fn pace(bytes_per_second: u32) -> (usize, Duration) {
    let bytes_per_second = bytes_per_second.max(1);
    if bytes_per_second < 10 {
        (1, Duration::from_secs(1) / bytes_per_second)
    } else {
        (bytes_per_second as usize / 10, SLOW_TICK)
    }
}

fn skew_date(headers: &mut HeaderMap, seconds: i64) -> anyhow::Result<()> {
    let date = headers
        .get(DATE)
        .context("the store's answer has no Date")?
        .to_str()?;
    let date = rfc2822::parse(date)?.timestamp() + jiff::SignedDuration::from_secs(seconds);
    let date = rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&date)?;
    headers.insert(DATE, HeaderValue::from_str(&date)?);
    Ok(())
}
