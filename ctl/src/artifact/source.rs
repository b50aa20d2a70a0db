//! Reading an artifact where it comes from: a file, or a server.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use shared::limits;

/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(30);
/// How often a server may send us elsewhere.
const REDIRECTS: usize = 5;

/// Whether a source is a server's.
#[must_use]
pub fn is_url(source: &str) -> bool {
    source.starts_with("https://") || source.starts_with("http://")
}

/// Reads a source whole; a URL follows a few redirects, and never from https to http.
///
/// # Errors
/// What could not be read, or is larger than an artifact may be.
pub async fn fetch(source: &str) -> anyhow::Result<Vec<u8>> {
    let bytes = match is_url(source) {
        true => download(source)
            .await
            .with_context(|| format!("cannot fetch {source}"))?,
        false => read(Path::new(source)).with_context(|| format!("cannot read {source}"))?,
    };
    if bytes.is_empty() {
        bail!("{source} is empty");
    }
    Ok(bytes)
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let length = std::fs::metadata(path)?.len();
    within(length)?;
    Ok(std::fs::read(path)?)
}

fn within(length: u64) -> anyhow::Result<()> {
    if length > limits::ARTIFACT_BYTES {
        bail!(
            "it is longer than the {} bytes allowed",
            limits::ARTIFACT_BYTES
        );
    }
    Ok(())
}

async fn download(url: &str) -> anyhow::Result<Vec<u8>> {
    let client = reqwest::Client::builder()
        .connect_timeout(SILENCE)
        .read_timeout(SILENCE)
        .redirect(reqwest::redirect::Policy::custom(|attempt| {
            let was_secure = attempt.previous().iter().any(|u| u.scheme() == "https");
            if was_secure && attempt.url().scheme() != "https" {
                return attempt.error("it leads from https to http");
            }
            if attempt.previous().len() > REDIRECTS {
                return attempt.error("it leads elsewhere too often");
            }
            attempt.follow()
        }))
        .build()?;
    let mut answer = client.get(url).send().await?.error_for_status()?;
    within(answer.content_length().unwrap_or(0))?;
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        bytes.extend_from_slice(&chunk);
        within(bytes.len() as u64)?;
    }
    Ok(bytes)
}
