//! Upper bounds, enforced by platformctl at publish and by the agent before it decodes (§3.2).

/// Format number of the bundle's index that this build writes and the only one it reads.
pub const INDEX_FORMAT: u32 = 1;
/// Largest encrypted bundle, in bytes.
pub const BUNDLE_BYTES: u64 = 4 * 1024 * 1024;
/// Largest decompressed tar stream of a bundle, in bytes.
pub const PLAIN_BYTES: u64 = 16 * 1024 * 1024;
/// Most files in a bundle, the index not counted.
pub const FILES: usize = 1_024;
/// Largest single file in a bundle, in bytes.
pub const FILE_BYTES: u64 = 1024 * 1024;
/// Most artifacts that a release may ask for.
pub const ARTIFACTS: usize = 32;
/// Largest artifact, in bytes.
pub const ARTIFACT_BYTES: u64 = 512 * 1024 * 1024;
/// Most files in an artifact that is an archive.
pub const ARTIFACT_FILES: usize = 256;
/// Most bytes that an artifact unpacks to.
pub const ARTIFACT_PLAIN_BYTES: u64 = 1024 * 1024 * 1024;
/// Largest index, in bytes.
pub const INDEX_BYTES: u64 = 1024 * 1024;
/// Base-2 logarithm of the largest zstd window that the decoder allocates: 8 MiB.
pub const ZSTD_WINDOW_LOG: u32 = 23;
/// Longest path of a bundle entry, in bytes: what a plain ustar header holds, so no extension entry is ever needed.
pub const PATH_BYTES: usize = 100;
/// Largest object that a node writes (status, rollout), in bytes.
pub const NODE_OBJECT_BYTES: u64 = 64 * 1024;
/// Largest keyring object, in bytes.
pub const KEYRING_BYTES: u64 = 4 * 1024 * 1024;
/// Largest TUF root, timestamp or snapshot document, in bytes.
pub const METADATA_BYTES: u64 = 256 * 1024;
/// Largest TUF targets document, in bytes.
pub const TARGETS_BYTES: u64 = 1024 * 1024;
/// Most root documents that one refresh walks through.
pub const ROOT_UPDATES: u64 = 256;
/// Most probes of a rollout policy.
pub const PROBES: usize = 16;
/// Most nodes that a rollout document can have in transition, whatever the policy allows.
pub const ROLLOUT_HOLDERS: u32 = 64;
