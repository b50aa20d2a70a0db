//! The S3 operations: what touches an object is here, buckets and listings are `s3s-fs`'s, on the same files.
//!
//! What `s3s-fs` 0.14 does with objects is worked around, as the platform stands on it:
//! - a GET ignores `If-None-Match`, and the conditions of a PUT are checked without a lock, so two writers can win;
//! - a PUT renames the new bytes into place before it checks their digests and before it writes the ETag into a second
//!   file, so a bad upload replaces a good object, and a kill in between leaves new bytes under the old ETag;
//! - that second file's name is bucket and key in base64: a bundle's key in a bucket with a long name is too long for it;
//! - keys with `..`, `.` or `//` share a file with other keys;
//! - a listing and a deletion at once is an error 500; deleting a bucket deletes what is in it;
//! - a listing has no ETags, and says that keys are URL-encoded when they are not.
//!
//! Multipart uploads, copies, versions and bucket configuration answer 501 `NotImplemented`.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use http::HeaderMap;
use http::header::{ETAG, LAST_MODIFIED};
use s3s::dto::{
    BucketLocationConstraint, CreateBucketInput, CreateBucketOutput, DeleteBucketInput,
    DeleteBucketOutput, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput,
    DeleteObjectsOutput, DeletedObject, ETag, ETagCondition, GetBucketLocationInput,
    GetBucketLocationOutput, GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput,
    HeadObjectInput, HeadObjectOutput, ListBucketsInput, ListBucketsOutput, ListObjectsInput,
    ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output, Object, PutObjectInput,
    PutObjectOutput, Range, StreamingBlob, Timestamp, TimestampFormat,
};
use s3s::{Body, S3, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use tokio::io::AsyncReadExt;
use tokio::sync::RwLock;
use tokio_util::io::ReaderStream;

use super::attributes::{Attributes, DEFAULT_CONTENT_TYPE};
use super::blocking;
use super::conditions::{ReadConditions, ReadVerdict, check_read, check_write};
use super::files::{ObjectFiles, OpenObject};
use super::upload;

/// Bodies up to this size are read at once; longer ones are streamed.
const WHOLE_BODY: u64 = 256 * 1024;

/// The most entries in one page of a listing, as in S3.
const PAGE: i32 = 1000;

/// `s3s-fs` with compare-and-swap, conditional reads and whole objects.
#[derive(Debug)]
pub(super) struct ConditionalStore {
    inner: FileSystem,
    files: Arc<ObjectFiles>,
    region: String,
    /// Commits and listings share it, deletions have it alone: so a listing never meets a file that goes away under
    /// it, and a conditional deletion deletes the version it checked.
    tree: Arc<RwLock<()>>,
}

impl ConditionalStore {
    pub(super) fn new(inner: FileSystem, files: ObjectFiles, region: String) -> Self {
        Self {
            inner,
            files: Arc::new(files),
            region,
            tree: Arc::default(),
        }
    }

    /// The file of an object that is to be read: no file means that there is no such object.
    fn readable(&self, bucket: &str, key: &str) -> S3Result<PathBuf> {
        self.files
            .object(bucket, key)
            .ok_or_else(|| s3_error!(NoSuchKey))
    }

    async fn bucket_exists(&self, bucket: &str) -> S3Result<()> {
        let path = self.files.bucket(bucket);
        let found = blocking(move || Ok(path.is_dir())).await?;
        if found {
            Ok(())
        } else {
            Err(s3_error!(NoSuchBucket))
        }
    }

    /// Opens an object for a read under `conditions`; 304 comes as an error, as s3s has no other way to answer it.
    async fn read(
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

    /// Deletes an object when its condition holds; one that is not there is deleted already.
    async fn delete(
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
    async fn with_etags(
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
async fn body_of(object: OpenObject, start: u64, end: u64) -> S3Result<StreamingBlob> {
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

#[async_trait::async_trait]
impl S3 for ConditionalStore {
    async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        self.inner
            .create_bucket(request)
            .await
            .map_err(|mut error| {
                if *error.code() == S3ErrorCode::BucketAlreadyExists {
                    // There is one account here, and S3 tells an owner so.
                    error.set_code(S3ErrorCode::BucketAlreadyOwnedByYou);
                }
                error
            })
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.inner.head_bucket(request).await
    }

    async fn list_buckets(
        &self,
        request: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        self.inner.list_buckets(request).await
    }

    async fn delete_bucket(
        &self,
        request: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        let _alone = self.tree.write().await;
        let bucket = self.files.bucket(&request.input.bucket);
        if !blocking(move || holds_no_file(bucket)).await? {
            return Err(s3_error!(BucketNotEmpty));
        }
        self.inner.delete_bucket(request).await
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.bucket_exists(&request.input.bucket).await?;
        // S3 names every region but its first.
        let named = (self.region != "us-east-1")
            .then(|| BucketLocationConstraint::from(self.region.clone()));
        Ok(S3Response::new(GetBucketLocationOutput {
            location_constraint: named,
        }))
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let conditions = ReadConditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        };
        let (object, attributes) = self.read(input.bucket, input.key, conditions).await?;
        let (start, end, content_range) = span(input.range, object.metadata.len())?;
        let modified = object
            .metadata
            .modified()
            .map_err(|error| s3_error!(error, InternalError))?;
        let etag = object.etag.clone();
        Ok(S3Response::new(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            body: Some(body_of(object, start, end).await?),
            cache_control: attributes.cache_control,
            content_disposition: attributes.content_disposition,
            content_encoding: attributes.content_encoding,
            content_language: attributes.content_language,
            content_length: Some(signed(end.saturating_sub(start))?),
            content_range,
            content_type: Some(
                attributes
                    .content_type
                    .unwrap_or_else(|| DEFAULT_CONTENT_TYPE.to_owned()),
            ),
            e_tag: Some(etag),
            last_modified: Some(Timestamp::from(modified)),
            metadata: attributes.metadata,
            ..Default::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        let conditions = ReadConditions {
            if_match: input.if_match,
            if_none_match: input.if_none_match,
            if_modified_since: input.if_modified_since,
            if_unmodified_since: input.if_unmodified_since,
        };
        let (object, attributes) = self.read(input.bucket, input.key, conditions).await?;
        let modified = object
            .metadata
            .modified()
            .map_err(|error| s3_error!(error, InternalError))?;
        Ok(S3Response::new(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            cache_control: attributes.cache_control,
            content_disposition: attributes.content_disposition,
            content_encoding: attributes.content_encoding,
            content_language: attributes.content_language,
            content_length: Some(signed(object.metadata.len())?),
            content_type: Some(
                attributes
                    .content_type
                    .unwrap_or_else(|| DEFAULT_CONTENT_TYPE.to_owned()),
            ),
            e_tag: Some(object.etag),
            last_modified: Some(Timestamp::from(modified)),
            metadata: attributes.metadata,
            ..Default::default()
        }))
    }

    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let mut input = request.input;
        let path = self
            .files
            .object(&input.bucket, &input.key)
            .ok_or_else(|| {
                s3_error!(
                    InvalidArgument,
                    "this store keeps no key with an empty, '.', '..' or overlong part"
                )
            })?;
        self.bucket_exists(&input.bucket).await?;
        let upload = upload::receive(&self.files, &mut input, request.trailing_headers).await?;
        let output = PutObjectOutput {
            e_tag: Some(upload.etag.clone()),
            checksum_crc32: upload.checksum.checksum_crc32.clone(),
            checksum_crc32c: upload.checksum.checksum_crc32c.clone(),
            checksum_crc64nvme: upload.checksum.checksum_crc64nvme.clone(),
            checksum_sha1: upload.checksum.checksum_sha1.clone(),
            checksum_sha256: upload.checksum.checksum_sha256.clone(),
            ..Default::default()
        };
        let tree = Arc::clone(&self.tree).read_owned().await;
        let alone = self.files.lock(&path).await;
        let files = Arc::clone(&self.files);
        blocking(move || {
            // The locks are in here because this runs to its end even when the client hangs up and the request with it.
            let _locks = (tree, alone);
            commit(&files, &path, input, upload)
        })
        .await??;
        Ok(S3Response::new(output))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let input = request.input;
        self.bucket_exists(&input.bucket).await?;
        self.delete(&input.bucket, &input.key, input.if_match)
            .await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let input = request.input;
        self.bucket_exists(&input.bucket).await?;
        let mut deleted = Vec::new();
        for object in input.delete.objects {
            self.delete(&input.bucket, &object.key, None).await?;
            deleted.push(DeletedObject {
                key: Some(object.key),
                ..Default::default()
            });
        }
        let told = !input.delete.quiet.unwrap_or_default();
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: told.then_some(deleted),
            ..Default::default()
        }))
    }

    async fn list_objects(
        &self,
        mut request: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let bucket = request.input.bucket.clone();
        request.input.encoding_type = None;
        request.input.max_keys = Some(request.input.max_keys.unwrap_or(PAGE).clamp(0, PAGE));
        let _stable = self.tree.read().await;
        let mut response = self.inner.list_objects(request).await?;
        response.output.contents = self
            .with_etags(&bucket, response.output.contents.take())
            .await?;
        Ok(response)
    }

    async fn list_objects_v2(
        &self,
        mut request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let bucket = request.input.bucket.clone();
        request.input.encoding_type = None;
        request.input.max_keys = Some(request.input.max_keys.unwrap_or(PAGE).clamp(0, PAGE));
        let _stable = self.tree.read().await;
        let mut response = self.inner.list_objects_v2(request).await?;
        response.output.contents = self
            .with_etags(&bucket, response.output.contents.take())
            .await?;
        Ok(response)
    }
}

/// Makes an upload the object at `path` when its conditions hold. The caller has the object's lock. Blocks.
fn commit(
    files: &ObjectFiles,
    path: &std::path::Path,
    input: PutObjectInput,
    upload: upload::Upload,
) -> io::Result<S3Result<()>> {
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

/// Which bytes of an object of `length` a range asks for, and the Content-Range to say so.
fn span(range: Option<Range>, length: u64) -> S3Result<(u64, u64, Option<String>)> {
    let Some(range) = range else {
        return Ok((0, length, None));
    };
    let span = range.check(length)?;
    let content_range = format!(
        "bytes {}-{}/{length}",
        span.start,
        span.end.saturating_sub(1)
    );
    Ok((span.start, span.end, Some(content_range)))
}

fn signed(length: u64) -> S3Result<i64> {
    i64::try_from(length).map_err(|error| s3_error!(error, InternalError))
}

fn holds_no_file(directory: PathBuf) -> io::Result<bool> {
    let mut pending = vec![directory];
    while let Some(directory) = pending.pop() {
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                return Ok(false);
            }
            pending.push(entry.path());
        }
    }
    Ok(true)
}
