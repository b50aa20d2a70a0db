//! From a chosen release to files on the disk: the steps after Verify.

use std::time::Duration;

use bytes::Bytes;
use shared::bundle::{Release, SealError, UnpackError, open, unpack};
use shared::digest::Sha256Digest;
use shared::documents::Phase;
use shared::limits;
use shared::rollout::Stage;
use shared::secret::SecretText;
use shared::store::{Fetched, deadline_for, keys};
use shared::trust::ReleaseTarget;
use shared::wrap::WrapContext;

use super::Agent;
use super::failure::{EngineError, Failure, Retry, Stop};
use super::state::{Adoption, State};
use crate::disk::{ApplyReport, CheckedRelease, DiskError, Outcome as WriteOutcome, Plan};
use crate::trouble::Source;

/// How long unwrapping one identity may take.
const UNWRAP_DEADLINE: Duration = Duration::from_secs(15);

/// A bundle that does not open, or does not unpack.
enum Unopened {
    Seal(SealError),
    Unpack(UnpackError),
}

impl Agent {
    /// Reads the bundle, of exactly the signed length and digest (§6.1).
    pub(super) async fn fetch(&mut self, adoption: Adoption) -> Result<State, Stop> {
        fail::fail_point!("engine::fetch");
        let target = &adoption.target;
        let store = self.store.clone();
        let key = keys::target(&self.identity.group, &target.sha256, &target.name);
        let length = target.length;
        let limit = deadline_for(length);
        let name = key.clone();
        let get = async move { store.get(&name, length, None).await };
        let fetched = self
            .network(Phase::Fetch, || format!("reading {key}"), limit, get)
            .await?;
        let fetched = match fetched {
            Ok(fetched) => fetched,
            Err(error) if error.kind.may_be_absent() => {
                let failure = Failure::store(Phase::Fetch, error);
                return self.good_instead(adoption, failure);
            }
            Err(error) => return Err(Failure::store(Phase::Fetch, error).into()),
        };
        let bytes = match fetched {
            Fetched::Object { bytes, .. } => bytes,
            Fetched::NotModified => Bytes::new(),
        };
        match is_signed(target, &key, &bytes) {
            Ok(()) => Ok(State::Decrypt(adoption, bytes)),
            // What the way here broke, the next attempt may bring whole.
            Err(error) => {
                let failure = Failure::new(Phase::Fetch, "mismatch", Retry::NextPoll, error);
                self.good_instead(adoption, failure)
            }
        }
    }

    /// A new node whose current release cannot be opened begins with the good one, where there is one; else the failure.
    fn good_instead(&mut self, adoption: Adoption, failure: Failure) -> Result<State, Stop> {
        let good = adoption.good.clone();
        let Some(good) = good.filter(|_| self.release().is_none()) else {
            return Err(failure.into());
        };
        let why = crate::trouble::chain(failure.error.as_ref());
        tracing::error!(current = %adoption.target.release(), good = %good.release(), why, "beginning with the good release");
        self.metrics
            .failed(&failure.phase.to_string(), failure.kind);
        let result = format!("the current one cannot be opened: {why}");
        Ok(self.begin_with(good, adoption, &result))
    }

    /// The good release in the place of the current one.
    fn begin_with(&mut self, good: ReleaseTarget, adoption: Adoption, result: &str) -> State {
        let (release, digest) = (good.release(), Some(good.sha256));
        let object = self.bundle_object(release, digest);
        let action = "begins with the good release";
        self.decided(action, release, digest, object, result);
        State::Fetch(Adoption {
            target: good,
            good: None,
            ..adoption
        })
    }

    /// Unwraps the release's identity, once, and opens the bundle with it (§6.1 to §6.3).
    pub(super) async fn decrypt(
        &mut self,
        adoption: Adoption,
        sealed: Bytes,
    ) -> Result<State, Stop> {
        fail::fail_point!("engine::decrypt");
        let custom = adoption.target.custom.clone();
        let context = WrapContext {
            environment: custom.environment,
            group: custom.group.to_string(),
            release: custom.release.get(),
        };
        let wrap = self.key_wrap.clone();
        let (release, key) = (custom.release, custom.identity.key.clone());
        let what = || format!("unwrapping the identity of release {release} with the key {key}");
        let unwrapping = async move { wrap.unwrap(&custom.identity, &context).await };
        let unwrapped = match self
            .network(Phase::Decrypt, what, UNWRAP_DEADLINE, unwrapping)
            .await
        {
            Ok(Ok(identity)) => Ok(identity),
            Ok(Err(error)) => Err(Failure::unwrap(error)),
            Err(Stop::Failed(failure)) => Err(*failure),
            Err(stop) => return Err(stop),
        };
        let identity = match unwrapped {
            Ok(identity) => identity,
            Err(failure) if failure.retry == Retry::OnChange => {
                return self.good_instead(adoption, failure);
            }
            Err(failure) => return Err(failure.resume_at(State::Decrypt(adoption, sealed)).into()),
        };
        // A full-size bundle takes a while: not on the thread that answers the watchdog.
        let opened = tokio::task::spawn_blocking(move || opened(&sealed, &identity));
        let release = match opened.await {
            Ok(Ok(release)) => release,
            Ok(Err(Unopened::Seal(e))) => return self.good_instead(adoption, Failure::open(e)),
            Ok(Err(Unopened::Unpack(e))) => {
                return self.good_instead(adoption, Failure::unpack(e));
            }
            Err(e) => return Err(Failure::task(Phase::Decrypt, e).into()),
        };
        let (environment, group) = (&self.identity.environment, &self.identity.group);
        let problems = release
            .index()
            .mismatches(environment, group, adoption.target.release());
        if !problems.is_empty() {
            return self.good_instead(adoption, Failure::contradiction(problems));
        }
        if self.begins_with_good(&adoption, &release).await?
            && let Some(good) = adoption.good.clone()
        {
            let current = adoption.target.release();
            tracing::warn!(%current, good = %good.release(), "a new node begins with the good release");
            return Ok(self.begin_with(good, adoption, "adopting"));
        }
        Ok(State::Check(adoption, release))
    }

    /// Everything that can be wrong with the content, before a byte of it is written.
    pub(super) async fn check(
        &mut self,
        adoption: Adoption,
        release: Release,
    ) -> Result<State, Stop> {
        fail::fail_point!("engine::check");
        let now = self.clock.now();
        let checked = self
            .on_disk(move |disk| disk.check(release, now))
            .await
            .map_err(|e| Failure::task(Phase::Check, e))?
            .map_err(Failure::check)?;
        self.check_host(&adoption, checked.release().index())?;
        Ok(State::Stage(adoption, checked))
    }

    pub(super) async fn plan(
        &mut self,
        adoption: Adoption,
        checked: CheckedRelease,
    ) -> Result<State, Stop> {
        fail::fail_point!("engine::plan");
        let (checked, plan) = self
            .on_disk(move |disk| {
                let plan = disk.plan(&checked);
                (checked, plan)
            })
            .await
            .map_err(|e| Failure::task(Phase::Plan, e))?;
        match plan {
            Ok(plan) => Ok(State::Slot(adoption, checked, plan)),
            Err(e) => Err(Failure::disk(Phase::Plan, e)
                .resume_at(State::Plan(adoption, checked))
                .into()),
        }
    }

    /// Writes. A shutdown waits for the end of it; a hold that came in the meantime comes first.
    pub(super) async fn apply(
        &mut self,
        adoption: Adoption,
        checked: CheckedRelease,
        plan: Plan,
    ) -> Result<State, Stop> {
        fail::fail_point!("engine::apply");
        if self.hold_file.in_force(self.clock.now()).is_some() {
            self.held_back = true;
            self.resume = Some(State::Plan(adoption, checked));
            self.dealt_with(None);
            return Ok(State::Idle);
        }
        if !self.may_go_forward()? {
            self.handled = None;
            let slot = self.rollouts.slot.as_ref();
            let begun = slot.is_some_and(|slot| slot.stage == Stage::Applying);
            return Ok(if begun {
                State::Revert
            } else {
                State::GiveBack
            });
        }
        let plan = match self.prepare_etcd(checked.release()).await {
            Ok(false) => plan,
            // What is held back changed, and the plan with it.
            Ok(true) => match self.with_disk(|disk| disk.plan(&checked)) {
                Ok(plan) => plan,
                Err(e) => {
                    let failure = Failure::disk(Phase::Plan, e);
                    return Err(failure.resume_at(State::Plan(adoption, checked)).into());
                }
            },
            Err((kind, why)) => {
                let error = EngineError::Etcd(why);
                let failure = Failure::new(Phase::Apply, kind, Retry::NextPoll, error);
                return Err(failure.resume_at(State::Plan(adoption, checked)).into());
            }
        };
        match self.prepare_host(&checked, &plan).await {
            Ok(true) => {}
            // Something was changed meanwhile.
            Ok(false) => return Ok(State::Stage(adoption, checked)),
            Err(failure) if failure.retry == Retry::OnChange => return Err(failure.into()),
            Err(failure) => return Err(failure.resume_at(State::Stage(adoption, checked)).into()),
        }
        let digest = adoption.target.sha256;
        let limit = self.forward_limit();
        let (checked, applied) = self
            .on_disk(move |disk| {
                let applied = disk.apply_while(&checked, digest, &plan, &|| limit.may_write());
                (checked, applied)
            })
            .await
            .map_err(|e| Failure::task(Phase::Apply, e))?;
        match applied {
            Ok(report) => Ok(State::Commit(adoption, report)),
            Err(DiskError::OutOfTime) => {
                self.handled = None;
                Ok(State::Revert)
            }
            Err(e) => Err(Failure::disk(Phase::Apply, e)
                .resume_at(State::Plan(adoption, checked))
                .into()),
        }
    }

    /// The release is on the disk and in the ledger: remember when, and say so.
    pub(super) async fn commit(
        &mut self,
        adoption: Adoption,
        report: &ApplyReport,
    ) -> Result<State, Stop> {
        fail::fail_point!("engine::commit");
        let release = adoption.target.release();
        let took = adoption.began.elapsed();
        self.metrics.adopted(took);
        tracing::info!(
            %release, milliseconds = took.as_millis(),
            written = report.count(WriteOutcome::Written),
            removed = report.count(WriteOutcome::Removed),
            "adopted"
        );
        self.adopted = Some(release);
        self.keep_leftovers();
        self.resume = None;
        self.disk_matches = true;
        self.looked_at = None;
        self.copy_is_lost = false;
        self.recovered = true;
        self.troubles.clear(Source::Adoption);
        self.troubles.clear(Source::Disk);
        match self.published > Some(release) {
            // The good release of a new node: the current one is next.
            true => self.handled = None,
            false => self.dealt_with(None),
        }
        // Before READY: a unit that waits for it is then started once, and with the new files.
        self.finish_host().await;
        self.service_manager.ready();
        // After the rest: a memory that can't be written must not make the adoption look undone.
        self.remember_time();
        match self.has_slot() {
            true => Ok(State::Probe),
            false => Ok(State::Idle),
        }
    }
}

fn is_signed(target: &ReleaseTarget, key: &str, bytes: &[u8]) -> Result<(), EngineError> {
    let refused = |why| EngineError::NotTheSignedBundle {
        key: key.to_owned(),
        why,
    };
    if bytes.len() as u64 != target.length {
        return Err(refused(format!(
            "{} of {} bytes",
            bytes.len(),
            target.length
        )));
    }
    let digest = Sha256Digest::of(bytes);
    if digest != target.sha256 {
        return Err(refused(format!(
            "its digest is {}, not {}",
            digest.short(),
            target.sha256.short()
        )));
    }
    Ok(())
}

fn opened(sealed: &[u8], identity: &SecretText) -> Result<Release, Unopened> {
    let plain = open(sealed, identity, limits::BUNDLE_BYTES).map_err(Unopened::Seal)?;
    unpack(plain.expose()).map_err(Unopened::Unpack)
}
