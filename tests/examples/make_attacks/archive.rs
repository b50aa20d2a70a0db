//! Attacks inside the bundle's archive: genuinely signed and encrypted, for the publisher's keys are stolen or its code is
//! wrong.

use serde_json::{Value, json};
use shared::digest::Sha256Digest;
use shared::limits;
use tar::EntryType;

use crate::fixture::{Fixture, NEXT, Stage};
use crate::tarball::{Entry, archive, bundle, compress, compress_with_large_window};

pub async fn attacks(stage: &Stage) -> anyhow::Result<Vec<Fixture>> {
    let mut all = entries(stage).await?;
    all.extend(sizes(stage).await?);
    all.extend(indexes(stage).await?);
    Ok(all)
}

/// The genuine index, and the genuine files with one entry more in the archive.
async fn entries(stage: &Stage) -> anyhow::Result<Vec<Fixture>> {
    let victim = b"manifests/kube-scheduler.yaml";
    let long = format!("manifests/{}.yaml", "a".repeat(120));
    let evil: Vec<(&'static str, &'static str, Entry<'_>, &'static str)> = vec![
        (
            "dot-dot-name",
            "An entry's name climbs out of the node's directory with `..`.",
            Entry::file(b"manifests/../../../escaped", b"x"),
            "no '.' or '..' component",
        ),
        (
            "absolute-name",
            "An entry has an absolute name.",
            Entry::file(b"/etc/escaped", b"x"),
            "relative, so no leading slash",
        ),
        (
            "non-utf8-name",
            "An entry's name is not UTF-8.",
            Entry::file(b"manifests/\xff\xfe.yaml", b"x"),
            "has a name that is not UTF-8",
        ),
        (
            "hidden-name",
            "An entry's name begins with a dot, as the agent's own temporaries do.",
            Entry::file(b"manifests/.platform-1", b"x"),
            "no component begins with a dot",
        ),
        (
            "foreign-place",
            "An entry lies outside the places that a release has.",
            Entry::file(b"systemd/evil.service", b"x"),
            "one of manifests/NAME",
        ),
        (
            "symlink",
            "An entry is a symbolic link to a file of the host.",
            Entry::link(b"manifests/link.yaml", EntryType::Symlink, b"/etc/shadow"),
            "is a symbolic link, not a regular file",
        ),
        (
            "hard-link",
            "An entry is a hard link to a file of the host.",
            Entry::link(b"manifests/link.yaml", EntryType::Link, b"/etc/shadow"),
            "is a hard link, not a regular file",
        ),
        (
            "character-device",
            "An entry is a character device.",
            Entry::special(b"manifests/null.yaml", EntryType::Char),
            "is a character device, not a regular file",
        ),
        (
            "block-device",
            "An entry is a block device.",
            Entry::special(b"manifests/disk.yaml", EntryType::Block),
            "is a block device, not a regular file",
        ),
        (
            "fifo",
            "An entry is a FIFO, on which kubelet would wait for ever.",
            Entry::special(b"manifests/pipe.yaml", EntryType::Fifo),
            "is a FIFO, not a regular file",
        ),
        (
            "directory",
            "An entry is a directory.",
            Entry::special(b"manifests/directory", EntryType::Directory),
            "is a directory, not a regular file",
        ),
        (
            "gnu-long-name",
            "A GNU extension entry gives the next entry another name.",
            Entry {
                kind: EntryType::GNULongName,
                ..Entry::file(b"././@LongLink", long.as_bytes())
            },
            "is a GNU long name, not a regular file",
        ),
        (
            "pax-header",
            "A pax header gives the next entry another name.",
            Entry {
                kind: EntryType::XHeader,
                ..Entry::file(b"PaxHeaders/x", b"26 path=manifests/b.yaml\n\n")
            },
            "is a pax header, not a regular file",
        ),
        (
            "duplicate-name",
            "Two entries have one name, the second with another content.",
            Entry::file(victim, b"x"),
            "manifests/kube-scheduler.yaml is in the bundle twice",
        ),
        (
            "unlisted-entry",
            "An entry is in the archive and not in the index.",
            Entry::file(b"manifests/unlisted.yaml", b"x"),
            "manifests/unlisted.yaml is not listed in the index",
        ),
    ];
    let index = serde_json::to_vec(&stage.files.index(&stage.publisher, NEXT)?)?;
    let mut all = Vec::new();
    for (name, does, entry, text) in evil {
        let mut entries = genuine_entries(stage);
        entries.push(entry);
        let packed = bundle(&index, entries)?;
        all.push(content_attack(stage, name, does, &packed, text).await?);
    }
    Ok(all)
}

fn genuine_entries(stage: &Stage) -> Vec<Entry<'_>> {
    stage
        .files
        .iter()
        .map(|(path, bytes)| Entry::file(path.as_bytes(), bytes))
        .collect()
}

async fn content_attack(
    stage: &Stage,
    name: &'static str,
    does: &'static str,
    packed: &[u8],
    text: &str,
) -> anyhow::Result<Fixture> {
    // The index agrees with its archive, but not with the signed metadata: that is another step.
    let kind = if name.starts_with("index-of-another-") {
        "contradiction"
    } else {
        "bundle"
    };
    let sealed = stage.publisher.seal(NEXT, packed).await?;
    let bucket = stage.publish_next(&sealed).await?;
    Ok(stage.refused(name, does, bucket, ("decrypt", kind, text)))
}

async fn sizes(stage: &Stage) -> anyhow::Result<Vec<Fixture>> {
    let publisher = &stage.publisher;
    let index = stage.files.index(publisher, NEXT)?;
    let bytes = serde_json::to_vec(&index)?;

    let bomb = compress(&vec![0; usize::try_from(limits::PLAIN_BYTES)? + 1])?;
    let window = compress_with_large_window(&archive(&genuine_entries(stage))?)?;
    let large = vec![0; usize::try_from(limits::FILE_BYTES)? + 1];
    let mut entries = genuine_entries(stage);
    entries.push(Entry::file(b"host/large", &large));
    let oversize = bundle(&bytes, entries)?;
    let names: Vec<String> = (0..=limits::FILES).map(|n| format!("host/{n}")).collect();
    let many = names
        .iter()
        .map(|n| Entry::file(n.as_bytes(), b""))
        .collect();
    let too_many = bundle(&bytes, many)?;

    let mut tar = archive(&genuine_entries(stage))?;
    tar.extend_from_slice(b"smuggled");
    let mut with_index = archive(&[Entry::file(b"index.json", &bytes)])?;
    with_index.extend_from_slice(&tar);
    let trailing = compress(&with_index)?;
    let mut second_frame = stage.files.packed(publisher, NEXT)?.expose().to_vec();
    second_frame.extend(compress(b"smuggled")?);

    let cases: [(&'static str, &'static str, Vec<u8>, &'static str); 6] = [
        (
            "decompression-bomb",
            "A bundle of a few hundred bytes decompresses to more than 16 MiB.",
            bomb,
            "decompresses to more than 16777216 bytes",
        ),
        (
            "large-window",
            "The compressed stream asks its reader for 128 MiB of memory.",
            window,
            "the bundle does not decompress",
        ),
        (
            "oversize-file",
            "One file is larger than a file may be.",
            oversize,
            "host/large is larger than the 1048576 bytes allowed",
        ),
        (
            "too-many-files",
            "The archive has more files than a release may have.",
            too_many,
            "the bundle has more than 1024 files",
        ),
        (
            "after-the-archive",
            "More entries follow the end of the archive.",
            trailing,
            "the bundle goes on after its end",
        ),
        (
            "after-the-stream",
            "A second compressed stream follows the first.",
            second_frame,
            "the bundle goes on after its end",
        ),
    ];
    let mut all = Vec::new();
    for (name, does, packed, text) in cases {
        all.push(content_attack(stage, name, does, &packed, text).await?);
    }
    Ok(all)
}

/// A genuine archive under an index that was changed.
async fn indexes(stage: &Stage) -> anyhow::Result<Vec<Fixture>> {
    let publisher = &stage.publisher;
    let genuine = serde_json::to_value(stage.files.index(publisher, NEXT)?)?;
    let with = |member: &str, value: Value| {
        let mut index = genuine.clone();
        index[member] = value;
        index
    };
    let first_file = |member: &str, value: Value| {
        let mut index = genuine.clone();
        index["files"][0][member] = value;
        index
    };
    let and_file = |path: &str| {
        let mut index = genuine.clone();
        let mut file = index["files"][0].clone();
        file["path"] = json!(path);
        file["sha256"] = json!(Sha256Digest::of(b"").to_string());
        file["bytes"] = json!(0);
        if let Some(files) = index["files"].as_array_mut() {
            files.push(file);
        }
        index
    };
    let cases: [(&'static str, &'static str, Value, &'static str); 11] = [
        (
            "unknown-format",
            "The index has a format that this agent does not know.",
            with("format", json!(2)),
            "index format 2 is not the known format 1",
        ),
        (
            "unknown-member",
            "The index has a member that this agent does not know.",
            with("run", json!("/bin/sh")),
            "the index does not parse",
        ),
        (
            "index-of-another-release",
            "The index is of another release than the signed metadata says.",
            with("release", json!(7)),
            "the bundle carries release 7, but its signed metadata says 4",
        ),
        (
            "index-of-another-group",
            "The index is of another group than the signed metadata says.",
            with("group", json!("compute")),
            "the bundle was made for group compute, not secure",
        ),
        (
            "index-of-another-environment",
            "The index is of another environment than the signed metadata says.",
            with("environment", json!("production")),
            "the bundle was made for environment production, not local",
        ),
        (
            "missing-entry",
            "The index lists a file that is not in the archive.",
            and_file("host/missing"),
            "host/missing is listed but missing",
        ),
        (
            "listed-twice",
            "The index lists one file twice.",
            and_file("manifests/etcd.yaml"),
            "manifests/etcd.yaml is listed twice",
        ),
        (
            "dot-dot-in-the-index",
            "The index lists a file whose path climbs out of the node's directory.",
            and_file("host/../../escaped"),
            "the index does not parse: path \"host/../../escaped\"",
        ),
        (
            "file-under-a-file",
            "The index lists a file below another file.",
            and_file("host/a/b"),
            "host/a/b is both a file and a directory",
        ),
        (
            "set-user-id",
            "The index asks for a set-user-id bit.",
            first_file("mode", json!("4755")),
            "has mode 4755: set-id, sticky or world-writable bits are refused",
        ),
        (
            "other-digest",
            "A file is not the one whose digest the index has.",
            first_file("sha256", json!(Sha256Digest::of(b"x").to_string())),
            "agent/group.key does not have the digest of the index",
        ),
    ];
    let mut all = Vec::new();
    for (name, does, index, text) in cases {
        let mut index = index;
        let mut entries = genuine_entries(stage);
        if name == "file-under-a-file" {
            let mut parent = index["files"][0].clone();
            parent["path"] = json!("host/a");
            if let Some(files) = index["files"].as_array_mut() {
                files.push(parent);
            }
            entries.push(Entry::file(b"host/a", b""));
            entries.push(Entry::file(b"host/a/b", b""));
        }
        let packed = bundle(&serde_json::to_vec(&index)?, entries)?;
        all.push(content_attack(stage, name, does, &packed, text).await?);
    }
    let no_index = compress(&archive(&genuine_entries(stage))?)?;
    let does = "The first entry of the archive is not the index.";
    let text = "the first entry of the bundle is not index.json";
    all.push(content_attack(stage, "no-index", does, &no_index, text).await?);
    Ok(all)
}
