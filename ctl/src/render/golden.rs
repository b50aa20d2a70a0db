//! Golden files: everything that is rendered for one whole environment, as it stood when a person last looked at it.
//!
//! `UPDATE_GOLDEN=1 cargo nextest run --workspace --lib -E 'test(golden_manifests)'` writes them anew; look at the
//! difference then.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use shared::check::secret_dir::{SecretBytes, SecretFile};
use shared::names::EntryPath;

use super::{EMBEDDED, RenderInput, Secrets, TemplateSet, render};

const DEV: &str = include_str!("../../../tests/fixtures/golden/manifests/dev.tfvars");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/golden/manifests")
}

/// Each pod that has secret files of its own: one, always the same, so that the digests are.
fn secrets(group: &str) -> Secrets {
    let prefix = format!("{group}/");
    let pods = EMBEDDED
        .iter()
        .filter_map(|(path, _)| path.strip_prefix(&prefix)?.strip_suffix(".yaml.j2"))
        .filter(|name| !name.contains('/'));
    let file = || SecretFile {
        bytes: SecretBytes::new(b"secret".to_vec()),
        mode: 0o600,
        owner: (0, 0),
    };
    pods.map(|pod| (pod.to_owned(), BTreeMap::from([("key".to_owned(), file())])))
        .collect()
}

/// The files of a group by path below its golden directory.
fn rendered(group: &str) -> BTreeMap<String, Vec<u8>> {
    let environment = crate::env::parse(DEV, Path::new("environments/dev.tfvars")).unwrap();
    let mut values = environment.template_values();
    values.insert("cluster_authority".to_owned(), json!("ab".repeat(32)));
    let input = RenderInput {
        group: group.to_owned(),
        templates: TemplateSet::embedded(),
        values: Value::Object(values.into_iter().collect()),
        secrets: secrets(group),
        stand_ins: false,
    };
    let rendered = render(&input).unwrap();
    let mut files: BTreeMap<String, Vec<u8>> = rendered
        .by_path()
        .into_iter()
        .map(|(path, bytes)| (path, bytes.to_vec()))
        .collect();
    let paths: Vec<EntryPath> = files.keys().map(|p| EntryPath::new(p).unwrap()).collect();
    let restarts = json!(rendered.node.restarts_for(paths.iter()).unwrap());
    let restarts = serde_json::to_string_pretty(&restarts).unwrap() + "\n";
    files.insert("index-restarts.json".to_owned(), restarts.into_bytes());
    files
}

fn files_below(dir: &Path, prefix: &str, into: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            files_below(&entry.path(), &format!("{name}/"), into);
        } else {
            into.insert(name);
        }
    }
}

#[test]
fn golden_manifests() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    for group in ["secure", "compute"] {
        let (dir, files) = (root().join(group), rendered(group));
        if update {
            let _ = fs::remove_dir_all(&dir);
            for (path, bytes) in &files {
                let path = dir.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
        }
        let mut golden = BTreeSet::new();
        files_below(&dir, "", &mut golden);
        assert_eq!(
            golden,
            files.keys().cloned().collect(),
            "{group}: the files themselves"
        );
        for (path, bytes) in &files {
            let expected = fs::read_to_string(dir.join(path)).unwrap();
            let found = String::from_utf8(bytes.clone()).unwrap();
            assert!(
                expected == found,
                "{group}/{path} is not the golden file; with UPDATE_GOLDEN=1 it is written anew:\n{}",
                similar::TextDiff::from_lines(&expected, &found).unified_diff()
            );
        }
    }
}
