//! What the operations do to objects: read them under conditions, commit uploads, delete.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::HeaderMap;
use http::header::{ETAG, LAST_MODIFIED};
use s3s::dto::{
    ETag, ETagCondition, Object, PutObjectInput, StreamingBlob, Timestamp, TimestampFormat,
};
use s3s::{Body, S3Result, s3_error};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::attributes::Attributes;
use super::blocking;
use super::conditions::{ReadConditions, ReadVerdict, check_read, check_write};
use super::files::{ObjectFiles, OpenObject};
use super::service::ConditionalStore;
use super::upload::Upload;

/// Bodies up to this size are read at once; longer ones are streamed.
const WHOLE_BODY: u64 = 256 * 1024;

impl ConditionalStore {
    /// The file of an object that is to be read: no file means that there is no such object.
    fn readable(&self, bucket: &str, key: &str) -> S3Result<PathBuf> {
        self.files
            .object(bucket, key)
            .ok_or_else(|| s3_error!(NoSuchKey))
    }

    pub(super) async fn bucket_exists(&self, bucket: &str) -> S3Result<()> {
        let path = self.files.bucket(bucket);
        let found = blocking(move || Ok(path.is_dir())).await?;
        if found {
            Ok(())
        } else {
            Err(s3_error!(NoSuchBucket))
        }
    }

    /// Opens an object for a read under `conditions`; 304 comes as an error, as s3s has no other way to answer it.
    pub(super) async fn read(
        &self,
        bucket: String,
        key: String,
        conditions: ReadConditions,
    ) -> S3Result<(OpenObject, Attributes)> {
        let path = self.readable(&bucket, &key)?;
        let files = Arc::clone(&self.files);
        let (object, verdict, attributes) = {
            let bucket = bucket.clone();
            blocking(move || {
                let Some(object) = files.open(&path)? else {
                    return Ok((None, ReadVerdict::Serve, Attributes::default()));
                };
                let verdict = check_read(&conditions, &object.etag, object.metadata.modified()?);
                let attributes = match verdict {
                    ReadVerdict::Serve => Attributes::load(&files, &bucket, &key, &object.etag)?,
                    ReadVerdict::NotModified | ReadVerdict::PreconditionFailed => {
                        Attributes::default()
                    }
                };
                Ok((Some(object), verdict, attributes))
            })
            .await?
        };
        let Some(object) = object else {
            self.bucket_exists(&bucket).await?;
            return Err(s3_error!(NoSuchKey));
        };
        match verdict {
            ReadVerdict::Serve => Ok((object, attributes)),
            ReadVerdict::NotModified => {
                let mut error = s3_error!(NotModified);
                error.set_headers(version_headers(&object)?);
                Err(error)
            }
            ReadVerdict::PreconditionFailed => Err(s3_error!(PreconditionFailed)),
        }
    }

    /// Makes an upload the object at `path` when its conditions hold.
    pub(super) async fn put(
        &self,
        path: PathBuf,
        input: PutObjectInput,
        upload: Upload,
    ) -> S3Result<()> {
        let tree = Arc::clone(&self.tree).read_owned().await;
        let alone = self.files.lock(&path).await;
        let files = Arc::clone(&self.files);
        blocking(move || {
            // The locks are in here because this runs to its end even when the client hangs up and the request with it.
            let _locks = (tree, alone);
            commit(&files, &path, input, upload)
        })
        .await?
    }

    /// Deletes an object when its condition holds; one that is not there is deleted already.
    pub(super) async fn delete(
        &self,
        bucket: &str,
        key: &str,
        if_match: Option<ETagCondition>,
    ) -> S3Result<()> {
        let Some(path) = self.files.object(bucket, key) else {
            return Ok(());
        };
        let alone = Arc::clone(&self.tree).write_owned().await;
        let (files, bucket, key) = (Arc::clone(&self.files), bucket.to_owned(), key.to_owned());
        blocking(move || {
            // In here for the same reason as a commit's locks.
            let _alone = alone;
            let current = files.open(&path)?.map(|object| object.etag);
            if let Err(refusal) = check_write(if_match.as_ref(), None, current.as_ref()) {
                return Ok(Err(refusal));
            }
            let Some(etag) = current else {
                return Ok(Ok(()));
            };
            std::fs::remove_file(&path)?;
            files.forget(&path);
            Attributes::forget(&files, &bucket, &key, &etag).map(Ok)
        })
        .await?
    }

    /// The objects of a listing with their ETags; one that s3s-fs listed is still there while `tree` is held.
    pub(super) async fn with_etags(
        &self,
        bucket: &str,
        objects: Option<Vec<Object>>,
    ) -> S3Result<Option<Vec<Object>>> {
        let Some(mut objects) = objects else {
            return Ok(None);
        };
        let (files, bucket) = (Arc::clone(&self.files), bucket.to_owned());
        blocking(move || {
            for object in &mut objects {
                let path = object
                    .key
                    .as_deref()
                    .and_then(|key| files.object(&bucket, key));
                if let Some(path) = path {
                    object.e_tag = files.open(&path)?.map(|open| open.etag);
                }
            }
            Ok(Some(objects))
        })
        .await
    }
}

fn version_headers(object: &OpenObject) -> S3Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    headers.insert(
        ETAG,
        object
            .etag
            .to_http_header()
            .map_err(|error| s3_error!(error, InternalError))?,
    );
    let modified = object
        .metadata
        .modified()
        .map_err(|error| s3_error!(error, InternalError))?;
    let mut date = Vec::new();
    if Timestamp::from(modified)
        .format(TimestampFormat::HttpDate, &mut date)
        .is_ok()
        && let Ok(date) = http::HeaderValue::from_bytes(&date)
    {
        headers.insert(LAST_MODIFIED, date);
    }
    Ok(headers)
}

/// The bytes `start..end` of an open object.
pub(super) async fn body_of(object: OpenObject, start: u64, end: u64) -> S3Result<StreamingBlob> {
    let mut file = object.file;
    let length = end.saturating_sub(start);
    if length <= WHOLE_BODY {
        let bytes = blocking(move || {
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(start))?;
            file.take(length).read_to_end(&mut bytes)?;
            if bytes.len() as u64 == length {
                Ok(bytes)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        })
        .await?;
        return Ok(StreamingBlob::from(Body::from(bytes)));
    }
    let file = blocking(move || file.seek(SeekFrom::Start(start)).map(|_| file)).await?;
    let rest = tokio::fs::File::from_std(file).take(length);
    Ok(StreamingBlob::wrap(ReaderStream::with_capacity(
        rest,
        64 * 1024,
    )))
}

/// Makes an upload the object at `path` when its conditions hold. The caller has the object's lock. Blocks.
fn commit(
    files: &ObjectFiles,
    path: &Path,
    input: PutObjectInput,
    upload: Upload,
) -> io::Result<S3Result<()>> {
    // It may have been deleted since the upload began.
    if !files.bucket(&input.bucket).is_dir() {
        return Ok(Err(s3_error!(NoSuchBucket)));
    }
    let current: Option<ETag> = files.open(path)?.map(|object| object.etag);
    if let Err(refusal) = check_write(
        input.if_match.as_ref(),
        input.if_none_match.as_ref(),
        current.as_ref(),
    ) {
        return Ok(Err(refusal));
    }
    let attributes = Attributes {
        cache_control: input.cache_control,
        content_disposition: input.content_disposition,
        content_encoding: input.content_encoding.as_deref().and_then(stored_encoding),
        content_language: input.content_language,
        content_type: input.content_type,
        metadata: input.metadata,
    };
    attributes.save(files, &input.bucket, &input.key, &upload.etag)?;
    match files.commit(upload.file, path, &upload.etag) {
        Ok(()) => {}
        Err(error) if clashes(&error) => {
            let refusal = s3_error!(
                error,
                InvalidArgument,
                "this store keeps no object whose key is a directory of another's"
            );
            return Ok(Err(refusal));
        }
        Err(error) => return Err(error),
    }
    match current.filter(|old| *old != upload.etag) {
        Some(old) => Attributes::forget(files, &input.bucket, &input.key, &old).map(Ok),
        None => Ok(Ok(())),
    }
}

/// A content encoding without `aws-chunked`, which is about the upload and not about the object.
fn stored_encoding(given: &str) -> Option<String> {
    let kept: Vec<&str> = given
        .split(',')
        .map(str::trim)
        .filter(|part| !matches!(*part, "aws-chunked" | ""))
        .collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

fn clashes(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AlreadyExists
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::DirectoryNotEmpty
    )
}
