//! What a node does in a rollout beside deciding (which is [`shared::rollout`]): the slot that it remembers, and the probes.

mod probe;
mod slot;

pub use probe::{Prober, Sight};
pub use slot::{BootTime, FailedHere, Slot, SlotError, SlotFile};
