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

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use s3s::dto::{
    BucketLocationConstraint, CreateBucketInput, CreateBucketOutput, DeleteBucketInput,
    DeleteBucketOutput, DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput,
    DeleteObjectsOutput, DeletedObject, GetBucketLocationInput, GetBucketLocationOutput,
    GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput, HeadObjectInput,
    HeadObjectOutput, ListBucketsInput, ListBucketsOutput, ListObjectsInput, ListObjectsOutput,
    ListObjectsV2Input, ListObjectsV2Output, PutObjectInput, PutObjectOutput, Range, Timestamp,
};
use s3s::{S3, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use tokio::sync::RwLock;

use super::attributes::DEFAULT_CONTENT_TYPE;
use super::blocking;
use super::conditions::ReadConditions;
use super::files::ObjectFiles;
use super::objects::body_of;
use super::upload;

/// The most entries in one page of a listing, as in S3.
const PAGE: i32 = 1000;

/// `s3s-fs` with compare-and-swap, conditional reads and whole objects.
#[derive(Debug)]
pub(super) struct ConditionalStore {
    inner: FileSystem,
    pub(super) files: Arc<ObjectFiles>,
    region: String,
    /// Commits and listings share it, deletions have it alone: so a listing never meets a file that goes away under
    /// it, and a conditional deletion deletes the version it checked.
    pub(super) tree: Arc<RwLock<()>>,
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
        self.put(path, input, upload).await?;
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
