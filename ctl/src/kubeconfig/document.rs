//! The kubeconfig as YAML text, and its three entries.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};
use shared::secret::SecretText;
use zeroize::Zeroizing;

/// A cluster, a user and a context, all of one environment.
#[derive(Debug, Clone)]
pub struct Kubeconfig {
    /// The environment: the name of the cluster and of the context.
    pub name: String,
    /// The API server's URL.
    pub server: String,
    /// The authorities to trust, PEM.
    pub authority: String,
    /// The client's certificate, PEM.
    pub certificate: String,
    /// Its key.
    pub key: SecretText,
    /// When the certificate ends.
    pub ends: Timestamp,
}

/// The lists of a kubeconfig, each of entries with a name.
pub(super) const LISTS: [&str; 3] = ["clusters", "users", "contexts"];

// === impl Kubeconfig ===

impl Kubeconfig {
    /// The name of the user: other environments' users are in the same file.
    #[must_use]
    pub fn user(&self) -> String {
        format!("{}-admin", self.name)
    }

    /// A file of its own.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new("apiVersion: v1\nkind: Config\n".to_owned());
        for list in LISTS {
            text.push_str(&format!("{list}:\n"));
            text.push_str(&Zeroizing::new(self.entry(list)));
        }
        text.push_str(&format!("current-context: {}\n", self.name));
        text
    }

    /// The entry of one of the [`LISTS`], as a block that begins with its dash in the first column. Names of environments
    /// and base64 need no quotes in YAML; a URL does no harm within them.
    pub(super) fn entry(&self, list: &str) -> String {
        let name = &self.name;
        let user = self.user();
        match list {
            "clusters" => format!(
                "- name: {name}\n  cluster:\n    server: \"{}\"\n    certificate-authority-data: {}\n",
                self.server,
                STANDARD.encode(&self.authority)
            ),
            "users" => format!(
                "- name: {user}\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n",
                STANDARD.encode(&self.certificate),
                Zeroizing::new(STANDARD.encode(self.key.expose())).as_str()
            ),
            _ => format!("- name: {name}\n  context:\n    cluster: {name}\n    user: {user}\n"),
        }
    }

    /// The same entry as a value.
    pub(super) fn value(&self, list: &str) -> Value {
        let name = &self.name;
        match list {
            "clusters" => json!({"name": name, "cluster": {
                "server": self.server,
                "certificate-authority-data": STANDARD.encode(&self.authority),
            }}),
            "users" => json!({"name": self.user(), "user": {
                "client-certificate-data": STANDARD.encode(&self.certificate),
                "client-key-data": STANDARD.encode(self.key.expose()),
            }}),
            _ => json!({"name": name, "context": {"cluster": name, "user": self.user()}}),
        }
    }

    /// The name of its entry in a list.
    pub(super) fn entry_name(&self, list: &str) -> String {
        match list {
            "users" => self.user(),
            _ => self.name.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::issued;
    use super::*;

    #[test]
    fn the_text_is_the_value() {
        let issued = issued();
        let text: Value = serde_yaml::from_str(&issued.text()).unwrap();
        for list in LISTS {
            assert_eq!(text[list], json!([issued.value(list)]));
        }
        assert_eq!(text["current-context"], "dev");
        assert_eq!(text["users"][0]["name"], "dev-admin");
    }
}
