//! The contract between platformctl and platform-agent.
//!
//! Everything both must agree on is here and nowhere else: names, the bundle and its index, trust, encryption,
//! the store, and the documents in the bucket. It knows no command line, no kubelet directory and no Terraform.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "what a test writes need not survive a power cut"
    )
)]

pub mod check;
