//! Where a node's member lives: its configuration file, which is also its memory, and its data.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use shared::durable::{self, Attributes, DurableError};
use shared::etcd::{
    ConfigProblem, Generation, Listen, MemberFacts, Memory, remembered, render_config,
};

/// Where etcd finds its data, in its pod as on the machine: a directory for each generation below it.
const DATA: &str = "/var/lib/etcd";
/// The suffix of data that is no member's any more. Only the last one is kept.
const ASIDE: &str = "aside";
/// Longer than the file ever is, in bytes.
const FILE_BYTES: usize = 256 * 1024;

/// The member's place on this machine.
#[derive(Debug, Clone)]
pub struct EtcdPlace {
    facts: MemberFacts,
    listen: Listen,
    file: PathBuf,
    data: PathBuf,
}

/// The place cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// A file or directory.
    #[error("cannot {step} {path}")]
    Io {
        /// What was tried, as a verb.
        step: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The base of the release.
    #[error("the release's base of etcd's configuration cannot be used")]
    Base(#[source] ConfigProblem),
}

impl From<DurableError> for PlaceError {
    fn from(error: DurableError) -> Self {
        Self::Io {
            step: error.step,
            path: error.path,
            source: error.source,
        }
    }
}

/// What a member that came from a backup does once, when it has a leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToDo {
    /// Removing what API servers of before left.
    ClearLeases,
    /// Holding its data against the others'.
    Compare,
}

fn failed<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> PlaceError + 'a {
    move |source| PlaceError::Io {
        step,
        path: path.to_owned(),
        source,
    }
}

fn absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

// === impl EtcdPlace ===

impl EtcdPlace {
    /// Below `root`, the machine's `/`.
    #[must_use]
    pub fn new(root: &Path, facts: MemberFacts, listen: Listen) -> Self {
        Self {
            facts,
            listen,
            file: root.join("etc/kubernetes/etcd/etcd.conf.yaml"),
            data: root.join(DATA.trim_start_matches('/')),
        }
    }

    /// What the node is as a member.
    #[must_use]
    pub fn facts(&self) -> &MemberFacts {
        &self.facts
    }

    /// The configuration file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The ports on which its member listens, of the node's own addresses or of all.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        let urls = std::iter::once(&self.listen.peer_url).chain(&self.listen.client_urls);
        let ports = urls.filter_map(|url| url::Url::parse(url).ok()?.port_or_known_default());
        let ports: std::collections::BTreeSet<u16> = ports.collect();
        ports.into_iter().collect()
    }

    /// The data directory of a generation.
    #[must_use]
    pub fn data(&self, generation: Generation) -> PathBuf {
        self.data.join(generation.to_string())
    }

    fn read(&self) -> Result<Option<String>, PlaceError> {
        match fs::read_to_string(&self.file) {
            Ok(text) if text.len() <= FILE_BYTES => Ok(Some(text)),
            Ok(_) => Ok(None),
            Err(e) if absent(&e) => Ok(None),
            Err(e) => Err(failed("read", &self.file)(e)),
        }
    }

    /// What the configuration file remembers; none where there is none, or not one of the agent's.
    ///
    /// # Errors
    /// A file that is there and cannot be read: nothing may be concluded from it.
    pub fn memory(&self) -> Result<Option<Memory>, PlaceError> {
        Ok(self.read()?.as_deref().and_then(remembered))
    }

    /// Whether the data directory of a generation holds a member's data: a write-ahead log, without which etcd begins anew.
    ///
    /// # Errors
    /// A directory that is there and cannot be read.
    pub fn has_data(&self, generation: Generation) -> Result<bool, PlaceError> {
        let log = self.data(generation).join("member/wal");
        let entries = match fs::read_dir(&log) {
            Ok(entries) => entries,
            Err(e) if absent(&e) => return Ok(false),
            Err(e) => return Err(failed("list", &log)(e)),
        };
        for entry in entries {
            let entry = entry.map_err(failed("list", &log))?;
            if Path::new(&entry.file_name())
                .extension()
                .is_some_and(|e| e == "wal")
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Writes the configuration file, from the release's base; where it is so already, nothing is written. Whether it was.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn write(&self, base: &str, token: &str, memory: &Memory) -> Result<bool, PlaceError> {
        let data = format!("{DATA}/{}", memory.generation);
        let text = render_config(base, &self.facts, &self.listen, token, &data, memory)
            .map_err(PlaceError::Base)?;
        if self.read()?.as_deref() == Some(&text) {
            return Ok(false);
        }
        self.make_directory()?;
        durable::write_file(&self.file, text.as_bytes(), Attributes::mode(0o600))?;
        Ok(true)
    }

    /// Makes the directory of the configuration file, which the pod mounts.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn make_directory(&self) -> Result<(), PlaceError> {
        let Some(parent) = self.file.parent() else {
            return Ok(());
        };
        if !parent.is_dir() {
            fs::create_dir_all(parent).map_err(failed("make directory", parent))?;
            if let Some(above) = parent.parent() {
                durable::sync_directory(above)?;
            }
        }
        Ok(())
    }

    /// Puts away what lies in the data directory of a generation: it is no member's data. What was put away before is
    /// removed.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn put_aside(&self, generation: Generation) -> Result<(), PlaceError> {
        let from = self.data(generation);
        if !from.exists() {
            return Ok(());
        }
        let to = from.with_extension(ASIDE);
        if to.exists() {
            fs::remove_dir_all(&to).map_err(failed("remove", &to))?;
        }
        tracing::warn!(from = %from.display(), to = %to.display(), "putting data aside that is no member's");
        Ok(durable::rename_directory(&from, &to)?)
    }

    fn mark_of(&self, generation: Generation, what: ToDo) -> PathBuf {
        let name = match what {
            ToDo::ClearLeases => "stale-leases",
            ToDo::Compare => "not-compared",
        };
        self.data.join(format!(".{name}-{generation}"))
    }

    /// From now on, also after a restart, all of that is to be done in a generation that begins with a backup.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn mark(&self, generation: Generation) -> Result<(), PlaceError> {
        for what in [ToDo::ClearLeases, ToDo::Compare] {
            let mark = self.mark_of(generation, what);
            durable::write_file(&mark, b"", Attributes::mode(0o600))?;
        }
        Ok(())
    }

    /// Whether it is still to be done.
    #[must_use]
    pub fn is_to_do(&self, generation: Generation, what: ToDo) -> bool {
        self.mark_of(generation, what).exists()
    }

    /// It is done.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn done(&self, generation: Generation, what: ToDo) -> Result<(), PlaceError> {
        Ok(durable::remove_file(&self.mark_of(generation, what))?)
    }

    /// Forgets the membership: the configuration file goes.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub fn forget(&self) -> Result<(), PlaceError> {
        Ok(durable::remove_file(&self.file)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(root: &Path) -> EtcdPlace {
        let facts = MemberFacts {
            node: "i-1".parse().unwrap(),
            name: "i-1".to_owned(),
            peer_url: "https://a:2380".to_owned(),
            client_url: "https://a:2379".to_owned(),
        };
        let listen = Listen {
            peer_url: "https://10.0.0.1:2380".to_owned(),
            client_urls: vec!["https://127.0.0.1:2379".to_owned()],
            metrics_url: None,
        };
        EtcdPlace::new(root, facts, listen)
    }

    #[test]
    fn remembers_what_it_wrote_and_sees_only_a_members_data() {
        let root = tempfile::tempdir().unwrap();
        let place = place(root.path());
        let one = Generation::FIRST;
        assert_eq!(place.memory().unwrap(), None);
        let memory = Memory::sealed(one, place.facts());
        let base = "snapshot-count: 10000\n";
        assert!(place.write(base, "dev-1", &memory).unwrap());
        assert!(!place.write(base, "dev-1", &memory).unwrap());
        assert_eq!(place.memory().unwrap(), Some(memory));

        assert!(!place.has_data(one).unwrap());
        // What etcd leaves where it does not come up.
        let member = place.data(one).join("member");
        fs::create_dir_all(member.join("snap")).unwrap();
        fs::create_dir_all(member.join("wal")).unwrap();
        fs::write(member.join("wal/0.tmp"), "").unwrap();
        assert!(!place.has_data(one).unwrap());
        fs::write(member.join("wal/0-0.wal"), "").unwrap();
        assert!(place.has_data(one).unwrap());
        for _ in 0..2 {
            fs::create_dir_all(member.join("wal")).unwrap();
            place.put_aside(one).unwrap();
            assert!(!place.has_data(one).unwrap());
        }
        place.put_aside(one).unwrap();
        let both = [ToDo::ClearLeases, ToDo::Compare];
        let to_do = |place: &EtcdPlace, of| both.map(|what| place.is_to_do(of, what));
        assert_eq!(to_do(&place, one), [false, false]);
        place.mark(one).unwrap();
        let again = place.clone();
        assert_eq!(to_do(&again, one), [true, true]);
        assert_eq!(to_do(&again, one.next()), [false, false]);
        place.done(one, ToDo::ClearLeases).unwrap();
        assert_eq!(to_do(&again, one), [false, true]);
        place.forget().unwrap();
        assert_eq!(place.memory().unwrap(), None);
    }
}
