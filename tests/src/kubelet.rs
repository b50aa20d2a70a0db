//! A model of kubelet's static-pod file source.
