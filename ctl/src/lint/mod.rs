//! Offline checks of rendered manifests.
