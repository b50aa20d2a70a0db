//! When a conditional request goes through: pure decisions over the object that is there now.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use s3s::dto::{ETag, ETagCondition, Timestamp};
use s3s::{S3Result, s3_error};

/// Whether a write or a delete may go ahead over `current`, the ETag of the object that is there now.
///
/// As S3 answers: `If-None-Match: *` over an object is 412, `If-Match` over another version is 412 and over nothing
/// is 404 `NoSuchKey`. `If-None-Match` with an ETag is refused, as S3 knows only `*` for a write.
pub(super) fn check_write(
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
    current: Option<&ETag>,
) -> S3Result<()> {
    match (if_none_match, current) {
        (None, _) | (Some(ETagCondition::Any), None) => {}
        (Some(ETagCondition::Any), Some(_)) => {
            return Err(s3_error!(PreconditionFailed, "the object exists already"));
        }
        (Some(ETagCondition::ETag(_)), _) => {
            return Err(s3_error!(
                NotImplemented,
                "a write takes only If-None-Match: *"
            ));
        }
    }
    match (if_match, current) {
        (None, _) | (Some(ETagCondition::Any), Some(_)) => Ok(()),
        (Some(_), None) => Err(s3_error!(
            NoSuchKey,
            "there is no object for If-Match to match"
        )),
        (Some(ETagCondition::ETag(expected)), Some(current)) if current.strong_cmp(expected) => {
            Ok(())
        }
        (Some(ETagCondition::ETag(_)), Some(_)) => Err(s3_error!(
            PreconditionFailed,
            "the object is not the version that If-Match names"
        )),
    }
}

/// The conditions that came with a read.
#[derive(Debug, Default)]
pub(super) struct ReadConditions {
    /// 412 unless the object has this ETag.
    pub(super) if_match: Option<ETagCondition>,
    /// 304 when the object has this ETag.
    pub(super) if_none_match: Option<ETagCondition>,
    /// 304 unless the object is younger; ignored beside `if_none_match` (RFC 9110 §13.2.2).
    pub(super) if_modified_since: Option<Timestamp>,
    /// 412 when the object is younger; ignored beside `if_match` (RFC 9110 §13.2.2).
    pub(super) if_unmodified_since: Option<Timestamp>,
}

/// What to answer to a conditional read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReadVerdict {
    /// The object.
    Serve,
    /// 304: the caller has it already.
    NotModified,
    /// 412.
    PreconditionFailed,
}

/// Decides a read in the order of RFC 9110 §13.2.2.
pub(super) fn check_read(
    conditions: &ReadConditions,
    etag: &ETag,
    modified: SystemTime,
) -> ReadVerdict {
    // The headers carry whole seconds: a fraction would make an object younger than its own Last-Modified.
    let modified = Timestamp::from(whole_seconds(modified));
    let matches = |condition: &ETagCondition, same: fn(&ETag, &ETag) -> bool| match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(expected) => same(etag, expected),
    };
    let expected = match (&conditions.if_match, &conditions.if_unmodified_since) {
        (Some(condition), _) => matches(condition, ETag::strong_cmp),
        (None, Some(since)) => modified <= *since,
        (None, None) => true,
    };
    if !expected {
        return ReadVerdict::PreconditionFailed;
    }
    let news = match (&conditions.if_none_match, &conditions.if_modified_since) {
        (Some(condition), _) => !matches(condition, ETag::weak_cmp),
        (None, Some(since)) => modified > *since,
        (None, None) => true,
    };
    if news {
        ReadVerdict::Serve
    } else {
        ReadVerdict::NotModified
    }
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_secs(since_epoch.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn etag(value: &str) -> ETag {
        ETag::Strong(value.to_owned())
    }

    fn names(value: &str) -> ETagCondition {
        ETagCondition::ETag(etag(value))
    }

    fn write_status(
        if_match: Option<ETagCondition>,
        if_none_match: Option<ETagCondition>,
        current: Option<&str>,
    ) -> u16 {
        let current = current.map(etag);
        match check_write(if_match.as_ref(), if_none_match.as_ref(), current.as_ref()) {
            Ok(()) => 200,
            Err(error) => error.status_code().unwrap().as_u16(),
        }
    }

    #[test]
    fn an_unconditional_write_always_goes_through() {
        assert_eq!(write_status(None, None, None), 200);
        assert_eq!(write_status(None, None, Some("a")), 200);
    }

    #[test]
    fn create_only_is_refused_over_an_object() {
        assert_eq!(write_status(None, Some(ETagCondition::Any), None), 200);
        assert_eq!(write_status(None, Some(ETagCondition::Any), Some("a")), 412);
        assert_eq!(write_status(None, Some(names("a")), Some("b")), 501);
    }

    #[test]
    fn compare_and_swap_needs_the_named_version() {
        assert_eq!(write_status(Some(names("a")), None, Some("a")), 200);
        assert_eq!(write_status(Some(names("a")), None, Some("b")), 412);
        assert_eq!(write_status(Some(names("a")), None, None), 404);
        assert_eq!(write_status(Some(ETagCondition::Any), None, Some("b")), 200);
        assert_eq!(write_status(Some(ETagCondition::Any), None, None), 404);
        let weak = ETagCondition::ETag(ETag::Weak("a".to_owned()));
        assert_eq!(
            write_status(Some(weak), None, Some("a")),
            412,
            "a weak tag proves nothing to a write"
        );
    }

    #[test]
    fn a_read_of_the_known_version_is_not_modified() {
        let now = SystemTime::now();
        let read = |conditions: ReadConditions| check_read(&conditions, &etag("a"), now);
        let if_none_match = |value: &str| ReadConditions {
            if_none_match: Some(names(value)),
            ..Default::default()
        };
        assert_eq!(read(ReadConditions::default()), ReadVerdict::Serve);
        assert_eq!(read(if_none_match("a")), ReadVerdict::NotModified);
        assert_eq!(read(if_none_match("b")), ReadVerdict::Serve);
        let stale = ReadConditions {
            if_match: Some(names("b")),
            ..if_none_match("a")
        };
        assert_eq!(read(stale), ReadVerdict::PreconditionFailed);
    }

    #[test]
    fn times_count_in_whole_seconds_and_give_way_to_tags() {
        let modified = UNIX_EPOCH + Duration::from_millis(1_000_900);
        let second = |n| Some(Timestamp::from(UNIX_EPOCH + Duration::from_secs(n)));
        let read = |conditions: ReadConditions| check_read(&conditions, &etag("a"), modified);
        let since = |n| ReadConditions {
            if_modified_since: second(n),
            ..Default::default()
        };
        assert_eq!(read(since(1_000)), ReadVerdict::NotModified);
        assert_eq!(read(since(999)), ReadVerdict::Serve);
        let by_tag = ReadConditions {
            if_none_match: Some(names("b")),
            ..since(1_000)
        };
        assert_eq!(read(by_tag), ReadVerdict::Serve);
        let unmodified = |n| ReadConditions {
            if_unmodified_since: second(n),
            ..Default::default()
        };
        assert_eq!(read(unmodified(1_000)), ReadVerdict::Serve);
        assert_eq!(read(unmodified(999)), ReadVerdict::PreconditionFailed);
    }
}
