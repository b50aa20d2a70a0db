//! On a machine of AWS the agent is whom the instance's role says, and nobody else.

use std::fs;

use anyhow::ensure;
use platform_tests::machine::{Machine, REGION};
use platform_tests::node::PATIENCE;
use platform_tests::scene::{SECURE, Scene, until};

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_signs_as_the_instances_role_whatever_lies_about() -> anyhow::Result<()> {
    let scene = Scene::set().await?;
    let machine = Machine::start().await?;
    let mut node = scene.node_at(SECURE, "secure-1", &machine.endpoint())?;
    let config = fs::read_to_string(node.config())?;
    let without = |line: &&str| !line.starts_with("credentials_file");
    let config: Vec<&str> = config.lines().filter(without).collect();
    let config = config.join("\n").replace("us-east-1", REGION);
    fs::write(node.config(), config)?;

    // Other credentials are at hand: the role's count. The services check each signature and its token.
    node.start_with(&[
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", &machine.endpoint()),
        ("AWS_ACCESS_KEY_ID", "AKIAOTHEREXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "of-somebody-else"),
        ("AWS_PROFILE", "somebody"),
    ])?;
    until("two polls as the role", PATIENCE, || {
        machine.asked("groups/secure/metadata/timestamp.json") >= 2
    })
    .await?;
    ensure!(machine.asked("security-credentials/platform-secure") == 1);
    let problems = machine.state().problems.clone();
    ensure!(problems.is_empty(), "{problems:?}");
    Ok(())
}
