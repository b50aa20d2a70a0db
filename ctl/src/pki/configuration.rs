//! Configuration that holds secrets of the keyring.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use shared::documents::{BootstrapToken, Pki, Rotating};
use shared::secret::SecretBytes;

use super::kubeconfig::text;

/// The API server's encryption at rest: the key in use first, which writes; every other key that is trusted, which
/// reads; and last what was stored before there was any encryption.
///
/// The cipher is `secretbox`, which authenticates. `aescbc` does not, and `aesgcm` with random nonces is safe only for
/// some 200,000 writes with one key.
pub(super) fn encryption(pki: &Pki) -> SecretBytes {
    let keys: Vec<Value> = pki
        .encryption_keys()
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

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;

    use super::*;
    use crate::pki::new_bootstrap_token;

    /// As the API server would: nothing in it is dropped, and the authenticator finds what it reads.
    #[test]
    fn the_tokens_are_secrets_that_the_api_server_decodes() {
        let mut tokens = Rotating::new(new_bootstrap_token());
        tokens.stage(new_bootstrap_token()).unwrap();
        let list: Value = serde_json::from_slice(bootstrap_secrets(&tokens).expose()).unwrap();
        assert_eq!(
            (&list["apiVersion"], &list["kind"]),
            (&json!("v1"), &json!("List"))
        );
        let items = list["items"].as_array().unwrap();
        assert_eq!(items.len(), 2);
        for (item, token) in items.iter().zip(tokens.trusted()) {
            let secret: Secret = serde_json::from_value(item.clone()).unwrap();
            assert_eq!(&serde_json::to_value(&secret).unwrap(), item);
            assert_eq!(
                secret.type_.as_deref(),
                Some("bootstrap.kubernetes.io/token")
            );
            let name = format!("bootstrap-token-{}", token.id);
            assert_eq!(secret.metadata.name, Some(name));
            assert_eq!(secret.metadata.namespace.as_deref(), Some("kube-system"));
            let data = secret.data.unwrap();
            assert_eq!(data["token-id"].0, token.id.as_bytes());
            assert_eq!(data["token-secret"].0, token.secret.expose().as_bytes());
            assert_eq!(data["usage-bootstrap-authentication"].0, b"true");
        }
    }
}
