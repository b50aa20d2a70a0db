//! agent

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "a test may write as it likes: nothing of it has to survive a power cut")
)]
