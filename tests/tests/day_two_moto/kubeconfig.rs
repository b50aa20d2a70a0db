//! `kubeconfig`, read by openssl and, where it is there, kubectl.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use platform_tests::tools;
use serde_json::Value;

use crate::desk::{Desk, run};

fn decoded(value: &Value) -> String {
    String::from_utf8(STANDARD.decode(value.as_str().unwrap()).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_lived_kubeconfig_of_its_own_or_merged() {
    let Some(desk) = Desk::new().await else {
        return;
    };
    let said = desk.run(&["kubeconfig", "-e", "dev"]).await;
    assert!(
        said.code == 2 && said.err.contains("no keyring"),
        "{said:?}"
    );
    assert_eq!(desk.run(&["publish", "-e", "dev"]).await.code, 0);

    let said = desk
        .run(&["kubeconfig", "-e", "dev", "--lifetime", "1h"])
        .await;
    assert_eq!(said.code, 0, "{said:?}");
    let path = desk.path(".platform/dev/kubeconfig");
    assert_eq!(
        said.out,
        format!("export KUBECONFIG='{}'\n", path.display())
    );
    assert!(!said.err.contains("PRIVATE"), "{said:?}");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let config: Value = serde_yaml::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(
        config["clusters"][0]["cluster"]["server"],
        "https://kube.example.com:6443"
    );
    let user = &config["users"][0]["user"];
    let write = |name: &str, text: String| {
        let path = desk.path(name);
        fs::write(&path, text).unwrap();
        path
    };
    let certificate = write("c.pem", decoded(&user["client-certificate-data"]));
    let authority = write(
        "ca.pem",
        decoded(&config["clusters"][0]["cluster"]["certificate-authority-data"]),
    );
    let key = write("k.pem", decoded(&user["client-key-data"]));
    let Some(openssl) = tools::find("openssl") else {
        return;
    };
    let ask = |arguments: &[&str]| {
        let output = Command::new(&openssl).args(arguments).output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let (c, ca, k) = (
        certificate.to_str().unwrap(),
        authority.to_str().unwrap(),
        key.to_str().unwrap(),
    );
    let (good, said) = ask(&["verify", "-purpose", "sslclient", "-CAfile", ca, c]);
    assert!(good, "{said}");
    let (_, subject) = ask(&["x509", "-in", c, "-noout", "-subject"]);
    assert!(
        subject.contains("system:masters") && subject.contains("platform:admin"),
        "{subject}"
    );
    assert_eq!(
        ask(&["x509", "-in", c, "-noout", "-pubkey"]).1,
        ask(&["pkey", "-in", k, "-pubout"]).1
    );
    assert!(ask(&["x509", "-in", c, "-noout", "-checkend", "3000"]).0);
    assert!(
        !ask(&["x509", "-in", c, "-noout", "-checkend", "3700"]).0,
        "an hour is an hour"
    );

    // Merged into somebody's own, twice.
    fs::create_dir(desk.path("home/.kube")).unwrap();
    let own = desk.path("home/.kube/config");
    fs::write(&own, "# mine\napiVersion: v1\nkind: Config\nclusters:\n- cluster:\n    server: https://old.example.com\n  name: old\ncontexts:\n- context:\n    cluster: old\n    user: old\n  name: old\nusers: []\ncurrent-context: old\n").unwrap();
    for _ in 0..2 {
        let said = desk.run(&["kubeconfig", "-e", "dev", "--merge"]).await;
        assert!(said.code == 0 && said.out.is_empty(), "{said:?}");
    }
    let text = fs::read_to_string(&own).unwrap();
    assert!(text.starts_with("# mine\n"), "{text}");
    let config: Value = serde_yaml::from_str(&text).unwrap();
    assert_eq!(config["contexts"].as_array().unwrap().len(), 2, "{text}");
    if let Some(kubectl) = tools::find("kubectl") {
        let output = Command::new(kubectl)
            .args(["config", "get-contexts", "-o", "name", "--kubeconfig"])
            .arg(&own)
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "dev\nold\n",
            "{output:?}"
        );
    }
    // KUBECONFIG's first file goes before it.
    let other = desk.path("other");
    let mut command = desk.platformctl(&["kubeconfig", "-e", "dev", "--merge"]);
    command.env("KUBECONFIG", format!("{}:/nowhere", other.display()));
    assert_eq!(run(command).await.code, 0);
    assert!(
        fs::read_to_string(&other)
            .unwrap()
            .contains("current-context: dev")
    );
    // What is no kubeconfig stays as it is.
    fs::write(&own, "a: [").unwrap();
    let said = desk.run(&["kubeconfig", "-e", "dev", "--merge"]).await;
    assert!(
        said.code == 1 && said.err.contains("was left as it is"),
        "{said:?}"
    );
    assert_eq!(fs::read_to_string(&own).unwrap(), "a: [");

    // The key is shown where the file itself is asked for, and nowhere else.
    let said = desk
        .run(&["kubeconfig", "-e", "dev", "--output", "-"])
        .await;
    assert!(
        said.out.contains("client-key-data: ") && said.err.is_empty(),
        "{said:?}"
    );
    for bad in ["1m", "30d", "soon"] {
        assert_eq!(
            desk.run(&["kubeconfig", "-e", "dev", "--lifetime", bad])
                .await
                .code,
            2
        );
    }
}
