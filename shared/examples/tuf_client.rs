//! A small TUF client over HTTP, on the update code that nodes run, for TUF test suites from outside to drive.
//!
//! ```text
//! tuf_client --metadata-dir DIR init TRUSTED_ROOT
//! tuf_client --metadata-dir DIR --metadata-url URL refresh
//! tuf_client --metadata-dir DIR --metadata-url URL --target-name NAME... --target-base-url URL --target-dir DIR download
//! ```
//!
//! It exits with 0 or 1. `--metadata-dir` holds the trusted documents byte for byte as received, under unversioned
//! names, and nothing else; what tough needs beside them lies in the system's directory for temporary files.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use shared::digest::Sha256Digest;
use shared::durable::{self, Attributes};
use shared::trust::{TrustStore, Trusted, refresh};
use tough::schema::{Root, Signed, Target};
use tough::{HttpTransport, HttpTransportBuilder, IntoVec as _, TargetName};
use url::Url;

/// Drives the platform's TUF update against a repository that is served over HTTP.
#[derive(Debug, Parser)]
struct Arguments {
    /// Directory of the trusted metadata.
    #[arg(long)]
    metadata_dir: PathBuf,
    /// Base address of the repository's metadata.
    #[arg(long)]
    metadata_url: Option<Url>,
    /// A target to download; may be given again.
    #[arg(long = "target-name")]
    target_names: Vec<String>,
    /// Base address of the repository's targets.
    #[arg(long)]
    target_base_url: Option<Url>,
    /// Directory that takes the downloaded targets.
    #[arg(long)]
    target_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Begin to trust a root.
    Init {
        /// The first root document.
        trusted_root: PathBuf,
    },
    /// Update the trusted metadata.
    Refresh,
    /// Update the trusted metadata, then download targets in the order given.
    Download,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(e) => {
            let _ = e.print();
            return ExitCode::from(u8::from(e.use_stderr()));
        }
    };
    match run(&arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            let _ = writeln!(io::stderr(), "tuf_client: {e:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    match &arguments.command {
        Command::Init { trusted_root } => {
            let root = std::fs::read(trusted_root)
                .with_context(|| format!("cannot read {}", trusted_root.display()))?;
            check_root(&root)
                .with_context(|| format!("{} is no root to trust", trusted_root.display()))?;
            TrustStore::open(&arguments.metadata_dir, &root)?;
            Ok(())
        }
        Command::Refresh => update(arguments).await.map(drop),
        Command::Download => {
            let directory = arguments
                .target_dir
                .as_deref()
                .context("--target-dir is missing")?;
            if arguments.target_base_url.is_none() || arguments.target_names.is_empty() {
                bail!("download needs --target-base-url and at least one --target-name");
            }
            let trusted = update(arguments).await?;
            for name in &arguments.target_names {
                download(&trusted, name, directory)
                    .await
                    .with_context(|| format!("cannot download {name:?}"))?;
            }
            Ok(())
        }
    }
}

/// A root is signed by itself: anything else that is JSON would be found out by the first refresh only.
fn check_root(bytes: &[u8]) -> anyhow::Result<()> {
    let root: Signed<Root> = serde_json::from_slice(bytes)?;
    root.signed.verify_role(&root)?;
    Ok(())
}

async fn update(arguments: &Arguments) -> anyhow::Result<Trusted> {
    let metadata = arguments
        .metadata_url
        .clone()
        .context("--metadata-url is missing")?;
    // A refresh reads no target, so any address does where none is given.
    let targets = arguments
        .target_base_url
        .clone()
        .unwrap_or_else(|| metadata.clone());
    let store = TrustStore::open_existing(&arguments.metadata_dir)?;
    let trusted = refresh(
        &store,
        transport(),
        metadata,
        targets,
        &std::env::temp_dir(),
    )
    .await?;
    Ok(trusted)
}

/// tough's own transport; building it also installs the crypto provider that its HTTP client asks for.
fn transport() -> HttpTransport {
    HttpTransportBuilder::new()
        .timeout(Duration::from_secs(10))
        .connect_timeout(Duration::from_secs(5))
        .tries(2)
        .build()
}

async fn download(trusted: &Trusted, name: &str, directory: &Path) -> anyhow::Result<()> {
    let name = TargetName::new(name)?;
    let repository = trusted.repository();
    let listed = repository
        .targets()
        .signed
        .find_target(&name, false)
        .ok()
        .context("the signed targets do not list it")?;
    let path = directory.join(file_name(&name));
    if is_there(&path, listed)? {
        return Ok(());
    }
    let bytes = repository
        .read_target(&name)
        .await?
        .context("the signed targets do not list it")?
        .into_vec()
        .await?;
    // tough holds the stream to the length as an upper bound only; the digest it has checked.
    if u64::try_from(bytes.len())? != listed.length {
        bail!(
            "it has {} bytes, and {} are signed",
            bytes.len(),
            listed.length
        );
    }
    durable::write_file(&path, &bytes, Attributes::mode(0o644))?;
    Ok(())
}

/// One file name for each target name, with no separator in it.
fn file_name(name: &TargetName) -> String {
    url::form_urlencoded::byte_serialize(name.resolved().as_bytes()).collect()
}

fn is_there(path: &Path, listed: &Target) -> anyhow::Result<bool> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(u64::try_from(bytes.len())? == listed.length
            && Sha256Digest::of(&bytes).as_bytes()[..] == listed.hashes.sha256[..]),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}
