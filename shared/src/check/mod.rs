//! What a file must be before a node may write it: pods and certificates.
