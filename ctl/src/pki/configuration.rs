//! Configuration files that lie beside a pod's secrets: some made from the keyring, some only a default that an
//! operator's own file replaces.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use shared::documents::{BootstrapToken, EncryptionKey, Rotating};
use shared::secret::SecretBytes;
use zeroize::Zeroizing;

use super::kubeconfig::text;

/// Defaults by pod and name; nothing in them is secret.
pub(super) const DEFAULTS: [(&str, &str, &str); 3] = [
    (
        "kube-apiserver",
        "authentication.yaml",
        include_str!("configuration/authentication.yaml"),
    ),
    (
        "kube-apiserver",
        "audit-policy.yaml",
        include_str!("configuration/audit-policy.yaml"),
    ),
    (
        "kube-scheduler",
        "scheduler.yaml",
        include_str!("configuration/scheduler.yaml"),
    ),
];

/// The API server's encryption at rest: the key in use first, which writes; every other key that is trusted, which
/// reads; and last what was stored before there was any encryption.
///
/// The cipher is `secretbox`, which authenticates. `aescbc` does not, and `aesgcm` with random nonces is safe only for
/// some 200,000 writes with one key.
pub(super) fn encryption(keys: &Rotating<EncryptionKey>) -> SecretBytes {
    let keys: Vec<Value> = keys
        .trusted()
        .map(|key| json!({"name": key.name, "secret": STANDARD.encode(key.secret.expose())}))
        .collect();
    text(&json!({
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{
            "resources": ["secrets"],
            "providers": [{"secretbox": {"keys": keys}}, {"identity": {}}],
        }],
    }))
}

/// The Secrets that make bootstrap tokens valid, one document each.
///
/// They do not expire: an auto-scaling group starts a machine whenever it likes, and nobody is there to renew a token.
/// `rotate tokens` replaces them.
pub(super) fn bootstrap_secrets(tokens: &Rotating<BootstrapToken>) -> SecretBytes {
    let mut all = Zeroizing::new(String::new());
    for token in tokens.trusted() {
        let encode = |text: &str| STANDARD.encode(text);
        let secret = text(&json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "bootstrap.kubernetes.io/token",
            "metadata": {
                "name": format!("bootstrap-token-{}", token.id),
                "namespace": "kube-system",
            },
            "data": {
                "token-id": encode(&token.id),
                "token-secret": encode(token.secret.expose()),
                "usage-bootstrap-authentication": encode("true"),
            },
        }));
        all.push_str("---\n");
        all.push_str(&String::from_utf8_lossy(secret.expose()));
    }
    SecretBytes::new(all.as_bytes().to_vec())
}
