//! What is looked at in every answer before the SDK makes something of it: the store's clock, and its length.

use std::error::Error as StdError;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeDeserializationInterceptorContextMut, BeforeDeserializationInterceptorContextRef,
};
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::ConfigBag;
use http_body_util::{LengthLimitError, Limited};
use jiff::Timestamp;

use super::ServerTime;

/// Longest page of a listing, in bytes: 1,000 keys of at most 1,024 bytes, escaped, with what else it says of each.
const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// Longest other answer that the SDK collects, in bytes: an error, or what a write is answered with.
const ANSWER_BYTES: usize = 256 * 1024;

/// Remembers the `Date` of every answer.
#[derive(Debug)]
pub(super) struct DateWatch(pub(super) Arc<Mutex<Option<ServerTime>>>);

impl Intercept for DateWatch {
    fn name(&self) -> &'static str {
        "DateWatch"
    }

    fn read_after_transmit(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let parsed = date.and_then(|d| jiff::fmt::rfc2822::parse(d).ok());
        if let Some(server) = parsed {
            let seen = ServerTime {
                server: server.timestamp(),
                local: Timestamp::now(),
            };
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        }
        Ok(())
    }
}

/// Ends every answer at a limit. The SDK collects each one but an object's own bytes in memory before it looks at it,
/// without a limit: the answer to a write, or an error, that never ended would fill the memory until the deadline.
/// An object's bytes come as a stream, with the limit of the call.
#[derive(Debug)]
pub(super) struct AnswerLimit;

impl Intercept for AnswerLimit {
    fn name(&self) -> &'static str {
        "AnswerLimit"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let operation = config.load::<Metadata>().map_or("", Metadata::name);
        let Some(limit) = limit_of(operation, context.response().status().is_success()) else {
            return Ok(());
        };
        let body = context.response_mut().body_mut();
        let unlimited = std::mem::replace(body, SdkBody::taken());
        *body = SdkBody::from_body_1_x(Limited::new(unlimited, limit));
        Ok(())
    }
}

/// How long an answer may be; none where the caller reads it as a stream.
fn limit_of(operation: &str, success: bool) -> Option<usize> {
    match (operation, success) {
        ("GetObject", true) => None,
        ("ListObjectsV2", true) => Some(PAGE_BYTES),
        _ => Some(ANSWER_BYTES),
    }
}

/// Whether an error comes from [`AnswerLimit`].
pub(super) fn is_too_long(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(cause) = next {
        if cause.is::<LengthLimitError>() {
            return true;
        }
        next = cause.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_objects_own_bytes_have_no_limit_here() {
        assert_eq!(limit_of("GetObject", true), None);
        assert_eq!(limit_of("GetObject", false), Some(ANSWER_BYTES));
        assert_eq!(limit_of("ListObjectsV2", true), Some(PAGE_BYTES));
        for other in ["ListObjectsV2", "PutObject", ""] {
            assert_eq!(limit_of(other, false), Some(ANSWER_BYTES));
        }
        assert_eq!(limit_of("PutObject", true), Some(ANSWER_BYTES));
    }
}
