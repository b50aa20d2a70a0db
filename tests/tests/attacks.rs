//! Plays `tests/fixtures/attacks` against the real platform-agent: each attack is refused with its own error, and
//! nothing below the node's /etc/kubernetes is touched.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use ctl::context::{Context, Workspace};
use ctl::status::read_group;
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use platform_tests::attacks::{self, Attack, ENVIRONMENT, Expect, GROUP, Named, TABLE};
use platform_tests::victim::{Snapshot, Victim, find_agent};
use shared::names::GroupName;
use shared::wrap::LocalWrap;

/// Attacks played at once.
const AT_ONCE: usize = 4;

/// Attacks that may expect what another one does, because the same check stops both: `after-the-stream` and
/// `after-the-archive` go on after their end.
const SAME_ERROR: [&str; 1] = ["after-the-stream"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_attack_is_refused_with_its_own_error() {
    let all = attacks::all().unwrap();
    assert!(all.len() > 50, "only {} fixtures", all.len());
    let agent = find_agent().unwrap();
    let agent = agent.as_path();
    let mut failed: Vec<String> = stream::iter(&all)
        .map(|attack| async move {
            let played = match &attack.description.expect {
                Expect::Disbelieved { node, text } => disbelieved(attack, node, text).await,
                _ => adopted_or_refused(attack, agent).await,
            };
            played.err().map(|e| format!("{}: {e:#}", attack.name))
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    failed.sort();
    assert!(
        failed.is_empty(),
        "{} of {} attacks did not end as they must:\n\n{}",
        failed.len(),
        all.len(),
        failed.join("\n\n")
    );
}

async fn adopted_or_refused(attack: &Attack, agent: &Path) -> anyhow::Result<()> {
    let directory = &attack.directory;
    let victim = Victim::new(&directory.join("node"), agent).await?;
    let earlier = directory.join("before");
    if earlier.is_dir() {
        victim.serve(&earlier)?;
        let ran = victim.once().await?;
        ensure!(
            ran.code == Some(0),
            "the release before was not adopted: {ran}"
        );
    }
    for file in &attack.description.cut {
        victim
            .cut(file)
            .with_context(|| format!("cannot cut {file}"))?;
    }
    for file in &attack.description.remove {
        let path = victim.directory().join(file);
        fs::remove_file(&path).with_context(|| format!("cannot remove {file}"))?;
    }
    victim.forget_status()?;
    let before = Snapshot::take(&victim.root())?;
    victim.serve(&directory.join("bucket"))?;
    let ran = victim.once().await?;
    let after = Snapshot::take(&victim.root())?;
    let strays = victim.strays()?;
    ensure!(
        strays.is_empty(),
        "it wrote outside of its directories: {strays:?}"
    );
    ensure!(
        !Path::new("/etc/escaped").exists(),
        "it wrote /etc/escaped on this machine"
    );
    let status = victim.status()?;
    match &attack.description.expect {
        Expect::Adopted { release } => {
            ensure!(ran.code == Some(0), "not adopted: {ran}");
            let status = status.context("there is no status object")?;
            ensure!(
                status.error.is_none(),
                "the status has an error: {status:?}"
            );
            let now = status.release.map(|r| r.get());
            ensure!(now == Some(*release), "the status says release {now:?}");
            ensure!(after != before, "adopted, and yet nothing was written");
        }
        Expect::Refused {
            text,
            status: named,
        } => {
            ensure!(ran.code == Some(1), "it must exit with 1: {ran}");
            ensure!(
                ran.output.contains(text),
                "the output does not say {text:?}: {ran}"
            );
            let changes = before.changes(&after);
            ensure!(
                changes.is_empty(),
                "refused, and yet it touched {changes:?}"
            );
            match (named, status) {
                (Some(named), Some(status)) => {
                    let error = status.error.context("its status has no error")?;
                    let found = Named {
                        phase: error.phase.to_string(),
                        kind: error.kind,
                    };
                    ensure!(found == *named, "its status says {found:?}, not {named:?}");
                    ensure!(
                        error.message.contains(text),
                        "its status says {:?}",
                        error.message
                    );
                }
                (Some(_), None) => bail!("there is no status object: {ran}"),
                // Without its state it can't say whose status that would be.
                (None, _) => {}
            }
        }
        Expect::Disbelieved { .. } => bail!("that one is for platformctl"),
    }
    victim.end().await;
    Ok(())
}

async fn disbelieved(attack: &Attack, node: &str, text: &str) -> anyhow::Result<()> {
    let agent = Path::new("/nonexistent");
    let victim = Victim::new(&attack.directory.join("node"), agent).await?;
    victim.serve(&attack.directory.join("bucket"))?;
    let context = operator(&victim).await?;
    let keyring = ctl::keyring::read(&context).await?.context("no keyring")?;
    let group = GroupName::new(GROUP)?;
    let reports = read_group(&context, keyring.group(&group)?, &group).await?;
    let now = Timestamp::now();
    let (false_ones, others): (Vec<_>, Vec<_>) = reports.iter().partition(|r| r.node == node);
    let [report] = false_ones.as_slice() else {
        bail!("{} reports of {node}, not one", false_ones.len());
    };
    ensure!(report.status.is_err(), "{node} is believed");
    let objection = report
        .objection(None, now)
        .context("there is no objection")?;
    ensure!(objection.contains(text), "the objection is {objection:?}");
    ensure!(!others.is_empty(), "there is no genuine report beside it");
    for other in others {
        ensure!(
            other.status.is_ok(),
            "the genuine report of {} is not believed",
            other.node
        );
    }
    victim.end().await;
    Ok(())
}

/// platformctl's view of the bucket under attack.
async fn operator(victim: &Victim) -> anyhow::Result<Context> {
    let file = format!("{ENVIRONMENT}.tfvars");
    let environments = Path::new(env!("CARGO_MANIFEST_DIR")).join("../environments");
    let environment = ctl::env::load(&environments.join(file))?;
    Ok(Context {
        workspace: Workspace::of(victim.directory(), environment)?,
        store: Arc::new(victim.operators_store().await),
        wrap: Arc::new(LocalWrap::from_file(&victim.wrap_key())?),
    })
}

#[tokio::test]
async fn an_attack_that_were_adopted_would_be_noticed() {
    let all = attacks::all().unwrap();
    let mut attack = all.into_iter().find(|a| a.name == "genuine").unwrap();
    attack.description.expect = Expect::Refused {
        text: String::new(),
        status: None,
    };
    let noticed = adopted_or_refused(&attack, &find_agent().unwrap()).await;
    let error = noticed.unwrap_err().to_string();
    assert!(error.contains("it must exit with 1"), "{error}");
}

#[test]
fn the_table_names_exactly_the_directories() {
    let table = fs::read_to_string(attacks::directory().join(TABLE)).unwrap();
    let all = attacks::all().unwrap();
    let there: Vec<&str> = all.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(attacks::names_in_table(&table), there);
}

#[test]
fn no_two_attacks_expect_the_same_error() {
    let mut said = BTreeSet::new();
    for attack in attacks::all().unwrap() {
        let key = match &attack.description.expect {
            Expect::Adopted { .. } => continue,
            Expect::Refused { text, status } => {
                let named = status.as_ref().map(|s| (s.phase.clone(), s.kind.clone()));
                (named, text.clone())
            }
            Expect::Disbelieved { text, .. } => (None, text.clone()),
        };
        let text = key.1.clone();
        assert!(!text.is_empty(), "{} expects nothing", attack.name);
        let fresh = said.insert(key);
        assert!(
            fresh || SAME_ERROR.contains(&attack.name.as_str()),
            "{} expects what another attack does: {text}",
            attack.name
        );
    }
}

#[test]
fn the_fixtures_stay_small() {
    fn bytes(directory: &Path) -> u64 {
        let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
        entries
            .map(|entry| match entry.metadata().unwrap() {
                m if m.is_dir() => bytes(&entry.path()),
                m => m.len(),
            })
            .sum()
    }
    let total = bytes(&attacks::directory());
    assert!(total < 1_500_000, "the fixtures have {total} bytes");
}
