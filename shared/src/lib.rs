//! The contract between platformctl and platform-agent.
//!
//! Everything both must agree on is here and nowhere else:
//! - [`names`], [`limits`], [`digest`]: the small types every other module speaks in;
//! - [`backup`]: etcd's backups: their manifest, schedule and encryption;
//! - [`bundle`]: a release as an index and files, packed and strictly unpacked;
//! - [`artifact`]: the strict archive of many files that an artifact may be;
//! - [`wrap`]: how a release's age identity is wrapped, by AWS KMS or by a local key file;
//! - [`store`]: the bucket behind a narrow trait, its S3 adapter, and the keys of its objects;
//! - [`trust`]: TUF, both verifying (agent) and signing (platformctl);
//! - [`documents`]: the small JSON objects in the bucket;
//! - [`rollout`]: every decision of a rollout, pure;
//! - [`etcd`]: every decision about etcd's membership, pure;
//! - [`check`]: what a file must be before a node may write it;
//! - [`durable`]: the one way a file is written where it matters;
//! - [`secret`]: bytes that cannot be printed.
//!
//! It knows no command line, no kubelet directory and no Terraform. `docs/protocol.md` numbers the steps that the
//! comments here cite as `§n`.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "what a test writes need not survive a power cut"
    )
)]

pub mod artifact;
pub mod backup;
pub mod bundle;
pub mod check;
pub mod digest;
pub mod documents;
pub mod durable;
pub mod etcd;
pub mod limits;
pub mod names;
pub mod rewrite;
pub mod rollout;
pub mod secret;
pub mod store;
pub mod trust;
pub mod wrap;
