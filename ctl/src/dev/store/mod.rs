//! The embedded store: an S3 server in the process, on files, for one machine.
//!
//! It answers what the platform stands on as S3 does: compare-and-swap writes of which exactly one wins, create-only
//! writes, conditional reads that answer 304, listings, SigV4. `service` says what it adds to `s3s-fs` and why.
//!
//! The directory holds a directory a bucket with a plain file an object (`BUCKET/KEY`), and `.attributes`, `.staging`
//! and `.lock`. A put is on disk before it is answered (its rename is not synced: a crash of the machine may lose the
//! newest puts, never tear one).
//!
//! `s3s` logs each refused signature as an error and `s3s_fs` makes a span with the whole request for each call:
//! a log filter should have `s3s=off,s3s_fs=off`.

mod attributes;
mod conditions;
mod files;
mod objects;
mod requests;
mod server;
mod service;
mod upload;

#[cfg(test)]
mod tests;

use std::fs::{File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s::{S3Error, S3Result, s3_error};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use url::Url;

use files::ObjectFiles;
use requests::{Counters, Gate};
use service::ConditionalStore;

pub use requests::RequestCounts;
pub use s3s::auth::SecretKey;

/// What a store needs to start.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Where to listen; port 0 takes a free port.
    pub listen: SocketAddr,
    /// Where the objects are kept; made when it is missing. One store at a time.
    pub directory: PathBuf,
    /// The access key id that requests must be signed with.
    pub access_key: String,
    /// The secret that goes with `access_key`. Its `Debug` shows nothing.
    pub secret_key: SecretKey,
    /// The region that requests must be signed for.
    pub region: String,
}

/// Why a store did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The listen address is in use or is not this machine's.
    #[error("the store can't listen on {addr}")]
    Listen {
        /// The address as configured.
        addr: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The directory can't be made, read or written.
    #[error("the store can't use the directory {}", path.display())]
    Directory {
        /// The directory as configured.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another store serves the directory: two could not keep compare-and-swap atomic.
    #[error("another store is running on the directory {}", path.display())]
    DirectoryInUse {
        /// The directory as configured.
        path: PathBuf,
    },
    /// `s3s-fs` does not take the directory.
    #[error("the store's file system can't use the directory {}", path.display())]
    FileSystem {
        /// The directory as configured.
        path: PathBuf,
        /// What it said.
        #[source]
        source: S3Error,
    },
}

/// A store that serves until [`RunningStore::shutdown`]; dropping it ends it at once.
#[derive(Debug)]
pub struct RunningStore {
    addr: SocketAddr,
    endpoint: Url,
    counters: Arc<Counters>,
    ending: watch::Sender<bool>,
    server: JoinHandle<()>,
    /// Held for its lock, which the system gives back however the process ends.
    _lock: File,
}

impl RunningStore {
    /// Opens the directory and listens. Raises this process's soft limit of open files to the hard one.
    ///
    /// # Errors
    /// Returns [`StoreError`] when the address is taken, or the directory is in use or can't be used.
    pub async fn start(config: StoreConfig) -> Result<Self, StoreError> {
        let StoreConfig {
            listen,
            directory,
            access_key,
            secret_key,
            region,
        } = config;
        let (lock, files, inner) = open_directory(&directory)?;
        let listener = TcpListener::bind(listen)
            .await
            .map_err(|source| StoreError::Listen {
                addr: listen,
                source,
            })?;
        let addr = listener.local_addr().map_err(|source| StoreError::Listen {
            addr: listen,
            source,
        })?;
        let endpoint =
            Url::parse(&format!("http://{addr}/")).map_err(|error| StoreError::Listen {
                addr: listen,
                source: io::Error::other(error),
            })?;
        server::raise_open_files_limit();

        let counters = Arc::new(Counters::default());
        let mut service =
            S3ServiceBuilder::new(ConditionalStore::new(inner, files, region.clone()));
        service.set_auth(SimpleAuth::from_single(access_key, secret_key));
        service.set_access(Gate {
            counters: Arc::clone(&counters),
            region,
        });
        let (ending, told_to_end) = watch::channel(false);
        let server = tokio::spawn(server::serve(
            listener,
            service.build(),
            Arc::clone(&counters),
            told_to_end,
        ));
        tracing::info!(%addr, directory = %directory.display(), "store listens");
        Ok(Self {
            addr,
            endpoint,
            counters,
            ending,
            server,
            _lock: lock,
        })
    }

    /// The address it listens on, with the port it got.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The address for an S3 client, which must use path-style requests.
    #[must_use]
    pub fn endpoint(&self) -> Url {
        self.endpoint.clone()
    }

    /// What it was asked until now.
    #[must_use]
    pub fn requests(&self) -> RequestCounts {
        self.counters.snapshot()
    }

    /// How many connections are open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.counters.connections.load(Ordering::Relaxed)
    }

    /// Stops listening, lets requests in progress end for at most five seconds, and closes all connections.
    pub async fn shutdown(mut self) {
        // The server is gone already when nobody listens.
        let _ = self.ending.send(true);
        if let Err(error) = (&mut self.server).await {
            tracing::error!(%error, "store ended abnormally");
        }
    }
}

impl Drop for RunningStore {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Makes the directory, takes its lock, and opens what works on it.
fn open_directory(directory: &Path) -> Result<(File, ObjectFiles, FileSystem), StoreError> {
    let failed = |source| StoreError::Directory {
        path: directory.to_owned(),
        source,
    };
    std::fs::create_dir_all(directory).map_err(failed)?;
    let root = directory.canonicalize().map_err(failed)?;
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(root.join(".lock"))
        .map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(StoreError::DirectoryInUse {
                path: directory.to_owned(),
            });
        }
        Err(TryLockError::Error(source)) => return Err(failed(source)),
    }
    let files = ObjectFiles::new(root.clone()).map_err(failed)?;
    let inner = FileSystem::new(&root).map_err(|error| StoreError::FileSystem {
        path: directory.to_owned(),
        source: S3Error::from(error),
    })?;
    Ok((lock, files, inner))
}

/// Runs file work off the request threads; its failure is a 500.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> S3Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            tracing::error!(%error, "store's file work failed");
            Err(s3_error!(error, InternalError))
        }
        Err(error) => Err(s3_error!(error, InternalError)),
    }
}
