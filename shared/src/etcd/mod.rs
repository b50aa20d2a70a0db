//! Every decision about etcd's membership (§6.12), pure: what the agent does, `tests/etcd_model.rs` checks over the same functions.
//!
//! - [`Fence`] and [`StartTicket`]: what is written once, create-only, below `etcd/<generation>/`;
//! - [`MemberFacts`], [`EtcdReport`]: what a node says about itself;
//! - [`Memory`]: the form of the configuration file, which is also what a node remembers of its membership;
//! - [`next_step`]: one step of a node towards being a member, a spare, or at rest;
//! - [`may_restart`], [`goes_back`]: when a release may restart a member, and to which version it may go back;
//! - [`take_slot`], [`give_back_slot`]: the group's slot, under which membership is changed.

mod config;
mod documents;
mod facts;
mod membership;
mod memory;
mod restart;
mod slot;
mod step;

pub use config::{ConfigProblem, HARMFUL_KEYS, Listen, OWNED_KEYS, base_problems, render_config};
pub use documents::{ETCD_FORMAT, Fence, FenceError, FenceMember, StartTicket};
pub use facts::{EtcdReport, EtcdRole, FactsProblem, Generation, MemberFacts};
pub use membership::{
    CONFIRM_AFTER, ClusterView, MemberSeen, Membership, NoQuorum, SURPLUS, Standing, Standpoint,
    change_membership,
};
pub use memory::{Form, InitialMember, Memory, remembered};
pub use restart::{
    EtcdVersion, LEADER_PATIENCE, MayRestart, NO_QUORUM_PATIENCE, RestartView, Unseen, goes_back,
    may_restart, may_restart_unseen,
};
pub use slot::{SlotAnswer, give_back_slot, take_slot};
pub use step::{
    FRESH_FOR, FenceSeen, Own, Registered, Seen, Settings, Step, TicketSeen, next_step,
};
