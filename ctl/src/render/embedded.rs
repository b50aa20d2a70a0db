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
    "compute/kube-proxy.yaml.j2",
    "secure/etcd.yaml.j2",
    "secure/kube-apiserver.yaml.j2",
    "secure/kube-controller-manager.yaml.j2",
    "secure/kube-scheduler.yaml.j2",
];
