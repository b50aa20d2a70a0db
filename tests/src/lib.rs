//! What the end-to-end tests share: a model of kubelet's file source, a faulty proxy, and process helpers.

pub mod faulty_proxy;
pub mod kubelet;
pub mod tools;
pub mod writer;
