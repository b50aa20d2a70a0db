//! The configuration by itself.

use std::fs;
use std::process::Command;

use platform_tests::tools;
use tempfile::TempDir;

#[test]
fn it_is_formatted_and_valid() {
    let Some(terraform) = tools::terraform() else {
        return;
    };
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../terraform");
    let directory = TempDir::new().unwrap();
    for entry in fs::read_dir(source).unwrap() {
        let entry = entry.unwrap();
        if entry.path().extension().is_some_and(|e| e == "tf") {
            fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
        }
    }
    let configuration = directory.path().join("empty.tfrc");
    fs::write(&configuration, "").unwrap();
    let plugins = format!("-plugin-dir={}", terraform.plugins.display());
    for arguments in [
        vec!["fmt", "-check", "-diff"],
        vec!["init", "-backend=false", "-input=false", &plugins],
        vec!["validate", "-no-color"],
    ] {
        let output = Command::new(terraform.directory.join("terraform"))
            .args(&arguments)
            .current_dir(directory.path())
            .env("TF_CLI_CONFIG_FILE", &configuration)
            .env("CHECKPOINT_DISABLE", "1")
            .output()
            .unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
    }
}
