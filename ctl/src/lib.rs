//! platformctl: renders, signs, encrypts and publishes releases, and shows what the nodes made of them.
//!
//! `env` reads an environment, `render` makes the files of a release from templates, `lint` checks them offline,
//! `release` puts them together, `keyring` holds the operator's secrets, `pki` makes the cluster's, `secrets` changes the
//! operators' own, `publish` signs and uploads, `history` looks back, `rollback` goes back, `gc` removes what nobody needs,
//! `rollouts` watches and steers, `userdata` is what machines boot with, `infra` makes what they run on, `status` reads what nodes report,
//! `dev` is the embedded default. `cmd` holds one file a verb, `output` writes to the terminal.

#![cfg_attr(
    test,
    allow(
        clippy::disallowed_methods,
        reason = "what a test writes need not survive a power cut"
    )
)]

pub mod artifact;
pub mod aws;
pub mod cmd;
pub mod confirm;
pub mod context;
pub mod dev;
pub mod diff;
pub mod doctor;
pub mod engine_version;
pub mod env;
pub mod etcd;
pub mod exit;
pub mod expiry;
pub mod gc;
pub mod history;
pub mod infra;
pub mod instances;
pub mod keyring;
pub mod kubeconfig;
pub mod lint;
pub mod output;
mod patient_wrap;
pub mod pki;
pub mod publish;
pub mod release;
pub mod render;
pub mod rollback;
pub mod rollouts;
pub mod rotate;
pub mod secrets;
pub mod skew;
pub mod ssh;
pub mod status;
#[cfg(test)]
mod testing;
pub mod userdata;
