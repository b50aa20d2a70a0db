//! What a client said about an object beside its bytes: content type, user metadata and a few headers.
//!
//! They lie in `.attributes/BUCKET/ETAG-DIGEST(KEY).json`. The version they belong to is in the name, so they can be
//! written before the object itself is renamed into place and a kill in between changes nothing about the old object.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use s3s::crypto::{Checksum, Md5};
use s3s::dto::ETag;
use serde::{Deserialize, Serialize};

use super::files::{ObjectFiles, etag_of};

/// The content type of an object for which none was given; not worth a file.
pub(super) const DEFAULT_CONTENT_TYPE: &str = "application/octet-stream";

/// The attributes of one version of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attributes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cache_control: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content_disposition: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content_encoding: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content_language: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) metadata: Option<HashMap<String, String>>,
}

impl Attributes {
    fn are_default(&self) -> bool {
        let content_type = self
            .content_type
            .as_deref()
            .filter(|given| *given != DEFAULT_CONTENT_TYPE);
        content_type.is_none()
            && Self {
                content_type: None,
                ..self.clone()
            } == Self::default()
    }

    /// Reads the attributes of a version; those that nobody gave are absent. Blocks.
    pub(super) fn load(
        files: &ObjectFiles,
        bucket: &str,
        key: &str,
        etag: &ETag,
    ) -> io::Result<Self> {
        match std::fs::read(place(files, bucket, key, etag)) {
            Ok(content) => serde_json::from_slice(&content).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Writes the attributes of a version that is about to become the object. Blocks.
    pub(super) fn save(
        &self,
        files: &ObjectFiles,
        bucket: &str,
        key: &str,
        etag: &ETag,
    ) -> io::Result<()> {
        let place = place(files, bucket, key, etag);
        if self.are_default() {
            return remove(&place);
        }
        files.write_whole(&place, &serde_json::to_vec(self)?)
    }

    /// Drops the attributes of a version that is no longer the object. Blocks.
    pub(super) fn forget(
        files: &ObjectFiles,
        bucket: &str,
        key: &str,
        etag: &ETag,
    ) -> io::Result<()> {
        remove(&place(files, bucket, key, etag))
    }
}

fn place(files: &ObjectFiles, bucket: &str, key: &str, etag: &ETag) -> PathBuf {
    // A digest, because a key may be longer than a file's name.
    let digest = etag_of(Md5::checksum(key.as_bytes()));
    files.bucket(".attributes").join(bucket).join(format!(
        "{}-{}.json",
        etag.value(),
        digest.value()
    ))
}

fn remove(place: &Path) -> io::Result<()> {
    match std::fs::remove_file(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_belong_to_one_version_and_defaults_cost_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let files = ObjectFiles::new(directory.path().to_owned()).unwrap();
        let (old, new) = (ETag::Strong("a".to_owned()), ETag::Strong("b".to_owned()));
        let given = Attributes {
            content_type: Some("application/json".to_owned()),
            ..Default::default()
        };
        let key = "k".repeat(900);
        given.save(&files, "bucket", &key, &old).unwrap();
        assert_eq!(
            Attributes::load(&files, "bucket", &key, &old).unwrap(),
            given
        );
        assert_eq!(
            Attributes::load(&files, "bucket", &key, &new).unwrap(),
            Attributes::default()
        );
        let plain = Attributes {
            content_type: Some(DEFAULT_CONTENT_TYPE.to_owned()),
            ..Default::default()
        };
        plain.save(&files, "bucket", &key, &old).unwrap();
        assert_eq!(
            Attributes::load(&files, "bucket", &key, &old).unwrap(),
            Attributes::default()
        );
        assert_eq!(
            std::fs::read_dir(directory.path().join(".attributes/bucket"))
                .unwrap()
                .count(),
            0
        );
    }
}
