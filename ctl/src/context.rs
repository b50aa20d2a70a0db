//! What a verb works on: the environment, its bucket and its key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use aws_credential_types::Credentials;
use shared::names::{EnvironmentName, GroupName};
use shared::store::{ObjectStore, S3Store, SdkConfig, aws_config_loader};
use shared::wrap::{KeyWrap, KmsWrap, LocalWrap};

use crate::dev::credentials::LocalCredentials;
use crate::env::{self, Environment, SECURE};
use crate::patient_wrap::PatientWrap;

/// The name of the embedded environment.
pub const LOCAL: &str = "local";
/// Its file, as built in: a directory without one of its own still has the embedded default.
const EMBEDDED_LOCAL: &str = include_str!("../../environments/local.tfvars");

/// An environment with its working directory.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// Where `environments/`, `manifests/` and `secrets/` are looked for.
    pub directory: PathBuf,
    /// The validated environment.
    pub environment: Environment,
    /// Its name.
    pub name: EnvironmentName,
    /// Its groups, in the order of publishing: secure first.
    pub groups: Vec<GroupName>,
}

/// A workspace with access to its bucket and its key.
#[derive(Debug, Clone)]
pub struct Context {
    /// The workspace.
    pub workspace: Workspace,
    /// The secrets bucket.
    pub store: Arc<dyn ObjectStore>,
    /// What wraps and unwraps identities.
    pub wrap: Arc<dyn KeyWrap>,
}

// === impl Workspace ===

impl Workspace {
    /// Reads `environments/NAME.tfvars` below `directory`.
    ///
    /// # Errors
    /// [`env::EnvError`] with every mistake.
    pub fn open(directory: &Path, name: &str) -> anyhow::Result<Self> {
        let environments = directory.join("environments");
        let local = environments.join(format!("{LOCAL}.tfvars"));
        let environment = if name == LOCAL && !local.exists() {
            env::parse(EMBEDDED_LOCAL, &local)?
        } else {
            env::load(&env::find(&environments, name)?)?
        };
        Self::of(directory, environment)
    }

    /// The workspace of an environment that was read already.
    ///
    /// # Errors
    /// A name that the release format does not take.
    pub fn of(directory: &Path, environment: Environment) -> anyhow::Result<Self> {
        let name = EnvironmentName::new(environment.name.as_str())?;
        let mut groups = environment
            .groups
            .keys()
            .map(|g| GroupName::new(g.as_str()))
            .collect::<Result<Vec<_>, _>>()?;
        groups.sort_by_key(|g| (g.as_str() != SECURE, g.clone()));
        Ok(Self {
            directory: directory.to_owned(),
            environment,
            name,
            groups,
        })
    }

    /// The directory for what platformctl remembers of this environment; nothing in it is needed.
    #[must_use]
    pub fn state_directory(&self) -> PathBuf {
        self.directory.join(".platform").join(self.name.as_str())
    }

    /// The groups named, or all; each name must be one of the environment's.
    ///
    /// # Errors
    /// A [`crate::exit::Mistake`] naming every unknown group.
    pub fn select(&self, named: &[String]) -> anyhow::Result<Vec<GroupName>> {
        let unknown: Vec<&str> = named
            .iter()
            .map(String::as_str)
            .filter(|n| !self.groups.iter().any(|g| g.as_str() == *n))
            .collect();
        if !unknown.is_empty() {
            let known: Vec<&str> = self.groups.iter().map(GroupName::as_str).collect();
            return Err(crate::exit::mistake(format!(
                "environment {} has no group {}; its groups are {}",
                self.name,
                unknown.join(", "),
                known.join(", ")
            )));
        }
        let wanted = |g: &&GroupName| named.is_empty() || named.iter().any(|n| n == g.as_str());
        Ok(self.groups.iter().filter(wanted).cloned().collect())
    }
}

// === impl Context ===

impl Context {
    /// Opens the environment `name` with its bucket and key. Nothing is asked of either yet.
    ///
    /// # Errors
    /// Every mistake of the environment's file; a missing key file; credentials that the embedded store did not write.
    pub async fn open(directory: &Path, name: &str) -> anyhow::Result<Self> {
        Self::of(Workspace::open(directory, name)?).await
    }

    /// The same for a workspace that is open already.
    ///
    /// # Errors
    /// As [`Context::open`].
    pub async fn of(workspace: Workspace) -> anyhow::Result<Self> {
        let environment = &workspace.environment;
        let sdk = sdk_config(&workspace).await?;
        let store = S3Store::new(&sdk, environment.secrets_bucket.as_str());
        let wrap: Arc<dyn KeyWrap> = match &environment.key_wrap {
            env::KeyWrap::Kms { key_id } => {
                let kms = KmsWrap::new(aws_sdk_kms::Client::new(&sdk), key_id.as_str().to_owned());
                Arc::new(PatientWrap::new(kms, key_id.as_str()))
            }
            env::KeyWrap::LocalFile { path } => {
                let path = workspace.directory.join(path);
                Arc::new(LocalWrap::from_file(&path).with_context(|| {
                    format!(
                        "environment {} keeps its secrets under the key in {}; `platformctl dev up` makes one where \
                         there is nothing yet, and without the old one nothing sealed with it can be read",
                        workspace.name,
                        path.display()
                    )
                })?)
            }
        };
        Ok(Self {
            workspace,
            store: Arc::new(store),
            wrap,
        })
    }

    /// The recovery recipients as text.
    #[must_use]
    pub fn recovery_recipients(&self) -> Vec<String> {
        self.workspace
            .environment
            .recovery_recipients
            .iter()
            .map(ToString::to_string)
            .collect()
    }
}

/// What every AWS client of an environment is made from. Nothing is asked yet: bad credentials show with the first
/// request.
///
/// # Errors
/// Credentials that the embedded store did not write.
pub async fn sdk_config(workspace: &Workspace) -> anyhow::Result<SdkConfig> {
    let environment = &workspace.environment;
    let endpoint = environment.endpoint_url.as_ref().map(url::Url::as_str);
    let mut loader = aws_config_loader(environment.region.as_str(), endpoint);
    if environment.on_aws() {
        if let Some(profile) = &environment.profile {
            loader = loader.profile_name(profile.as_str());
        }
    } else {
        let path = LocalCredentials::path(&workspace.state_directory());
        let local = LocalCredentials::read(&path).with_context(|| {
            format!(
                "environment {} is served by `platformctl dev up`, which has not run in {}",
                workspace.name,
                workspace.directory.display()
            )
        })?;
        loader = loader.credentials_provider(Credentials::new(
            local.access_key.clone(),
            local.secret_key.expose(),
            None,
            None,
            "platform-local",
        ));
    }
    Ok(loader.load().await)
}
