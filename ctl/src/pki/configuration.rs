//! Configuration that holds secrets of the keyring.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use shared::documents::{BootstrapToken, EncryptionKey, Rotating};
use shared::secret::SecretBytes;

use super::kubeconfig::text;

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

/// The Secrets that make bootstrap tokens valid, as one list.
///
/// They do not expire: an auto-scaling group starts a machine whenever it likes, and nobody is there to renew a token.
/// `rotate tokens` replaces them.
pub(super) fn bootstrap_secrets(tokens: &Rotating<BootstrapToken>) -> SecretBytes {
    let encode = |text: &str| STANDARD.encode(text);
    let secret = |token: &BootstrapToken| {
        json!({
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
        })
    };
    let items: Vec<Value> = tokens.trusted().map(secret).collect();
    text(&json!({"apiVersion": "v1", "kind": "List", "items": items}))
}
