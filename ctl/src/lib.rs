//! platformctl: renders, signs, encrypts and publishes releases, and shows what the nodes made of them.
//!
//! `env` reads an environment, `render` makes the files of a release from templates, `lint` checks them offline,
//! `publish` signs and uploads, `dev` is the embedded default; `cmd` holds one file a verb.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "what a test writes need not survive a power cut"
    )
)]

pub mod dev;
pub mod env;
pub mod lint;
pub mod render;
