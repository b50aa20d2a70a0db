//! `dev up`: the store and the nodes, in the foreground.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use shared::names::GroupName;
use shared::wrap::LocalWrap;

use super::credentials::LocalCredentials;
use super::nodes::{Node, NodeSettings, find_agent};
use super::signals::StopSignals;
use super::store::{RunningStore, SecretKey, StoreConfig};
use crate::context::{Context, Workspace};
use crate::env::{COMPUTE, KeyWrap};
use crate::{keyring, output};

/// How often a node that ended is looked for.
const WATCH: Duration = Duration::from_secs(1);

/// What `dev up` is told.
#[derive(Debug, Clone, Default)]
pub struct UpOptions {
    /// The platform-agent binary.
    pub agent: Option<PathBuf>,
    /// Nodes of the secure group.
    pub secure: Option<u32>,
    /// Nodes of the compute group.
    pub compute: Option<u32>,
}

/// Starts the embedded store of an environment.
///
/// # Errors
/// A port in use, or a directory that cannot be used.
pub async fn start_store(
    workspace: &Workspace,
    listen: SocketAddr,
) -> anyhow::Result<RunningStore> {
    let state = workspace.state_directory();
    let credentials = LocalCredentials::read_or_create(&LocalCredentials::path(&state))?;
    let directory = state.join("store");
    let bucket = directory.join(workspace.environment.secrets_bucket.as_str());
    std::fs::create_dir_all(&bucket)
        .with_context(|| format!("cannot make {}", bucket.display()))?;
    if let KeyWrap::LocalFile { path } = &workspace.environment.key_wrap {
        LocalWrap::create_file_if_needed(&workspace.directory.join(path))?;
    }
    let config = StoreConfig {
        listen,
        directory,
        access_key: credentials.access_key,
        secret_key: SecretKey::from(credentials.secret_key.expose().to_owned()),
        region: workspace.environment.region.as_str().to_owned(),
    };
    Ok(RunningStore::start(config).await?)
}

/// Starts the nodes of every group; names are `GROUP-1`, `GROUP-2`, ….
///
/// # Errors
/// What could not be written or started.
pub async fn start_nodes(
    context: &Context,
    settings: &NodeSettings,
    count: impl Fn(&GroupName) -> u32,
) -> anyhow::Result<Vec<Node>> {
    let keyring = keyring::read_or_create(context).await?;
    let mut nodes = Vec::new();
    for group in &context.workspace.groups {
        let root = keyring
            .group(group)?
            .roots
            .first()
            .context("no root")?
            .clone();
        for n in 1..=count(group) {
            let name = format!("{group}-{n}");
            nodes.push(Node::start(
                &context.workspace,
                settings,
                group,
                &name,
                &root,
            )?);
        }
    }
    Ok(nodes)
}

/// The loopback address of the environment's store.
fn listen_address(workspace: &Workspace) -> anyhow::Result<SocketAddr> {
    let environment = &workspace.environment;
    let url = environment
        .endpoint_url
        .as_ref()
        .filter(|_| !environment.on_aws());
    let Some(url) = url else {
        return Err(crate::exit::mistake(format!(
            "environment {} is not an embedded one: it needs key_wrap = \"local\" and aws_endpoint_url",
            workspace.name
        )));
    };
    let address = url
        .socket_addrs(|| None)
        .ok()
        .and_then(|a| a.first().copied());
    match address {
        Some(address) if address.ip().is_loopback() => Ok(address),
        _ => Err(crate::exit::mistake(format!(
            "the embedded store listens on loopback only, and aws_endpoint_url is {url}"
        ))),
    }
}

/// Runs the store and the nodes until Ctrl-C, SIGTERM or the end of the terminal. A node that ends is started again, as systemd would;
/// one that ends with exit code 2 is not, and it is said why.
///
/// # Errors
/// What could not be started.
pub async fn up(workspace: Workspace, options: UpOptions) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen()?;
    let listen = listen_address(&workspace)?;
    let agent = find_agent(options.agent)?;
    let store = start_store(&workspace, listen).await?;
    let context = Context::of(workspace).await?;
    let settings = NodeSettings {
        agent,
        endpoint_url: store.endpoint().to_string(),
        poll_interval: context.workspace.environment.poll_interval,
    };
    let sizes = &context.workspace.environment.groups;
    let count = |group: &GroupName| {
        let given = match group.as_str() {
            COMPUTE => options.compute,
            _ => options.secure,
        };
        given.unwrap_or_else(|| sizes.get(group.as_str()).map_or(0, |s| s.min))
    };
    let mut nodes = start_nodes(&context, &settings, count).await?;
    let name = &context.workspace.name;
    let state = context.workspace.state_directory();
    output::line(format!("store    {}", store.endpoint()));
    for node in &nodes {
        output::line(format!(
            "node     {:<10} log {}",
            node.name,
            node.log().display()
        ));
    }
    output::line(format!(
        "from another terminal: platformctl publish -e {name}; platformctl status -e {name}"
    ));
    output::line(format!(
        "Ctrl-C ends everything; the state stays in {}",
        state.display()
    ));
    let watched = watch(&mut nodes, &mut signals).await;
    for node in &mut nodes {
        node.stop().await;
    }
    store.shutdown().await;
    watched?;
    output::line("ended");
    Ok(())
}

async fn watch(nodes: &mut [Node], signals: &mut StopSignals) -> anyhow::Result<()> {
    loop {
        // Cancel-safe: a signal stays pending, and the sleep holds no state.
        tokio::select! {
            () = signals.asked() => return Ok(()),
            () = tokio::time::sleep(WATCH) => {}
        }
        for node in nodes.iter_mut() {
            if let Some(ended) = node.ended() {
                output::note(node.start_again(ended)?);
            }
        }
        if nodes.is_empty() {
            bail!("there is no node to run");
        }
    }
}
