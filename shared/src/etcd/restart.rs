//! When a release may restart a member, in which order, and to which version it may go back.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How long a leader lets the other members go first.
pub const LEADER_PATIENCE: Duration = Duration::from_secs(30 * 60);

/// How long nobody must have answered until a cluster counts as one without a quorum: a slow answer is none.
pub const NO_QUORUM_PATIENCE: Duration = Duration::from_secs(2 * 60);

/// Why a node does not know how the members are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unseen {
    /// They were asked, and none answered with a quorum behind it.
    NoQuorum,
    /// They could not be asked.
    NotAsked,
}

/// Whether a member may be restarted though nobody knows how the others are: not at once, since it may be the one too many,
/// and not never, since the release may mend just that.
#[must_use]
pub fn may_restart_unseen(why: Unseen, waited: Duration) -> bool {
    let patience = match why {
        Unseen::NoQuorum => NO_QUORUM_PATIENCE,
        Unseen::NotAsked => LEADER_PATIENCE,
    };
    waited >= patience
}

/// What a node sees before it adopts a release that restarts its member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartView {
    /// Members with a vote.
    pub voters: u32,
    /// Whether its own member is healthy.
    pub own_healthy: bool,
    /// How many of the others with a vote are.
    pub others_healthy: u32,
    /// Whether its own member leads.
    pub leads: bool,
    /// Members of other nodes that still run what they ran.
    pub others_pending: u32,
    /// For how long it has wanted to.
    pub waited: Duration,
}

/// Whether a member may be restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MayRestart {
    /// Yes.
    Yes,
    /// Not while so few of the others are healthy: there would be no quorum.
    Quorum {
        /// Of the others.
        healthy: u32,
        /// As many as must be.
        needed: u32,
    },
    /// The leader goes last.
    FollowersFirst,
}

/// Members that make a quorum.
#[must_use]
pub(super) fn quorum(voters: u32) -> u32 {
    voters / 2 + 1
}

/// Decides. A member that is not healthy, or one of a cluster that has no quorum, takes nothing away by a restart: so the
/// release that mends it can be adopted. A cluster of one has to bear it.
#[must_use]
pub fn may_restart(view: RestartView) -> MayRestart {
    let needed = quorum(view.voters);
    let has_quorum = view.others_healthy + u32::from(view.own_healthy) >= needed;
    if view.voters <= 1 || !view.own_healthy || !has_quorum {
        return MayRestart::Yes;
    }
    if view.others_healthy < needed {
        return MayRestart::Quorum {
            healthy: view.others_healthy,
            needed,
        };
    }
    if view.leads && view.others_pending > 0 && view.waited < LEADER_PATIENCE {
        return MayRestart::FollowersFirst;
    }
    MayRestart::Yes
}

/// A version of etcd, as far as its data is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EtcdVersion {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
}

impl FromStr for EtcdVersion {
    type Err = ();

    /// Of `3.6.8`, `v3.6.8`, or the tag of an image (`3.6.8-0`).
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.trim_start_matches('v').split('.');
        let mut number = || parts.next().and_then(|p| p.parse().ok()).ok_or(());
        Ok(Self {
            major: number()?,
            minor: number()?,
        })
    }
}

impl fmt::Display for EtcdVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Whether a member that has run `from` may run `to`: data goes forward only, so never an older minor. What is not known
/// may not.
#[must_use]
pub fn goes_back(from: &str, to: &str) -> bool {
    match (from.parse::<EtcdVersion>(), to.parse::<EtcdVersion>()) {
        (Ok(from), Ok(to)) => to < from,
        _ => from != to,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(voters: u32, own: bool, others: u32) -> RestartView {
        RestartView {
            voters,
            own_healthy: own,
            others_healthy: others,
            leads: false,
            others_pending: 0,
            waited: Duration::ZERO,
        }
    }

    #[test]
    fn a_restart_never_takes_the_quorum() {
        for voters in 1..8_u32 {
            for others in 0..voters {
                for own in [false, true] {
                    let decided = may_restart(view(voters, own, others));
                    let had = others + u32::from(own) >= quorum(voters);
                    let has_after = others >= quorum(voters);
                    if decided == MayRestart::Yes && had && own && voters > 1 {
                        assert!(has_after, "{voters} {own} {others}");
                    }
                    if !own || !had {
                        assert_eq!(decided, MayRestart::Yes, "what mends goes in");
                    }
                }
            }
        }
        assert_eq!(
            may_restart(view(3, true, 1)),
            MayRestart::Quorum {
                healthy: 1,
                needed: 2
            }
        );
    }

    #[test]
    fn the_leader_goes_last_but_not_for_ever() {
        let leader = RestartView {
            leads: true,
            others_pending: 1,
            ..view(3, true, 2)
        };
        assert_eq!(may_restart(leader), MayRestart::FollowersFirst);
        let last = RestartView {
            others_pending: 0,
            ..leader
        };
        assert_eq!(may_restart(last), MayRestart::Yes);
        let patient = RestartView {
            waited: LEADER_PATIENCE,
            ..leader
        };
        assert_eq!(may_restart(patient), MayRestart::Yes);
    }

    #[test]
    fn a_look_that_fails_is_no_permission_but_no_wall_either() {
        for (why, patience) in [
            (Unseen::NoQuorum, NO_QUORUM_PATIENCE),
            (Unseen::NotAsked, LEADER_PATIENCE),
        ] {
            assert!(!may_restart_unseen(why, Duration::ZERO));
            assert!(!may_restart_unseen(why, patience - Duration::from_secs(1)));
            assert!(may_restart_unseen(why, patience));
        }
    }

    #[test]
    fn data_goes_forward_only() {
        assert!(goes_back("3.6.8-0", "3.5.24-0"));
        assert!(!goes_back("3.5.24-0", "3.6.8-0"));
        assert!(!goes_back("3.6.8-0", "3.6.1-0"));
        assert!(goes_back("3.6.8-0", "latest"));
        assert!(!goes_back("latest", "latest"));
        assert_eq!("v3.6.9".parse::<EtcdVersion>().unwrap().to_string(), "3.6");
    }
}
