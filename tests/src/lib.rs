//! What the end-to-end tests share: operators on an embedded store, moto, a model of kubelet's file source, a faulty
//! proxy, process helpers, and the benchmarks' meters.

pub mod faulty_proxy;
pub mod kubelet;
pub mod measure;
pub mod moto;
pub mod tools;
pub mod workspace;
pub mod writer;
