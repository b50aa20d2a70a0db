//! `platformctl init`.

use std::path::Path;

use anyhow::Context as _;
use clap::Args;
use shared::durable::{self, Attributes};

use crate::artifact;
use crate::exit::{Outcome, mistake};
use crate::infra;
use crate::output;
use crate::render::EMBEDDED;
use crate::userdata;

const ENVIRONMENTS: [(&str, &str); 2] = [
    (
        "environments/env.tfvars.sample",
        include_str!("../../../environments/env.tfvars.sample"),
    ),
    (
        "environments/local.tfvars",
        include_str!("../../../environments/local.tfvars"),
    ),
];

#[derive(Debug, Args)]
pub(super) struct InitArgs {}

impl InitArgs {
    pub(super) fn run(self, directory: &Path) -> anyhow::Result<Outcome> {
        let manifests = EMBEDDED.iter().map(|(p, t)| (format!("manifests/{p}"), *t));
        let cloudinit = userdata::EMBEDDED
            .iter()
            .map(|(p, t)| (format!("cloudinit/{p}"), *t));
        let terraform = infra::EMBEDDED
            .iter()
            .map(|(p, t)| (format!("terraform/{p}"), *t));
        let environments = ENVIRONMENTS.iter().map(|(p, t)| ((*p).to_owned(), *t));
        let artifacts = artifact::sample();
        let sample = [(artifact::SAMPLE.to_owned(), artifacts.as_str())];
        let files: Vec<(String, &str)> = environments
            .chain(sample)
            .chain(manifests)
            .chain(cloudinit)
            .chain(terraform)
            .collect();
        let there: Vec<&str> = files
            .iter()
            .filter(|(p, _)| directory.join(p).exists())
            .map(|(p, _)| p.as_str())
            .collect();
        if !there.is_empty() {
            return Err(mistake(format!(
                "{} is set up already, and nothing in it was changed; it has {}",
                directory.display(),
                there.join(", ")
            )));
        }
        for (path, text) in &files {
            let path = directory.join(path);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)
                    .with_context(|| format!("cannot make {}", parent.display()))?;
            }
            durable::write_file(&path, text.as_bytes(), Attributes::mode(0o644))?;
            output::line(format!("wrote {}", path.display()));
        }
        output::line(
            "next: copy environments/env.tfvars.sample to environments/NAME.tfvars and fill it in, or try \
             `platformctl dev up`",
        );
        Ok(Outcome::Done)
    }
}
