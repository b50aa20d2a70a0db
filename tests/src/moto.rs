//! moto as a process: S3 and KMS as another implementation answers them.

mod desk;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use aws_sdk_s3::config::Credentials;
use ctl::context::{Context, Workspace};
use shared::store::{S3Store, aws_config_loader};
use shared::wrap::KmsWrap;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

pub use desk::{BUCKET, fake_agent, with_credentials};

use crate::tools;

/// The access key id that moto is asked with; it takes any.
pub const ACCESS_KEY: &str = "AKIAIOSFODNN7EXAMPLE";
/// The secret that goes with it.
pub const SECRET_KEY: &str = "any";
/// The region of everything in it.
pub const REGION: &str = "us-east-1";
/// How long it may take to start: Python on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A running moto; dropping it ends it.
#[derive(Debug)]
pub struct Moto {
    addr: SocketAddr,
    // Killed when it is dropped.
    _process: Child,
}

impl Moto {
    /// Starts moto on a free loopback port; none where it is not installed (see [`tools::find`]).
    ///
    /// # Errors
    /// A moto that does not start to listen.
    pub async fn start() -> anyhow::Result<Option<Self>> {
        let Some(program) = tools::find("moto_server") else {
            return Ok(None);
        };
        Self::launch(Command::new(program)).await.map(Some)
    }

    /// The same with what moto answers otherwise than AWS put right where Terraform's provider minds (`moto/serve.py` says
    /// what), and with requests that can be held, refused and read back in the directory `desk`; none where moto is not installed.
    ///
    /// # Errors
    /// As [`Moto::start`].
    pub async fn start_for_terraform(desk: &Path) -> anyhow::Result<Option<Self>> {
        let Some(python) = tools::python_with("moto") else {
            return Ok(None);
        };
        let mut command = Command::new(python);
        command
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/moto/serve.py"))
            .env("PLATFORM_MOTO_DESK", desk);
        Self::launch(command).await.map(Some)
    }

    async fn launch(mut command: Command) -> anyhow::Result<Self> {
        let mut process = command
            .args(["-H", "127.0.0.1", "-p", "0"])
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("moto_server cannot be started")?;
        let stderr = process.stderr.take().context("its standard error")?;
        let mut lines = BufReader::new(stderr).lines();
        let listening = async {
            while let Some(line) = lines.next_line().await? {
                if let Some((_, address)) = line.split_once("Running on http://") {
                    return Ok(address.trim().parse::<SocketAddr>()?);
                }
            }
            bail!("moto_server ended before it listened")
        };
        let addr = tokio::time::timeout(START, listening)
            .await
            .context("moto_server did not listen in time")??;
        // It logs each request: nobody reading would stop it at a full pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self {
            addr,
            _process: process,
        })
    }

    /// The address of all its services.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// An S3 client of it.
    pub async fn s3(&self) -> aws_sdk_s3::Client {
        let endpoint = self.endpoint();
        let loader = aws_config_loader(REGION, Some(&endpoint));
        let sdk = loader.credentials_provider(credentials()).load().await;
        let config = aws_sdk_s3::config::Builder::from(&sdk).force_path_style(true);
        aws_sdk_s3::Client::from_conf(config.build())
    }

    /// A KMS client of it.
    pub async fn kms(&self) -> aws_sdk_kms::Client {
        let endpoint = self.endpoint();
        let loader = aws_config_loader(REGION, Some(&endpoint));
        aws_sdk_kms::Client::new(&loader.credentials_provider(credentials()).load().await)
    }

    /// What [`Context::open`] gives, with the credentials at hand: a test must not set its own process's variables.
    ///
    /// # Errors
    /// An environment whose keys KMS does not wrap.
    pub async fn context(&self, workspace: Workspace) -> anyhow::Result<Context> {
        let environment = &workspace.environment;
        let key = environment.kms_key_id().context("an environment on AWS")?;
        let endpoint = self.endpoint();
        let loader = aws_config_loader(environment.region.as_str(), Some(&endpoint));
        let sdk = loader.credentials_provider(credentials()).load().await;
        let wrap = KmsWrap::new(self.kms().await, key.as_str().to_owned());
        Ok(Context {
            store: Arc::new(S3Store::new(&sdk, environment.secrets_bucket.as_str())),
            wrap: Arc::new(wrap),
            workspace,
        })
    }
}

fn credentials() -> Credentials {
    Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "moto")
}
