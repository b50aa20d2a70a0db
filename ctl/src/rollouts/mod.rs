//! The rollouts of a group, as an operator sees them and steps in.
//!
//! `document` reads and changes what the nodes agree on, by compare-and-swap; `operate` (pure) holds the changes that an
//! operator makes, `view` (pure) what there is to say of a rollout, and `wait` waits for it to end.

mod document;
mod operate;
mod view;
mod wait;

pub use document::{RolloutUnreadable, change, read};
pub use operate::{NothingHalted, forget, pause, resume, retry};
pub(crate) use view::word;
pub use view::{HolderView, RolloutState, RolloutView, Verdict, bar};
pub use wait::{Waited, Waiting, wait};
