//! OpenSSL and OpenSSH judge what was made: chains, names, purposes, keys.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use ctl::pki::{LeafSpec, specs};
use platform_tests::tools;
use shared::documents::{AuthorityName, Pki};
use tempfile::TempDir;

use super::{fresh, output, private};

struct Desk {
    openssl: PathBuf,
    directory: TempDir,
    pki: Pki,
    specs: Vec<LeafSpec>,
}

impl Desk {
    fn new(region: &str) -> Option<Self> {
        let openssl = tools::find("openssl")?;
        let (pki, names) = fresh(region);
        let directory = TempDir::new().unwrap();
        for (name, authority) in &pki.authorities {
            private(
                directory.path(),
                &format!("{name}.ca"),
                &authority.trust_bundle(),
            );
        }
        for (name, leaf) in &pki.leaves {
            private(directory.path(), &format!("{name}.crt"), &leaf.certificate);
            private(directory.path(), &format!("{name}.key"), leaf.key.expose());
        }
        Some(Self {
            openssl,
            directory,
            pki,
            specs: specs(&names),
        })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn openssl(&self, arguments: &[&str]) -> (bool, String) {
        output(
            Command::new(&self.openssl)
                .args(arguments)
                .current_dir(self.path()),
        )
    }

    /// Whether a leaf passes as `purpose` below an authority, with further conditions.
    fn verifies(
        &self,
        leaf: &str,
        authority: AuthorityName,
        purpose: &str,
        more: &[&str],
    ) -> (bool, String) {
        let ca = format!("{authority}.ca");
        let leaf = format!("{leaf}.crt");
        let mut arguments = vec!["verify", "-x509_strict", "-CAfile", &ca];
        // Nothing but that authority may help.
        arguments.extend(["-no-CApath", "-no-CAstore", "-purpose", purpose]);
        arguments.extend(more);
        arguments.push(&leaf);
        self.openssl(&arguments)
    }
}

/// A name that a machine, or a client of that name, would ask for.
fn concrete(name: &str) -> String {
    name.replace('*', "ip-10-100-3-155")
}

#[test]
fn openssl_accepts_every_chain_purpose_and_name_and_no_other() {
    for region in ["eu-west-1", "us-east-1"] {
        let Some(desk) = Desk::new(region) else {
            return;
        };
        for spec in &desk.specs {
            let (serves, comes) = spec.usage.sides();
            for (purpose, may) in [("sslserver", serves), ("sslclient", comes)] {
                let (passes, said) = desk.verifies(spec.name, spec.authority, purpose, &[]);
                assert_eq!(passes, may, "{} as {purpose}: {said}", spec.name);
            }
            let purpose = if serves { "sslserver" } else { "sslclient" };
            for other in AuthorityName::ALL.iter().filter(|a| **a != spec.authority) {
                let (passes, _) = desk.verifies(spec.name, *other, purpose, &[]);
                assert!(!passes, "{} is none of {other}'s", spec.name);
            }
            for name in &spec.dns_names {
                let asked = ["-verify_hostname", &concrete(name)];
                let (passes, said) = desk.verifies(spec.name, spec.authority, purpose, &asked);
                assert!(passes, "{} as {name}: {said}", spec.name);
            }
            for address in &spec.addresses {
                let asked = ["-verify_ip", &address.to_string()];
                let (passes, said) = desk.verifies(spec.name, spec.authority, purpose, &asked);
                assert!(passes, "{} at {address}: {said}", spec.name);
            }
            for stranger in ["evil.example.com", "a.b.ec2.internal"] {
                let asked = ["-verify_hostname", stranger];
                let (passes, _) = desk.verifies(spec.name, spec.authority, purpose, &asked);
                assert!(!passes, "{} is not {stranger}", spec.name);
            }
        }
        let machine = match region {
            "us-east-1" => "ip-10-100-3-155.ec2.internal",
            _ => "ip-10-100-3-155.eu-west-1.compute.internal",
        };
        for leaf in ["etcd-server", "etcd-peer"] {
            let asked = ["-verify_hostname", machine];
            let (passes, said) = desk.verifies(leaf, AuthorityName::Etcd, "sslserver", &asked);
            assert!(passes, "{said}");
        }
    }
}

#[test]
fn what_openssl_reads_in_the_certificates_is_what_was_meant() {
    let Some(desk) = Desk::new("eu-west-1") else {
        return;
    };
    let text = |file: &str| {
        let (read, said) = desk.openssl(&["x509", "-noout", "-text", "-in", file]);
        assert!(read, "{said}");
        said
    };
    let mut serials = BTreeSet::new();
    let serial = |file: &str| desk.openssl(&["x509", "-noout", "-serial", "-in", file]).1;
    for name in AuthorityName::ALL {
        let file = format!("{name}.ca");
        let said = text(&file);
        for part in [
            &format!("Subject: CN = dev {name} CA 1"),
            "X509v3 Basic Constraints: critical\n                CA:TRUE, pathlen:0",
            "X509v3 Key Usage: critical\n                Certificate Sign, CRL Sign",
            "X509v3 Subject Key Identifier",
            "NIST CURVE: P-256",
        ] {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
        assert!(serials.insert(serial(&file)));
    }
    for spec in &desk.specs {
        let file = format!("{}.crt", spec.name);
        let said = text(&file);
        for part in [
            "X509v3 Basic Constraints: critical\n                CA:FALSE",
            "X509v3 Key Usage: critical\n                Digital Signature\n",
            "X509v3 Subject Key Identifier",
            "X509v3 Authority Key Identifier",
            &format!("CN = {}\n", spec.common_name),
        ] {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
        let has_names = said.contains("Subject Alternative Name");
        assert_eq!(has_names, !spec.dns_names.is_empty(), "{}", spec.name);
        assert!(serials.insert(serial(&file)), "a serial of its own");
        let key = format!("{}.key", spec.name);
        let (_, of_key) = desk.openssl(&["pkey", "-in", &key, "-pubout"]);
        let (_, of_leaf) = desk.openssl(&["x509", "-in", &file, "-noout", "-pubkey"]);
        assert_eq!(of_key, of_leaf, "{}", spec.name);
        let (old_enough, _) = desk.openssl(&["x509", "-in", &file, "-checkend", "31449600"]);
        assert!(old_enough, "{} lives 364 days more", spec.name);
    }
    let admin = text("admin.crt");
    assert!(
        admin.contains("Subject: O = system:masters, CN = platform:admin"),
        "{admin}"
    );
}

#[test]
fn openssl_and_openssh_take_the_keys_without_certificates() {
    let (Some(desk), Some(keygen)) = (Desk::new("eu-west-1"), tools::find("ssh-keygen")) else {
        return;
    };
    let accounts = &desk.pki.service_accounts.current;
    private(desk.path(), "sa.key", accounts.key.expose());
    let (_, public) = desk.openssl(&["ec", "-in", "sa.key", "-pubout"]);
    assert!(public.contains(accounts.public.trim()), "{public}");

    let ssh = &desk.pki.ssh;
    let key = private(desk.path(), "id_ed25519", ssh.private.expose());
    let (read, derived) = output(Command::new(&keygen).arg("-y").arg("-f").arg(&key));
    assert!(read, "{derived}");
    assert_eq!(derived.trim_end(), ssh.public);
    let text = private(desk.path(), "text", "signed");
    let mut sign = Command::new(&keygen);
    sign.args(["-Y", "sign", "-n", "test", "-f"]).arg(&key);
    let (signed, said) = output(sign.arg(&text));
    assert!(signed, "{said}");
}
