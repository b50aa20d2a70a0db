//! The tour: the main job on the embedded default, attacked and mended, with every claim checked.

mod stage;
mod steps;

use std::path::PathBuf;

use anyhow::Context as _;

use self::stage::Stage;
use super::signals::StopSignals;
use crate::output;

/// Plays the tour in a temporary directory. What it shows, it has checked: the first thing that is not so ends it.
///
/// # Errors
/// What was not so, with the place to look.
pub async fn demo(agent: PathBuf, keep: bool) -> anyhow::Result<()> {
    let directory = tempfile::Builder::new()
        .prefix("platform-demo-")
        .tempdir()
        .context("cannot make a directory for the tour")?;
    let path = directory.path().to_owned();
    let mut signals = StopSignals::listen()?;
    let mut stage = Stage::set(&path, agent).await?;
    let played = tokio::select! {
        played = steps::play(&mut stage) => played,
        () = signals.asked() => Err(anyhow::anyhow!("the tour was interrupted")),
    };
    stage.strike().await;
    if keep || played.is_err() {
        output::line(format!(
            "the tour's directory is kept: {}",
            directory.keep().display()
        ));
    }
    played?;
    output::line("\nevery step of the tour was as it should be");
    Ok(())
}
