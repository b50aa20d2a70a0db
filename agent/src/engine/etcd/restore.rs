//! A generation that begins with a backup: the members that form it make their data from that before etcd runs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use shared::etcd::{EtcdRole, Form, Own};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Ended, Pass, internal};
use crate::engine::Agent;
use crate::etcd::{Restore, RestoreAs, RestoreError};
use crate::trouble::chain;

/// From an attempt that failed to the next.
const AGAIN: Duration = Duration::from_secs(15);

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Restoring {
    task: Option<JoinHandle<Result<String, RestoreError>>>,
    again_at: Option<Instant>,
    /// Why the last attempt failed.
    failed: Option<String>,
}

impl Drop for Restoring {
    fn drop(&mut self) {
        // What it has done by then lies on the disk, and it goes on from there.
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Agent {
    /// Where the member's data is to be made from a backup: what the node is meanwhile, and why. None where nothing is to be
    /// restored any more, or ever was.
    pub(super) async fn restores(
        &mut self,
        pass: &Pass,
        own: &Own,
    ) -> Result<Option<(EtcdRole, String)>, Ended> {
        let memory = own
            .memory
            .as_ref()
            .filter(|m| m.generation == pass.generation());
        let begins = |form: &Form| matches!(form, Form::New { started: true, .. });
        let order = pass.known.restore.as_ref();
        let order = order.filter(|(o, _)| o.generation == pass.generation().get());
        let (Some(memory), Some((order, identity))) = (memory.filter(|m| begins(&m.form)), order)
        else {
            return Ok(None);
        };
        let name = order.backup.name.to_string();
        if own.has_data {
            // Its data came into its place with its last step but one: what is left is to clear up.
            if let Some(task) = self.etcd.restoring.task.take() {
                self.worked = true;
                let done = task.await.map_err(internal)?;
                let lost = done.unwrap_or_else(|error| chain(&error));
                tracing::warn!(backup = name, generation = %pass.generation(), lost, "restored etcd");
                self.etcd.restoring.failed = None;
            }
            return Ok(None);
        }
        let Some(identity) = identity else {
            // The others have data of the backup: one that began without would be another cluster under the same name.
            let why = format!(
                "its generation begins with backup {name}, and the restore was finished without this node: replace the machine"
            );
            return Ok(Some((EtcdRole::Waiting, why)));
        };
        let says = |failed: Option<&String>| match failed {
            None => format!("it restores backup {name}"),
            Some(why) => format!("it restores backup {name}; the last attempt failed: {why}"),
        };
        if let Some(task) = self.etcd.restoring.task.take_if(|t| t.is_finished()) {
            self.worked = true;
            match task.await.map_err(internal)? {
                // Its data is there now, and the next pass sees it.
                Ok(lost) => {
                    tracing::warn!(backup = name, generation = %pass.generation(), lost, "restored etcd");
                    return Ok(Some((EtcdRole::Joining, says(None))));
                }
                Err(error) => {
                    self.etcd.restoring.failed = Some(chain(&error));
                    self.etcd.restoring.again_at = Some(Instant::now() + AGAIN);
                    return Err(Ended::Trouble(error.kind(), chain(&error)));
                }
            }
        }
        let is_time = self
            .etcd
            .restoring
            .again_at
            .is_none_or(|at| at <= Instant::now());
        if self.etcd.restoring.task.is_none() && is_time {
            // What lies there is no member's data, and etcd does not run.
            self.hold_back_for(Some(&pass.section), None).await?;
            pass.place.put_aside(pass.generation())?;
            let data = pass.place.data(pass.generation());
            let parent = data.parent().unwrap_or(Path::new("/"));
            crate::disk::create_directory(parent, 0o700)?;
            // Before there is data: an agent that is killed then does it all the same.
            pass.place.mark(pass.generation())?;
            let members = memory.initial.iter();
            let restore = Restore {
                store: Arc::clone(&self.store),
                order: order.clone(),
                identity: identity.clone(),
                member: RestoreAs {
                    name: pass.facts().name.clone(),
                    peer_url: pass.facts().peer_url.clone(),
                    members: members
                        .map(|m| (m.name.clone(), m.peer_url.clone()))
                        .collect(),
                    token: pass.token.clone(),
                },
                data,
                etcdutl: None,
            };
            let run = async move { restore.run().await };
            self.etcd.restoring.task = Some(tokio::spawn(run));
        }
        let failed = self.etcd.restoring.failed.as_ref();
        Ok(Some((EtcdRole::Joining, says(failed))))
    }
}
