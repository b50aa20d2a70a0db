//! The infrastructure of an environment: Terraform or OpenTofu over the files of `terraform/`, and the two buckets.
//!
//! The diff, the graph, the state and its lock are the engine's work. `embedded` is what it is given, `variables` what it is
//! told of the environment, `directory` where it runs, `process` runs it so that neither Ctrl-C nor
//! our own end tears it from its state, `log` reads what it says, `progress` shows that, `plan` says a plan in short.
//! `session` puts these together; `buckets` are platformctl's own, since the state is in one of them.

pub mod buckets;
mod directory;
mod embedded;
mod lock;
mod log;
mod plan;
mod process;
mod progress;
mod session;
mod variables;

pub use embedded::EMBEDDED;
pub use lock::{HeldLock, read_held_lock};
pub use plan::{Change, ChangeKind, Plan, PlanError};
pub use process::Interrupted;
pub use session::{Goal, Outputs, Planned, Session};
pub use variables::{GroupVariables, Variables, for_destroy, variables};
