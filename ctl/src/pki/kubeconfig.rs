//! Kubeconfigs, as JSON: every YAML reader reads it alike.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use shared::documents::{BootstrapToken, Certified};
use shared::secret::SecretBytes;
use zeroize::Zeroizing;

/// How the user of a kubeconfig shows who he is.
#[derive(Debug, Clone, Copy)]
pub(super) enum User<'a> {
    /// By a certificate, which the file holds with its key.
    Certificate(&'a Certified),
    /// By a bootstrap token.
    Token(&'a BootstrapToken),
    /// By a file on the machine that holds certificate and key.
    File(&'a str),
}

/// Whom the user of a kubeconfig believes to be the API server.
#[derive(Debug, Clone, Copy)]
pub(super) enum Trust<'a> {
    /// Certificates that the file holds. The controller manager hands what it finds there to every pod, and takes nothing
    /// from a file's name.
    Embedded(&'a str),
    /// A file on the machine. A kubelet copies the cluster out of its bootstrap kubeconfig into the one that it keeps,
    /// and must still follow a rotation.
    File(&'a str),
}

/// A kubeconfig of one cluster and one user.
pub(super) fn kubeconfig(
    environment: &str,
    server: &str,
    trust: Trust<'_>,
    user: User<'_>,
) -> SecretBytes {
    let cluster = match trust {
        Trust::Embedded(bundle) => {
            json!({"server": server, "certificate-authority-data": STANDARD.encode(bundle)})
        }
        Trust::File(path) => json!({"server": server, "certificate-authority": path}),
    };
    let user = match user {
        User::Certificate(leaf) => json!({
            "client-certificate-data": STANDARD.encode(&leaf.certificate),
            "client-key-data": STANDARD.encode(leaf.key.expose()),
        }),
        User::Token(token) => {
            json!({"token": format!("{}.{}", token.id, token.secret.expose())})
        }
        User::File(path) => json!({"client-certificate": path, "client-key": path}),
    };
    text(&json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": environment, "cluster": cluster}],
        "users": [{"name": "self", "user": user}],
        "contexts": [{"name": environment, "context": {"cluster": environment, "user": "self"}}],
        "current-context": environment,
    }))
}

/// A value as pretty JSON with a final newline.
pub(super) fn text(value: &Value) -> SecretBytes {
    let text = Zeroizing::new(format!("{value:#}\n"));
    SecretBytes::new(text.as_bytes().to_vec())
}
