//! What the end-to-end tests share: operators on an embedded store, nodes with real agents, moto, a model of kubelet's
//! file source, a faulty proxy, and the benchmarks' meters.

pub mod attacks;
pub mod etcd;
pub mod etcd_kubelet;
pub mod faulty_proxy;
pub mod iam;
pub mod kubelet;
pub mod machine;
pub mod measure;
pub mod moto;
pub mod netns;
pub mod node;
pub mod reports;
pub mod scene;
pub mod secrets_api;
pub mod tools;
pub mod victim;
pub mod workspace;
pub mod writer;
