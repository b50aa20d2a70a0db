//! The document as the bytes of its object.

use super::RolloutDocument;
use crate::documents::{GroupKey, seal_node_object};
use crate::limits;

/// Why there are no bytes of it.
#[derive(Debug, thiserror::Error)]
pub enum RolloutSealError {
    /// serde's own; never for this document.
    #[error("{name} cannot be encoded: this is a bug")]
    Encode {
        /// Which object.
        name: String,
        /// What serde said.
        #[source]
        source: serde_json::Error,
    },
    /// Nobody would read it any more, which would end all rollouts.
    #[error(
        "{name} would grow to {bytes} bytes, over its limit of {}: `platformctl forget` the nodes that are gone",
        limits::NODE_OBJECT_BYTES
    )]
    TooLarge {
        /// Which object.
        name: String,
        /// How large it would be.
        bytes: usize,
    },
}

impl RolloutDocument {
    /// Authenticates it under the name of its object. What the probes saw is for people: where there is no room for it, the
    /// oldest is left out.
    ///
    /// # Errors
    /// [`RolloutSealError`].
    pub fn seal(&mut self, name: &str, key: &GroupKey) -> Result<Vec<u8>, RolloutSealError> {
        loop {
            let sealed = seal_node_object(self, name, Some(key)).map_err(|source| {
                let name = name.to_owned();
                RolloutSealError::Encode { name, source }
            })?;
            let bytes = sealed.len();
            if bytes as u64 <= limits::NODE_OBJECT_BYTES {
                return Ok(sealed);
            }
            if !self.drop_oldest_lines() {
                let name = name.to_owned();
                return Err(RolloutSealError::TooLarge { name, bytes });
            }
        }
    }

    fn drop_oldest_lines(&mut self) -> bool {
        let mut failed = self.failed.iter_mut();
        match failed.find(|failure| !failure.lines.is_empty()) {
            Some(failure) => {
                failure.lines.clear();
                true
            }
            None => false,
        }
    }
}
