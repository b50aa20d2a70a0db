//! What can go wrong between the agent and an etcd member, by what a caller does about it.

use std::fmt;

/// What kind of failure it was: callers branch on this, never on a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EtcdErrorKind {
    /// No connection, it broke, or no whole answer within the deadline. A change that was asked for may have happened.
    Unreachable,
    /// The TLS handshake failed, or the server refused our certificate.
    Untrusted,
    /// There is no leader, or the cluster could not agree in time. A change that was asked for may have happened.
    NoLeader,
    /// The learner to be promoted has not caught up with the leader.
    NotInSync,
    /// The member to be promoted is a voter already.
    NotLearner,
    /// There is no member of that id.
    MemberNotFound,
    /// A member with that peer URL is there already.
    AlreadyMember,
    /// There is a learner already: etcd takes one at a time.
    TooManyLearners,
    /// etcd refuses the change because too few of its members would be at work after it.
    NotEnoughMembers,
    /// The database has reached its quota.
    NoSpace,
    /// The answer is larger than what is read of one.
    TooLarge,
    /// Anything else.
    Other,
}

/// A call to etcd that failed.
#[derive(Debug, thiserror::Error)]
#[error("etcd at {endpoint}, {operation}: {kind}{}", told(.said))]
pub struct EtcdError {
    /// The member's client URL.
    pub endpoint: String,
    /// What it was asked for.
    pub operation: &'static str,
    /// What kind of failure.
    pub kind: EtcdErrorKind,
    /// What etcd said, if it said something.
    pub said: String,
    /// What the connection said.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

fn told(said: &str) -> String {
    match said {
        "" => String::new(),
        said => format!(" ({said})"),
    }
}

// === impl EtcdErrorKind ===

impl EtcdErrorKind {
    /// A word for metrics labels and the status.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Untrusted => "untrusted",
            Self::NoLeader => "no_leader",
            Self::NotInSync => "not_in_sync",
            Self::NotLearner => "not_learner",
            Self::MemberNotFound => "member_not_found",
            Self::AlreadyMember => "already_member",
            Self::TooManyLearners => "too_many_learners",
            Self::NotEnoughMembers => "not_enough_members",
            Self::NoSpace => "no_space",
            Self::TooLarge => "too_large",
            Self::Other => "other",
        }
    }

    /// The kind of an answer, by its gRPC code and its message. The messages are those of etcd 3.5 and 3.6
    /// (`api/v3rpc/rpctypes/error.go`), which its own clients compare with as well.
    pub(super) fn of_answer(code: i64, message: &str) -> Self {
        let says = |text: &str| message.contains(text);
        if says("member not found") {
            Self::MemberNotFound
        } else if says("in sync with leader") {
            Self::NotInSync
        } else if says("can only promote a learner member") {
            Self::NotLearner
        } else if says("member ID already exist") || says("Peer URLs already exists") {
            Self::AlreadyMember
        } else if says("too many learner members") {
            Self::TooManyLearners
        } else if says("not enough started members") || says("unhealthy cluster") {
            Self::NotEnoughMembers
        } else if says("database space exceeded") {
            Self::NoSpace
        } else if says("no leader") || says("timed out") || says("leader changed") {
            Self::NoLeader
        } else if matches!(code, 4 | 14) {
            // DEADLINE_EXCEEDED and UNAVAILABLE without one of the texts above: it cannot serve now.
            Self::NoLeader
        } else {
            Self::Other
        }
    }
}

impl fmt::Display for EtcdErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "no connection, or no whole answer in time",
            Self::Untrusted => "the TLS handshake failed",
            Self::NoLeader => "there is no leader, or no agreement in time",
            Self::NotInSync => "the learner has not caught up yet",
            Self::NotLearner => "the member is a voter already",
            Self::MemberNotFound => "there is no such member",
            Self::AlreadyMember => "there is a member of that peer URL already",
            Self::TooManyLearners => "there is a learner already",
            Self::NotEnoughMembers => "too few members would be at work after the change",
            Self::NoSpace => "the database has reached its quota",
            Self::TooLarge => "an answer that is too large",
            Self::Other => "an answer that was not expected",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_kinds() {
        use EtcdErrorKind::*;
        for (code, message, kind) in [
            (5, "etcdserver: member not found", MemberNotFound),
            (9, "etcdserver: member ID already exist", AlreadyMember),
            (9, "etcdserver: Peer URLs already exists", AlreadyMember),
            (
                9,
                "etcdserver: can only promote a learner member which is in sync with leader",
                NotInSync,
            ),
            (
                9,
                "etcdserver: can only promote a learner member",
                NotLearner,
            ),
            (
                9,
                "etcdserver: too many learner members in cluster",
                TooManyLearners,
            ),
            (
                9,
                "etcdserver: re-configuration failed due to not enough started members",
                NotEnoughMembers,
            ),
            (14, "etcdserver: unhealthy cluster", NotEnoughMembers),
            (14, "etcdserver: no leader", NoLeader),
            (14, "etcdserver: request timed out", NoLeader),
            (4, "context deadline exceeded", NoLeader),
            (8, "etcdserver: mvcc: database space exceeded", NoSpace),
            (5, "Not Found", Other),
        ] {
            assert_eq!(EtcdErrorKind::of_answer(code, message), kind, "{message}");
        }
    }
}
