//! The service accounts' key, nodes that are passed over, and a predecessor that is not waited for.

use anyhow::{Context as _, ensure};
use platform_tests::scene::{COMPUTE, SECURE, Scene};
use serde_json::Value;
use shared::documents::Step;

use super::{Result, adopted, ctl, done, publish_and_adopt, refused};

const ROTATE: [&str; 3] = ["rotate", "ca", "service-accounts"];

fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    ROTATE.iter().chain(more).copied().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_is_passed_over_by_name_and_old_tokens_are_waited_for() -> Result {
    let scene = Scene::set().await?;
    let operator = &scene.operator;
    let mut stays = scene.node(SECURE, "secure-1")?;
    let mut goes = scene.node(SECURE, "secure-2")?;
    let mut compute = scene.node(COMPUTE, "compute-1")?;
    for node in [&mut stays, &mut goes, &mut compute] {
        node.start()?;
        node.until_release(1).await?;
    }
    for node in [&stays, &goes, &compute] {
        adopted(&scene, node).await?;
    }
    let step = async || {
        let pki = operator.keyring().await?.content.pki.context("a PKI")?;
        anyhow::Ok(pki.service_accounts.step())
    };

    done(operator, &ROTATE).await?;
    ensure!(step().await? == Step::Staged);
    goes.kill().await?;
    publish_and_adopt(&scene, &[&stays]).await?;

    // Only the node that is named is passed over, and nothing that was not published.
    let said = refused(operator, &ROTATE).await?;
    ensure!(said.contains("secure/secure-2 reports release 1"), "{said}");
    let said = refused(operator, &with(&["--without", "secure-1"])).await?;
    ensure!(said.contains("secure/secure-2 reports release 1"), "{said}");
    let said = done(operator, &with(&["--without", "secure-2"])).await?;
    ensure!(
        said.contains("passed over: secure/secure-2 reports release 1"),
        "{said}"
    );
    ensure!(step().await? == Step::Promoted);
    let said = refused(operator, &with(&["--without", "secure-2"])).await?;
    ensure!(said.contains("not published yet"), "{said}");
    publish_and_adopt(&scene, &[&stays]).await?;

    // Tokens that the old key has signed are good for two days still; JSON says what the next step waits for.
    let said = refused(operator, &with(&["--without", "secure-2"])).await?;
    ensure!(
        said.contains("may be in use until") && said.contains("--without-waiting"),
        "{said}"
    );
    let (code, json) = ctl(operator, &["rotate", "ca", "--output", "json"]).await?;
    ensure!(code == 0, "{json}");
    let all: Vec<Value> = serde_json::from_str(&json)?;
    let row = all.iter().find(|r| r["name"] == "service-accounts");
    let row = row.context("a row")?;
    ensure!(
        row["step"] == "promoted" && row["next"] == "retire",
        "{row}"
    );
    let waits = row["waits_for"].as_array().context("obstacles")?;
    ensure!(waits.len() == 2, "the node and the time: {row}");

    let both = with(&["--without", "secure-2", "--without-waiting"]);
    let said = done(operator, &both).await?;
    ensure!(said.contains("trusted no more"), "{said}");
    publish_and_adopt(&scene, &[&stays]).await?;
    ensure!(step().await? == Step::Steady);

    // The one that was gone comes back, and goes straight to what is published now.
    goes.start()?;
    adopted(&scene, &goes).await
}
