//! `platformctl kubeconfig`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use jiff::{SignedDuration, Timestamp};

use super::EnvironmentArg;
use crate::context::Context;
use crate::exit::{Outcome, mistake};
use crate::keyring;
use crate::kubeconfig::{issue_admin, merge_target, parse_lifetime, write};
use crate::output;
use crate::pki::Names;
use crate::ssh::home_directory;

/// The name of the file below the environment's state directory.
const FILE: &str = "kubeconfig";

#[derive(Debug, Args)]
#[command(
    after_help = "The certificate is issued now, for the cluster's administrators, and cannot be called back before it ends.\n\
                  `eval \"$(platformctl kubeconfig -e NAME)\"` sets KUBECONFIG to a file of its own."
)]
pub(super) struct KubeconfigArgs {
    #[command(flatten)]
    environment: EnvironmentArg,
    /// Merge it into the first file of $KUBECONFIG, or ~/.kube/config, and make it the current context.
    #[arg(long, conflicts_with = "output")]
    merge: bool,
    /// Where to; `-` is standard output, with the private key in it. By default .platform/NAME/kubeconfig below the
    /// directory.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How long it is good for: 5m to 7d.
    #[arg(long, value_name = "TIME", default_value = "12h", value_parser = parse_lifetime)]
    lifetime: SignedDuration,
}

impl KubeconfigArgs {
    pub(super) async fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let context = Context::open(directory, &self.environment.environment).await?;
        let workspace = &context.workspace;
        if !workspace.environment.on_aws() {
            return Err(mistake(format!(
                "environment {} has no API server: its nodes are processes of `platformctl dev up`",
                workspace.name
            )));
        }
        let keyring = keyring::read_required(&context).await?;
        let pki = keyring.content.pki.as_ref();
        let pki =
            pki.ok_or_else(|| mistake("the keyring holds no certificates yet: publish first"))?;
        let names = Names::of(&workspace.environment);
        let issued = issue_admin(pki, &names, self.lifetime, Timestamp::now())?;
        if self.output.as_deref() == Some(Path::new("-")) {
            output::line(issued.text().trim_end());
            return Ok(Outcome::Done);
        }
        let path = match (self.output, self.merge) {
            (Some(path), _) => path,
            (None, true) => merge_target(
                std::env::var_os("KUBECONFIG").as_deref(),
                &home_directory()?,
            ),
            (None, false) => workspace.state_directory().join(FILE),
        };
        let lost_comments = write(&path, &issued, self.merge)?;
        output::note(format!(
            "wrote {}: context {} at {}, until {:.0}",
            path.display(),
            issued.name,
            issued.server,
            issued.ends
        ));
        if lost_comments {
            output::note(
                "its layout is one that could not be amended in place, so its comments are gone",
            );
        }
        if !self.merge {
            let path = std::fs::canonicalize(&path)
                .with_context(|| format!("cannot find {}", path.display()))?;
            output::line(format!("export KUBECONFIG={}", quoted(&path)));
        }
        Ok(Outcome::Done)
    }
}

/// A path as one word of a shell's.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word() {
        assert_eq!(quoted(Path::new("/a b/it's")), r"'/a b/it'\''s'");
    }
}
