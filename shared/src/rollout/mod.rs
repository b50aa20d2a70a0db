//! Every decision of a rollout (§6.11): values in, a value out, no I/O and no clock.
//!
//! The agent, platformctl and the simulation in `shared/tests/rollout/` call the same functions:
//! - [`admit`]: may this node begin its transition, and what does the document say then;
//! - [`Window`] and [`resume`]: what a node in transition may still do, also after a restart;
//! - [`ProbeRun`]: whether what the probes saw makes a release healthy, or bad;
//! - [`give_back`], [`record_failure`]: how a transition ends in the document;
//! - [`GroupView`], [`conclude`], [`is_complete`]: whose turn it is, and when a rollout is complete;
//! - [`first_release`]: which release a new node begins with.

mod admit;
mod back;
mod first;
mod probes;
mod view;
mod window;

pub use admit::{Admission, NodeFacts, STOCK_MOST, Stamp, Stock, Wait, Wish, ZONE_PATIENCE, admit};
pub(crate) use admit::{clear_stale, forget_silent};
pub use back::{Ending, give_back, needs_view, record_failure};
pub use first::{FirstRelease, first_release};
pub use probes::{ProbeRun, ProbeVerdict};
pub use view::{
    GONE_AFTER, GroupView, NodeSeen, SILENT_AFTER, conclude, is_complete, without_own_traces,
};
pub use window::{Resume, Stage, Window, resume};
