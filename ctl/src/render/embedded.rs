//! The templates that platformctl was built with.

/// One file of `manifests/`, by its path within it.
macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(($path, include_str!(concat!("../../../manifests/", $path)))),*]
    };
}

/// Every file of `manifests/`, by path within it. A test keeps the table equal to the directory.
pub const EMBEDDED: &[(&str, &str)] = files![
    "README.md",
    "addons/README.md",
    "addons/cloud-controller-manager.yaml.j2",
    "addons/coredns.yaml.j2",
    "addons/network.yaml.j2",
    "addons/nodes.yaml.j2",
    "compute/files/kube-proxy/config.yaml.j2",
    "compute/host/kubelet/config.yaml.j2",
    "compute/kube-proxy.yaml.j2",
    "compute/node.yaml",
    "compute/rollout.yaml",
    "secure/addons.yaml.j2",
    "secure/etcd.yaml.j2",
    "secure/files/addons/rights.yaml.j2",
    "secure/files/etcd/base.yaml.j2",
    "secure/files/kube-apiserver/audit-policy.yaml.j2",
    "secure/files/kube-apiserver/authentication.yaml.j2",
    "secure/files/kube-proxy/config.yaml.j2",
    "secure/files/kube-scheduler/scheduler.yaml.j2",
    "secure/host/kubelet/config.yaml.j2",
    "secure/kube-apiserver.yaml.j2",
    "secure/kube-controller-manager.yaml.j2",
    "secure/kube-proxy.yaml.j2",
    "secure/kube-scheduler.yaml.j2",
    "secure/node.yaml",
    "secure/rollout.yaml",
];
