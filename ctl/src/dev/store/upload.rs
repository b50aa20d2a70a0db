//! Taking in the body of an upload: staged, hashed and checked against what the client said about it.

use std::io::Write;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::TryStreamExt;
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::{Checksum, ETag, PutObjectInput, StreamingBlob};
use s3s::{S3Error, S3Result, TrailingHeaders, s3_error};
use tempfile::NamedTempFile;

use super::blocking;
use super::files::{ObjectFiles, etag_of};

/// Bytes of an upload that are held in memory before they go to the staged file.
const SPILL: usize = 1024 * 1024;

/// A whole upload that is on disk and is what the client said it is, but not an object yet.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) file: NamedTempFile,
    pub(super) etag: ETag,
    /// The checksums that the client asked for.
    pub(super) checksum: Checksum,
}

/// Reads the body of `input` to its end.
///
/// # Errors
/// `IncompleteBody` when it ends early, `BadDigest` when it is not what the client said.
pub(super) async fn receive(
    files: &Arc<ObjectFiles>,
    input: &mut PutObjectInput,
    trailers: Option<TrailingHeaders>,
) -> S3Result<Upload> {
    let mut body: StreamingBlob = input.body.take().ok_or_else(|| s3_error!(IncompleteBody))?;
    let mut checksum = wanted_checksums(input)?;
    let mut md5 = Md5::new();
    let mut length: u64 = 0;
    let stage = Arc::clone(files);
    let mut file = blocking(move || stage.stage()).await?;
    let mut pending = Vec::new();
    while let Some(chunk) = body
        .try_next()
        .await
        .map_err(|source| S3Error::with_source(s3s::S3ErrorCode::IncompleteBody, source))?
    {
        md5.update(&chunk);
        checksum.update(&chunk);
        length += chunk.len() as u64;
        pending.extend_from_slice(&chunk);
        if pending.len() >= SPILL {
            let full = std::mem::take(&mut pending);
            file = blocking(move || file.write_all(&full).map(|()| file)).await?;
        }
    }
    // s3s announces 0 when a chunked upload does not tell its decoded length.
    if input
        .content_length
        .is_some_and(|announced| announced > 0 && u64::try_from(announced).ok() != Some(length))
    {
        return Err(s3_error!(
            IncompleteBody,
            "the body is not as long as its Content-Length says"
        ));
    }
    let md5 = md5.finalize();
    if let Some(announced) = &input.content_md5
        && STANDARD.decode(announced).ok().as_deref() != Some(md5.as_ref())
    {
        return Err(s3_error!(
            BadDigest,
            "the body is not what its Content-MD5 says"
        ));
    }
    let checksum = checksum.finalize();
    check_announced(&checksum, input, trailers)?;
    let file = blocking(move || {
        file.write_all(&pending)?;
        // Before the rename, so that a crash of the machine can't leave an object with its name but not its bytes.
        file.as_file().sync_data()?;
        Ok(file)
    })
    .await?;
    Ok(Upload {
        file,
        etag: etag_of(md5),
        checksum,
    })
}

fn wanted_checksums(input: &PutObjectInput) -> S3Result<ChecksumHasher> {
    let named = input
        .checksum_algorithm
        .as_ref()
        .map(s3s::dto::ChecksumAlgorithm::as_str);
    if let Some(name) = named
        && !["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"].contains(&name)
    {
        return Err(s3_error!(
            InvalidArgument,
            "unknown checksum algorithm {name}"
        ));
    }
    let wanted =
        |name: &str, announced: &Option<String>| announced.is_some() || named == Some(name);
    Ok(ChecksumHasher {
        crc32: wanted("CRC32", &input.checksum_crc32).then(Default::default),
        crc32c: wanted("CRC32C", &input.checksum_crc32c).then(Default::default),
        crc64nvme: wanted("CRC64NVME", &input.checksum_crc64nvme).then(Default::default),
        sha1: wanted("SHA1", &input.checksum_sha1).then(Default::default),
        sha256: wanted("SHA256", &input.checksum_sha256).then(Default::default),
    })
}

fn check_announced(
    computed: &Checksum,
    input: &PutObjectInput,
    trailers: Option<TrailingHeaders>,
) -> S3Result<()> {
    let trailers = trailers
        .and_then(|trailers| trailers.take())
        .unwrap_or_default();
    let pairs = [
        (
            "x-amz-checksum-crc32",
            &input.checksum_crc32,
            &computed.checksum_crc32,
        ),
        (
            "x-amz-checksum-crc32c",
            &input.checksum_crc32c,
            &computed.checksum_crc32c,
        ),
        (
            "x-amz-checksum-crc64nvme",
            &input.checksum_crc64nvme,
            &computed.checksum_crc64nvme,
        ),
        (
            "x-amz-checksum-sha1",
            &input.checksum_sha1,
            &computed.checksum_sha1,
        ),
        (
            "x-amz-checksum-sha256",
            &input.checksum_sha256,
            &computed.checksum_sha256,
        ),
    ];
    for (name, in_header, computed) in pairs {
        let in_trailer = trailers.get(name).and_then(|value| value.to_str().ok());
        // A trailer whose algorithm was not named before the body could not be computed along with it.
        if let (Some(announced), Some(computed)) = (in_header.as_deref().or(in_trailer), computed)
            && announced != computed
        {
            return Err(s3_error!(BadDigest, "the body is not what its {name} says"));
        }
    }
    Ok(())
}
