//! The model of kubelet, with a hand: it starts the etcd that the static pod names, and ends it with the pod.
//!
//! There is no container: paths of the pod are turned into those of the node's own root, in the command and in the
//! configuration file that it names. Each node has ports of its own on loopback, as its agent's configuration says.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::kubelet::{Kubelet, KubeletConfig};
use crate::node::Node;

/// The pod.
const POD: &str = "kube-system/etcd";
/// How long it waits before it starts again what has ended.
const BACKOFF: Duration = Duration::from_millis(300);
/// From one look to the next.
const GLANCE: Duration = Duration::from_millis(25);
/// The pod's grace period here.
const GRACE: Duration = Duration::from_secs(10);

/// A node's kubelet; it ends, and etcd with it, when it is dropped.
#[derive(Debug)]
pub struct EtcdKubelet {
    stop: Arc<AtomicBool>,
    starts: Arc<AtomicU32>,
    process: Arc<Mutex<Option<Child>>>,
    log: PathBuf,
    thread: Option<JoinHandle<()>>,
}

/// How etcd is started, where it is not just started.
#[derive(Debug, Clone, Default)]
pub struct Launch {
    /// A program with its arguments, which becomes etcd: `ip netns exec NAME`.
    pub through: Vec<String>,
    /// What is changed in the configuration that the agent wrote.
    pub amend: Option<fn(&mut Value)>,
}

struct Hand {
    kubelet: Kubelet,
    etcd: PathBuf,
    launch: Launch,
    root: PathBuf,
    manifest: PathBuf,
    log: PathBuf,
    process: Arc<Mutex<Option<Child>>>,
    starts: Arc<AtomicU32>,
}

impl EtcdKubelet {
    /// Starts it for a node.
    ///
    /// # Errors
    /// What keeps the model from starting.
    pub fn start(node: &Node, etcd: &Path) -> anyhow::Result<Self> {
        Self::start_as(node, etcd, Launch::default())
    }

    /// The same, with etcd started so.
    ///
    /// # Errors
    /// What keeps the model from starting.
    pub fn start_as(node: &Node, etcd: &Path, launch: Launch) -> anyhow::Result<Self> {
        let kubelet = Kubelet::start(KubeletConfig {
            manifests: node.manifests(),
            root: node.root(),
            tick: Duration::from_millis(100),
        })?;
        let log = node.root().join("etcd.log");
        let process = Arc::new(Mutex::new(None));
        let (stop, starts) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU32::new(0)),
        );
        let hand = Hand {
            kubelet,
            etcd: etcd.to_owned(),
            launch,
            root: node.root(),
            manifest: node.manifests().join("etcd.yaml"),
            log: log.clone(),
            process: Arc::clone(&process),
            starts: Arc::clone(&starts),
        };
        let until = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("kubelet-etcd".to_owned())
            .spawn(move || hand.run(&until))?;
        Ok(Self {
            stop,
            starts,
            process,
            log,
            thread: Some(thread),
        })
    }

    /// How often etcd was started.
    #[must_use]
    pub fn starts(&self) -> u32 {
        self.starts.load(Ordering::Relaxed)
    }

    /// Kills etcd at once (SIGKILL); it is started again.
    pub fn kill_etcd(&self) {
        if let Some(child) = &mut *self.process.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = child.kill();
        }
    }

    /// Whether etcd runs at the moment.
    #[must_use]
    pub fn runs(&self) -> bool {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        process
            .as_mut()
            .is_some_and(|c| matches!(c.try_wait(), Ok(None)))
    }

    /// What etcd wrote.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for EtcdKubelet {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.kill_etcd();
        if let Some(child) = &mut *self.process.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = child.wait();
        }
    }
}

impl Hand {
    fn run(self, stop: &AtomicBool) {
        let mut of = None;
        let mut not_before = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(GLANCE);
            let wanted = self.kubelet.running().remove(POD).map(|pod| pod.digest);
            let ended = {
                let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
                let ended = process
                    .as_mut()
                    .is_some_and(|c| !matches!(c.try_wait(), Ok(None)));
                if ended {
                    *process = None;
                }
                ended
            };
            if ended {
                not_before = Instant::now() + BACKOFF;
                of = None;
            }
            if of.is_some() && of != wanted {
                self.end();
                of = None;
                not_before = Instant::now() + BACKOFF;
            }
            if of.is_none() && wanted.is_some() && Instant::now() >= not_before {
                match self.begin() {
                    Ok(()) => of = wanted,
                    Err(error) => {
                        eprintln!("etcd of {}: {error:#}", self.root.display());
                        not_before = Instant::now() + BACKOFF;
                    }
                }
            }
        }
    }

    fn end(&self) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut child) = process.take() else {
            return;
        };
        let pid = Pid::from_raw(child.id().cast_signed());
        let _ = kill(pid, Signal::SIGTERM);
        let began = Instant::now();
        while began.elapsed() < GRACE && matches!(child.try_wait(), Ok(None)) {
            std::thread::sleep(GLANCE);
        }
        let _ = child.kill();
        let _ = child.wait();
    }

    /// As a container would begin: what it mounts must be there.
    fn begin(&self) -> anyhow::Result<()> {
        let pod: Value = serde_json::from_slice(&std::fs::read(&self.manifest)?)?;
        let container = &pod["spec"]["containers"][0];
        let mounts = self.mounts(&pod, container)?;
        let here = |text: &str| -> Option<String> {
            let of = mounts.iter().find(|(inside, _)| {
                let rest = text.strip_prefix(inside.as_str());
                rest.is_some_and(|r| r.is_empty() || r.starts_with('/'))
            });
            of.map(|(inside, outside)| format!("{outside}{}", &text[inside.len()..]))
        };
        let command: Vec<&str> = container["command"]
            .as_array()
            .context("a command")?
            .iter()
            .filter_map(Value::as_str)
            .collect();
        ensure!(command.first() == Some(&"etcd"), "{command:?}");
        let file = command
            .iter()
            .find_map(|a| a.strip_prefix("--config-file="));
        let file = file.context("no --config-file")?;
        let text = std::fs::read_to_string(here(file).context("the file is not mounted")?)
            .context("its configuration is not there")?;
        let mut config: Value = serde_yaml::from_str(&text)?;
        if let Some(amend) = self.launch.amend {
            amend(&mut config);
        }
        translate(&mut config, &here);
        let run = self.root.join("etcd.run.json");
        std::fs::write(&run, serde_json::to_vec_pretty(&config)?)?;
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = match self.launch.through.split_first() {
            None => Command::new(&self.etcd),
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&self.etcd);
                command
            }
        };
        let child = command
            .arg(format!("--config-file={}", run.display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.starts.fetch_add(1, Ordering::Relaxed);
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        Ok(())
    }

    /// Path in the pod → path here, the longest first.
    fn mounts(&self, pod: &Value, container: &Value) -> anyhow::Result<Vec<(String, String)>> {
        let volumes = pod["spec"]["volumes"].as_array().context("volumes")?;
        let mut mounts = Vec::new();
        for mount in container["volumeMounts"].as_array().context("mounts")? {
            let volume = volumes.iter().find(|v| v["name"] == mount["name"]);
            let host = &volume.context("a volume")?["hostPath"];
            let path = host["path"].as_str().context("a path")?;
            let here = self.root.join(path.trim_start_matches('/'));
            match host["type"].as_str() {
                Some("DirectoryOrCreate") => std::fs::create_dir_all(&here)?,
                _ => ensure!(here.is_dir(), "{path} is no directory"),
            }
            let inside = mount["mountPath"].as_str().context("a mount path")?;
            mounts.push((inside.to_owned(), here.display().to_string()));
        }
        mounts.sort_by_key(|(inside, _)| std::cmp::Reverse(inside.len()));
        Ok(mounts)
    }
}

fn translate(value: &mut Value, here: &impl Fn(&str) -> Option<String>) {
    match value {
        Value::String(text) => {
            if let Some(path) = here(text) {
                *text = path;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|v| translate(v, here)),
        Value::Object(map) => map.values_mut().for_each(|v| translate(v, here)),
        _ => {}
    }
}
