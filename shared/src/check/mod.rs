//! What is checked before a byte of a release is written: by the agent on the node, and by `platformctl lint` long before.
//!
//! `manifest` and `set` hold kubelet's own rules for static pods (`references`, `pod` and `values` are parts of them), `yaml`
//! reads exactly one document, `certificate` looks at PEM files, and `secret_dir` names a pod's secret directory.
//! Every check reports all that it finds, not the first.

pub mod certificate;
mod json;
pub mod manifest;
mod pod;
mod private_key;
mod quantity;
mod references;
pub mod secret_dir;
pub mod set;
mod values;
pub mod yaml;
