//! A client that writes without a pause, and remembers what etcd said it has.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context as _, ensure};
use platform_tests::tools;

use super::stage::Stage;

#[derive(Clone)]
pub(crate) struct Etcdctl {
    program: PathBuf,
    home: Arc<tempfile::TempDir>,
}

pub(crate) struct Writer {
    etcdctl: Etcdctl,
    endpoints: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<u64>>>,
    thread: Option<JoinHandle<()>>,
}

impl Etcdctl {
    pub(crate) fn of(stage: &Stage) -> anyhow::Result<Option<Self>> {
        let Some(program) = tools::find("etcdctl") else {
            return Ok(None);
        };
        let made = Self {
            program,
            home: Arc::new(tempfile::TempDir::new()?),
        };
        made.follow(stage)?;
        Ok(Some(made))
    }

    /// From now on with what the first machine's API server has: the machine itself may go.
    pub(crate) fn follow(&self, stage: &Stage) -> anyhow::Result<()> {
        let from = stage.secrets("kube-apiserver")?;
        // Key and certificate of a call belong together: the names that it is given lead to one of two directories.
        let next = tempfile::Builder::new()
            .prefix("of-")
            .tempdir_in(self.home.path())?
            .keep();
        for name in ["etcd-ca.crt", "etcd-client.crt", "etcd-client.key"] {
            std::fs::copy(from.join(name), next.join(name))?;
        }
        let link = self.home.path().join("link");
        std::os::unix::fs::symlink(next, &link)?;
        Ok(std::fs::rename(link, self.home.path().join("current"))?)
    }

    /// One that has what this one has now, and follows nobody.
    pub(crate) fn detached(&self) -> anyhow::Result<Self> {
        let home = tempfile::TempDir::new()?;
        let current = std::fs::read_link(self.home.path().join("current"))?;
        let next = home.path().join("of-now");
        std::fs::create_dir(&next)?;
        for file in std::fs::read_dir(current)? {
            let file = file?;
            std::fs::copy(file.path(), next.join(file.file_name()))?;
        }
        std::os::unix::fs::symlink(next, home.path().join("current"))?;
        Ok(Self {
            program: self.program.clone(),
            home: Arc::new(home),
        })
    }

    pub(crate) fn run(&self, endpoints: &[String], arguments: &[&str]) -> std::io::Result<Output> {
        let current = std::fs::read_link(self.home.path().join("current"))?;
        let file = |name: &str| current.join(name).display().to_string();
        Command::new(&self.program)
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints={}", endpoints.join(",")))
            .arg(format!("--cacert={}", file("etcd-ca.crt")))
            .arg(format!("--cert={}", file("etcd-client.crt")))
            .arg(format!("--key={}", file("etcd-client.key")))
            .args(["--command-timeout=3s", "--dial-timeout=2s"])
            .args(arguments)
            .output()
    }
}

impl Writer {
    pub(crate) fn start(etcdctl: Etcdctl, endpoints: Vec<String>) -> Self {
        let endpoints = Arc::new(Mutex::new(endpoints));
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let thread = {
            let (endpoints, stop) = (Arc::clone(&endpoints), Arc::clone(&stop));
            let (acknowledged, etcdctl) = (Arc::clone(&acknowledged), etcdctl.clone());
            std::thread::spawn(move || {
                for n in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let now = endpoints.lock().unwrap().clone();
                    let key = format!("/writer/{n:08}");
                    let put = etcdctl.run(&now, &["put", &key, "x"]);
                    if put.is_ok_and(|output| output.status.success()) {
                        acknowledged.lock().unwrap().push(n);
                    }
                }
            })
        };
        Self {
            etcdctl,
            endpoints,
            stop,
            acknowledged,
            thread: Some(thread),
        }
    }

    pub(crate) fn goes_to(&self, endpoints: Vec<String>) {
        *self.endpoints.lock().unwrap() = endpoints;
    }

    pub(crate) fn count(&self) -> usize {
        self.acknowledged.lock().unwrap().len()
    }

    /// Ends it, and looks for each write that was acknowledged.
    pub(crate) fn check(mut self) -> anyhow::Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("a thread")?;
        ensure!(thread.join().is_ok(), "the writer panicked");
        let endpoints = self.endpoints.lock().unwrap().clone();
        let all = self
            .etcdctl
            .run(&endpoints, &["get", "--prefix", "/writer/", "--keys-only"])?;
        ensure!(all.status.success(), "{all:?}");
        let text = String::from_utf8_lossy(&all.stdout).into_owned();
        let acknowledged = self.acknowledged.lock().unwrap();
        for n in &*acknowledged {
            ensure!(
                text.contains(&format!("/writer/{n:08}")),
                "write {n} was acknowledged and is lost"
            );
        }
        Ok(acknowledged.len())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
