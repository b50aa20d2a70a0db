//! Removing the buckets for good, with every version in them: after a destroy, and only when told.

use anyhow::Context as _;
use aws_sdk_s3::types::{Delete, ObjectIdentifier};

use super::{Bucket, Purpose, Survey};
use crate::aws::{Aws, call};
use crate::env::Environment;

/// Removes what exists; a line for each thing done. Terraform's bucket may serve several environments: only this one's state
/// goes, and the bucket with it when nothing else is in it.
///
/// # Errors
/// What AWS refused. What was removed is gone; run the same again.
pub async fn remove(
    aws: &Aws,
    environment: &Environment,
    survey: &Survey,
) -> anyhow::Result<Vec<String>> {
    let mut done = Vec::new();
    for bucket in survey.buckets.iter().filter(|bucket| bucket.exists) {
        let Bucket { name, purpose, .. } = bucket;
        let prefix = match purpose {
            Purpose::Secrets => String::new(),
            Purpose::Terraform => format!("{}/{}/", environment.region, environment.name),
        };
        let removed = empty(aws, name, &prefix)
            .await
            .with_context(|| format!("cannot empty bucket {name}"))?;
        if *purpose == Purpose::Terraform && !is_empty(aws, name).await? {
            done.push(format!(
                "removed {removed} versions of this environment's state from {name}, which others use too"
            ));
            continue;
        }
        let request = aws.s3().delete_bucket().bucket(name).send();
        call("s3:DeleteBucket", format!("bucket {name}"), request).await?;
        done.push(format!("removed {name} with {removed} object versions"));
    }
    Ok(done)
}

async fn empty(aws: &Aws, bucket: &str, prefix: &str) -> anyhow::Result<usize> {
    let s3 = aws.s3();
    let mut removed = 0;
    loop {
        let request = s3
            .list_object_versions()
            .bucket(bucket)
            .prefix(prefix)
            .send();
        let page = call("s3:ListBucketVersions", format!("bucket {bucket}"), request).await?;
        let versions = page.versions().iter().map(|v| (v.key(), v.version_id()));
        let markers = page
            .delete_markers()
            .iter()
            .map(|m| (m.key(), m.version_id()));
        let objects = versions
            .chain(markers)
            .filter_map(|(key, version)| Some((key?, version)))
            .map(|(key, version)| {
                ObjectIdentifier::builder()
                    .key(key)
                    .set_version_id(version.map(str::to_owned))
                    .build()
            })
            .collect::<Result<Vec<_>, _>>()?;
        if objects.is_empty() {
            return Ok(removed);
        }
        let number = objects.len();
        let delete = Delete::builder()
            .set_objects(Some(objects))
            .quiet(true)
            .build()?;
        let request = s3.delete_objects().bucket(bucket).delete(delete).send();
        let answer = call(
            "s3:DeleteObjectVersion",
            format!("bucket {bucket}"),
            request,
        )
        .await?;
        if let Some(refused) = answer.errors().first() {
            anyhow::bail!(
                "s3:DeleteObjectVersion of {} was refused: {}",
                refused.key().unwrap_or_default(),
                refused.message().unwrap_or_default()
            );
        }
        removed += number;
    }
}

async fn is_empty(aws: &Aws, bucket: &str) -> anyhow::Result<bool> {
    let request = aws
        .s3()
        .list_object_versions()
        .bucket(bucket)
        .max_keys(1)
        .send();
    let page = call("s3:ListBucketVersions", format!("bucket {bucket}"), request).await?;
    Ok(page.versions().is_empty() && page.delete_markers().is_empty())
}
