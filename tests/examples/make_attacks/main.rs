//! Makes `tests/fixtures/attacks`: `cargo run -p platform-tests --example make_attacks` replaces it.
//!
//! Every key in it is made here and trusted by nothing else. What the attacks build on is genuine: made by the
//! platform's own code, or by hand where that code refuses to make it. Nothing that must not expire does before 2099.

mod archive;
mod bundle;
mod content;
mod content_attacks;
mod fixture;
mod metadata;
mod publisher;
mod status;
mod tarball;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use platform_tests::attacks::{self, Expect, TABLE};
use shared::wrap::LocalWrap;

use fixture::{Fixture, NEXT, Stage};

const ABOUT: &str = "\
# Attacks

One directory an attack on a node, and on what `platformctl status` is told. `tests/tests/attacks.rs` plays them against
the real platform-agent: each must be refused with its own error before the first byte is written. `genuine*` are no
attacks: they are adopted, which shows that the suite can tell the difference.

Everything here is generated: `cargo run -p platform-tests --example make_attacks` replaces all of it, this file
included. The keys were made for this directory, are in it in clear, and are trusted by nothing else: never use them.

- `attack.toml`: what the attack does and how it must end (phase and kind as the agent names them, and a part of its error)
- `bucket/`: the objects of the secrets bucket as the attacker left it
- `before/`: where the attack is on a node that has a release: the bucket that the node adopts first
- `node/`: what the machine was installed with: the trusted root and the key file that unwraps identities

A file that `attack.toml` lists under `cut` is cut off in the middle, one under `remove` removed, after the node has adopted
`before/`: it is the agent's own file, so it always has the format of the day.

| attack | what it does | refused in, as | the error says |
| --- | --- | --- | --- |
";

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let scratch = tempfile::tempdir()?;
    let key = scratch.path().join("wrap.key");
    LocalWrap::create_file_if_needed(&key)?;
    let wrap = Arc::new(LocalWrap::from_file(&key)?);
    let stage = Stage::new(&wrap, fs::read(&key)?).await?;

    let mut all = genuine(&stage).await?;
    all.extend(metadata::attacks(&stage).await?);
    all.extend(bundle::attacks(&stage).await?);
    all.extend(archive::attacks(&stage).await?);
    all.extend(content_attacks::attacks(&stage).await?);
    all.extend(status::attacks(&stage).await?);
    all.sort_by_key(|fixture| fixture.name);
    write(&attacks::directory(), &all)?;
    println!(
        "made {} directories in {}",
        all.len(),
        attacks::directory().display()
    );
    Ok(())
}

/// No attacks: what the node must adopt.
async fn genuine(stage: &Stage) -> anyhow::Result<Vec<Fixture>> {
    let bucket = stage.publish_next(&stage.next().await?).await?;
    let adopted = || Expect::Adopted { release: NEXT };
    let does = "Nothing: a genuine release for a node that has none.";
    let fresh = stage.fixture("genuine", does, bucket.clone(), adopted());
    let does = "Nothing: a genuine release for a node that has the one before.";
    let update = Fixture {
        before: Some(stage.before.clone()),
        ..stage.fixture("genuine-update", does, bucket, adopted())
    };
    let rotated = stage.publisher.rotated().await?;
    let release = rotated.release(NEXT, &stage.changed).await?;
    let does = "Nothing: a genuine release signed with new keys, and the root that names them.";
    let rotation = Fixture {
        before: Some(stage.before.clone()),
        ..stage.fixture(
            "genuine-rotation",
            does,
            rotated.publish(NEXT, &[&release]).await?,
            adopted(),
        )
    };
    Ok(vec![fresh, update, rotation])
}

fn write(directory: &Path, all: &[Fixture]) -> anyhow::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot remove {}", directory.display()));
        }
        _ => fs::create_dir_all(directory)?,
    }
    let mut table = ABOUT.to_owned();
    for fixture in all {
        fixture
            .write(directory)
            .with_context(|| format!("cannot write {}", fixture.name))?;
        table.push_str(&fixture.row());
    }
    fs::write(directory.join(TABLE), table)?;
    Ok(())
}
