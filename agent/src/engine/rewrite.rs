//! Having what is stored encrypted anew, beside everything else: where the release orders it, a task on the node that leads
//! etcd does it, and the loop only asks how far it is. What fails in it stops nothing, and is begun again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shared::rewrite::{REWRITE_FILE, RewriteFailed, RewriteOrder, RewriteReport, StoredScan};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Agent;
use crate::etcd::{EtcdClient, Material};
use crate::rewrite::Rewriter;
use crate::trouble::{chain, shortened};

/// From one look to the next.
const AGAIN: Duration = Duration::from_secs(15);

/// A word and a line about what went wrong.
type Wrong = (&'static str, String);

/// What came of a look.
#[derive(Debug)]
struct Looked {
    /// Whether it was this node's to do.
    leads: bool,
    scan: Option<StoredScan>,
    wrong: Option<Wrong>,
}

/// The look that is under way, and what is known.
#[derive(Debug, Default)]
pub(super) struct Rewrites {
    running: Option<JoinHandle<Looked>>,
    rewritten: Arc<AtomicU64>,
    look_at: Option<Instant>,
    /// The order that is known, as it is in its file.
    order: Option<RewriteOrder>,
    report: Option<RewriteReport>,
}

impl Rewrites {
    /// For the node's status.
    pub(super) fn report(&self) -> Option<RewriteReport> {
        self.report.clone()
    }

    /// Another order, or none any more.
    fn begin(&mut self, order: Option<RewriteOrder>) {
        self.stop();
        self.rewritten = Arc::default();
        self.report = None;
        self.order = order;
    }

    fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }
}

impl Drop for Rewrites {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Agent {
    /// Takes in what a look found, and begins the next one when its time has come.
    pub(super) async fn look_after_rewriting(&mut self) {
        if let Some(running) = self.rewrites.running.take_if(|r| r.is_finished()) {
            match running.await {
                Ok(looked) => self.rewrote(looked),
                Err(error) => self.rewriting_failed(Some(("internal", chain(&error)))),
            }
            self.worked = true;
        }
        if let Some(report) = &mut self.rewrites.report {
            report.rewritten = self.rewrites.rewritten.load(Ordering::Relaxed);
        }
        let is_time = self.rewrites.look_at.is_none_or(|at| at <= Instant::now());
        if !self.recovered || self.hold.is_some() || !is_time {
            return;
        }
        self.rewrites.look_at = Some(Instant::now() + AGAIN);
        let file = self.with_disk(|disk| disk.owned_bytes(REWRITE_FILE));
        let Ok(file) = file else {
            // The look after the disk says so.
            return;
        };
        // A release with one that cannot be read is refused before it is on the disk.
        let order = file.and_then(|bytes| RewriteOrder::from_file(bytes.expose()).ok());
        if order != self.rewrites.order {
            self.rewrites.begin(order.clone());
        }
        let is_done = self
            .rewrites
            .report
            .as_ref()
            .is_some_and(RewriteReport::is_done);
        let Some(order) = order.filter(|_| !is_done && self.rewrites.running.is_none()) else {
            return;
        };
        let client = self.with_disk(|disk| Material::of_disk(disk).and_then(|m| m.client()));
        match client {
            Ok(etcd) => {
                let rewriter = Rewriter {
                    etcd,
                    order,
                    rewritten: Arc::clone(&self.rewrites.rewritten),
                    clock: Arc::clone(&self.clock),
                };
                self.rewrites.running = Some(tokio::spawn(look(rewriter)));
            }
            Err(error) => self.rewriting_failed(Some(("settings", error))),
        }
    }

    fn rewrote(&mut self, looked: Looked) {
        self.rewrites.look_at = Some(Instant::now() + AGAIN);
        if !looked.leads {
            return;
        }
        self.rewriting_failed(looked.wrong);
        let Some(report) = &mut self.rewrites.report else {
            return;
        };
        if let Some(scan) = looked.scan {
            let (under_key, key) = (scan.under_key, report.key.as_str());
            match scan.is_clean() {
                true => {
                    tracing::info!(under_key, key, "all that is stored is under the key in use")
                }
                false => {
                    tracing::warn!(others = ?scan.others, key, "not all is under the key in use")
                }
            }
            report.scan = Some(scan);
        }
    }

    fn rewriting_failed(&mut self, wrong: Option<Wrong>) {
        let now = self.clock.now();
        let Some(order) = &self.rewrites.order else {
            return;
        };
        let report = self
            .rewrites
            .report
            .get_or_insert_with(|| RewriteReport::new(order));
        report.rewritten = self.rewrites.rewritten.load(Ordering::Relaxed);
        let before = report.failed.take();
        let Some((kind, message)) = wrong else {
            return;
        };
        self.metrics.failed("rewrite", kind);
        let same = before.filter(|b| b.kind == kind);
        if same.is_none() {
            tracing::error!(
                kind,
                error = message,
                "what is stored is not encrypted anew"
            );
        }
        report.failed = Some(RewriteFailed {
            kind: kind.to_owned(),
            message: shortened(&message),
            since: same.map_or(now, |b| b.since),
        });
    }
}

/// The leader's alone: its look at what is stored is the newest there is, and two at once would do everything twice.
async fn leads(etcd: &EtcdClient) -> bool {
    let status = etcd.status().await;
    status.is_ok_and(|s| !s.is_learner && s.leader == Some(s.member_id))
}

async fn look(rewriter: Rewriter) -> Looked {
    if !leads(&rewriter.etcd).await {
        return Looked {
            leads: false,
            scan: None,
            wrong: None,
        };
    }
    let (scan, done) = rewriter.run().await;
    Looked {
        leads: true,
        scan,
        wrong: done.err().map(|error| (error.label(), chain(&error))),
    }
}
