//! What the end-to-end tests share: the attack fixtures and their victim, operators on an embedded store, moto, a model
//! of kubelet's file source, a faulty proxy, process helpers, and the benchmarks' meters.

pub mod attacks;
pub mod faulty_proxy;
pub mod kubelet;
pub mod measure;
pub mod moto;
pub mod tools;
pub mod victim;
pub mod workspace;
pub mod writer;
