//! Attacks around the bundle: what the targets list, the wrapped identity, and the encrypted object.

use shared::bundle::new_identity;
use shared::wrap::{KeyWrap as _, WrapMethod};

use crate::fixture::{Fixture, NEXT, Stage};

pub async fn attacks(stage: &Stage) -> anyhow::Result<Vec<Fixture>> {
    let mut all = listed(stage).await?;
    all.extend(identities(stage).await?);
    all.extend(encrypted_objects(stage).await?);
    Ok(all)
}

async fn listed(stage: &Stage) -> anyhow::Result<Vec<Fixture>> {
    let mut of_compute = stage.next().await?;
    of_compute.custom.group = stage.compute.group.clone();
    let mut of_production = stage.next().await?;
    of_production.custom.environment = "production".parse()?;
    Ok(vec![
        stage.refused_later(
            "bundle-of-another-group",
            "The targets list a bundle of another group of the same environment.",
            stage.publish_next(&of_compute).await?,
            (
                "verify",
                "foreign",
                "release-4.bundle belongs to local/compute, not to local/secure",
            ),
        ),
        stage.refused_later(
            "bundle-of-another-environment",
            "The targets list a bundle of the same group of another environment.",
            stage.publish_next(&of_production).await?,
            (
                "verify",
                "foreign",
                "release-4.bundle belongs to production/secure, not to local/secure",
            ),
        ),
    ])
}

async fn identities(stage: &Stage) -> anyhow::Result<Vec<Fixture>> {
    let wrap = &stage.publisher.wrap;
    let mut of_release = stage.next().await?;
    let context = stage.publisher.context(NEXT - 1);
    of_release.custom.identity = wrap.wrap(&of_release.identity, &context).await?;
    let mut of_group = stage.next().await?;
    let context = stage.compute.context(NEXT);
    of_group.custom.identity = wrap.wrap(&of_group.identity, &context).await?;
    let mut of_nothing = stage.next().await?;
    let context = stage.publisher.context(NEXT);
    of_nothing.custom.identity = wrap.wrap(&new_identity(), &context).await?;
    let mut of_kms = stage.next().await?;
    of_kms.custom.identity.method = WrapMethod::AwsKms;
    Ok(vec![
        stage.refused_later(
            "identity-of-another-release",
            "The bundle comes with the wrapped identity of another release.",
            stage.publish_next(&of_release).await?,
            (
                "decrypt",
                "wrong_context",
                "the wrapped identity belongs to local/secure/3, not to local/secure/4",
            ),
        ),
        stage.refused_later(
            "identity-of-another-group",
            "The bundle comes with an identity that was wrapped for another group.",
            stage.publish_next(&of_group).await?,
            (
                "decrypt",
                "wrong_context",
                "the wrapped identity belongs to local/compute/4, not to local/secure/4",
            ),
        ),
        stage.refused_later(
            "identity-of-another-bundle",
            "The wrapped identity is in order, but does not open the bundle.",
            stage.publish_next(&of_nothing).await?,
            ("decrypt", "decrypt", "cannot decrypt"),
        ),
        stage.refused_later(
            "identity-by-another-method",
            "The wrapped identity claims to be one of KMS on a node that has a key file.",
            stage.publish_next(&of_kms).await?,
            (
                "decrypt",
                "wrong_key",
                "was wrapped by aws-kms, but this side is set up for local-file",
            ),
        ),
    ])
}

async fn encrypted_objects(stage: &Stage) -> anyhow::Result<Vec<Fixture>> {
    let next = stage.next().await?;
    let genuine = stage.publish_next(&next).await?;
    let key = next.key(&stage.publisher.group);
    let mut flipped = next.bytes.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    let changed = |bytes: &[u8]| {
        let mut bucket = genuine.clone();
        bucket.put(key.clone(), bytes);
        bucket
    };
    Ok(vec![
        stage.refused_later(
            "flipped-byte",
            "One bit of the encrypted bundle is flipped.",
            changed(&flipped),
            (
                "fetch",
                "mismatch",
                "the bundle that the store gave is not the signed one: its digest is",
            ),
        ),
        stage.refused_later(
            "cut-bundle",
            "The encrypted bundle is cut off in the middle.",
            changed(&next.bytes[..middle]),
            (
                "fetch",
                "mismatch",
                "the bundle that the store gave is not the signed one: ",
            ),
        ),
        stage.refused_later(
            "endless-bundle",
            "The encrypted bundle goes on after its signed length.",
            changed(&[next.bytes.clone(), vec![0; 4096]].concat()),
            ("fetch", "too_large", "the object is longer than its limit"),
        ),
    ])
}
