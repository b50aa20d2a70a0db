//! What a person at the machine asks of etcd: who the members are and how they do, and to have them defragmented.

use std::time::Duration;

use serde::Serialize;

use super::answers::member_id_text;
use super::{EtcdClient, EtcdError, EtcdIdentity, Member, MemberStatus};
use crate::trouble::chain;

/// How long a member may take to be healthy again after it was defragmented.
const RECOVERS: Duration = Duration::from_secs(60);
/// From one look to the next.
const PAUSE: Duration = Duration::from_millis(500);

/// A member and what it says of itself.
#[derive(Debug)]
pub struct MemberLook {
    /// As the member list has it.
    pub member: Member,
    /// Its own word, or why there is none.
    pub status: Result<MemberStatus, String>,
    /// Where it was asked.
    pub client: Option<EtcdClient>,
}

/// For programs.
#[derive(Debug, Serialize)]
pub struct MemberView {
    id: String,
    name: String,
    peer_urls: Vec<String>,
    client_urls: Vec<String>,
    learner: bool,
    leader: bool,
    version: Option<String>,
    db_bytes: Option<u64>,
    db_bytes_in_use: Option<u64>,
    revision: Option<u64>,
    raft_term: Option<u64>,
    errors: Vec<String>,
}

/// A defragmentation that was not finished.
#[derive(Debug, thiserror::Error)]
pub enum DefragmentError {
    /// The members could not be asked for.
    #[error("the members cannot be listed")]
    List(#[source] EtcdError),
    /// One is not as it should be: a member that is defragmented serves nothing meanwhile.
    #[error("nothing was done to {name}: {why}")]
    Unfit {
        /// Which.
        name: String,
        /// Why.
        why: String,
    },
    /// One was not defragmented.
    #[error("{name} was not defragmented")]
    Member {
        /// Which.
        name: String,
        /// What it said.
        #[source]
        source: EtcdError,
    },
    /// One is not healthy again.
    #[error("{0} is not healthy after it was defragmented: the others were left alone")]
    Unhealthy(String),
}

/// Looks at every member, by the URLs that the cluster lists.
///
/// # Errors
/// [`EtcdError`] where the list cannot be had; a member that does not answer is part of the result.
pub async fn look(
    local: &EtcdClient,
    identity: &EtcdIdentity,
) -> Result<Vec<MemberLook>, EtcdError> {
    let own = local.status().await.ok().map(|s| s.member_id);
    let mut looks = Vec::new();
    for member in local.member_list().await? {
        let url = member.client_urls.first();
        let client = match (own == Some(member.id), url) {
            (true, _) => Ok(local.clone()),
            (false, Some(url)) => EtcdClient::new(identity, url).map_err(|e| chain(&e)),
            (false, None) => Err("it has not started yet".to_owned()),
        };
        let (client, status) = match client {
            Ok(client) => {
                let status = client.status().await.map_err(|e| chain(&e));
                (Some(client), status)
            }
            Err(why) => (None, Err(why)),
        };
        looks.push(MemberLook {
            member,
            status,
            client,
        });
    }
    looks.sort_by(|a, b| (&a.member.name, a.member.id).cmp(&(&b.member.name, b.member.id)));
    Ok(looks)
}

/// Defragments every member, one at a time, the leader last, and each only while all are well: a member serves nothing
/// meanwhile. `said` is told of each.
///
/// # Errors
/// [`DefragmentError`]; what was done stays.
pub async fn defragment(
    local: &EtcdClient,
    identity: &EtcdIdentity,
    mut said: impl FnMut(String),
) -> Result<(), DefragmentError> {
    let mut looks = look(local, identity).await.map_err(DefragmentError::List)?;
    let unfit = looks.iter().find_map(|l| {
        let why = match &l.status {
            Err(why) => why.clone(),
            Ok(s) if s.leader.is_none() => "it knows no leader".to_owned(),
            Ok(_) => return None,
        };
        Some((label(&l.member), why))
    });
    if let Some((name, why)) = unfit {
        return Err(DefragmentError::Unfit { name, why });
    }
    looks.sort_by_key(MemberLook::is_leader);
    for (look, client) in looks.iter().filter_map(|l| Some((l, l.client.as_ref()?))) {
        let name = label(&look.member);
        client
            .defragment()
            .await
            .map_err(|source| DefragmentError::Member {
                name: name.clone(),
                source,
            })?;
        let before = look.status.as_ref().map_or(0, |s| s.db_size);
        let after = recovered(client)
            .await
            .ok_or_else(|| DefragmentError::Unhealthy(name.clone()))?;
        said(format!("{name}: {before} bytes before, {after} after"));
    }
    Ok(())
}

/// The size of the database once the member can serve again.
async fn recovered(client: &EtcdClient) -> Option<u64> {
    let serves = async {
        loop {
            if client.health().await.is_ok_and(|h| h.healthy)
                && let Ok(status) = client.status().await
            {
                return status.db_size;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(RECOVERS, serves).await.ok()
}

fn label(member: &Member) -> String {
    match member.name.as_str() {
        "" => member_id_text(member.id),
        name => name.to_owned(),
    }
}

// === impl MemberLook ===

impl MemberLook {
    /// Whether it says that it is the leader.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        let status = self.status.as_ref().ok();
        status.is_some_and(|s| s.leader == Some(s.member_id))
    }

    /// For programs.
    #[must_use]
    pub fn view(&self) -> MemberView {
        let status = self.status.as_ref().ok();
        let mut errors: Vec<String> = self.status.as_ref().err().cloned().into_iter().collect();
        errors.extend(status.iter().flat_map(|s| s.errors.iter().cloned()));
        MemberView {
            id: member_id_text(self.member.id),
            name: self.member.name.clone(),
            peer_urls: self.member.peer_urls.clone(),
            client_urls: self.member.client_urls.clone(),
            learner: self.member.is_learner,
            leader: self.is_leader(),
            version: status.map(|s| s.version.clone()),
            db_bytes: status.map(|s| s.db_size),
            db_bytes_in_use: status.map(|s| s.db_size_in_use),
            revision: status.map(|s| s.revision),
            raft_term: status.map(|s| s.raft_term),
            errors,
        }
    }

    /// A line for a person.
    #[must_use]
    pub fn line(&self) -> String {
        let role = match (self.member.is_learner, self.is_leader()) {
            (true, _) => "learner",
            (false, true) => "leader",
            (false, false) => "follower",
        };
        let rest = match &self.status {
            Ok(s) => {
                let errors = match s.errors.is_empty() {
                    true => String::new(),
                    false => format!(", {}", s.errors.join(", ")),
                };
                format!(
                    "etcd {}, revision {}, {} bytes ({} in use){errors}",
                    s.version, s.revision, s.db_size, s.db_size_in_use
                )
            }
            Err(why) => why.clone(),
        };
        format!(
            "{} {} {role}: {rest}",
            member_id_text(self.member.id),
            label(&self.member)
        )
    }
}
