//! What the unit tests of several modules begin with.

use std::path::Path;

use crate::env::{self, Environment};

/// The environment `dev` on AWS. A line of `changes` takes the place of the one of the same key, or is one more.
pub(crate) fn environment(changes: &str) -> Environment {
    let base = r#"aws_account = "123456789012"
aws_region = "eu-west-1"
compute_asg_grace_period = "10"
compute_asg_max = "5"
compute_asg_min = "1"
compute_flavor = "t3.medium"
coreos_image = "ami-0123456789abcdef0"
dns_zone_name = "example.com"
environment = "dev"
etcd_flavor = "t3.large"
kms_master_id = "alias/platform-dev"
kubeapi_access_list = "192.0.2.0/24"
platform = "kube"
secrets_bucket_name = "example-dev-secrets"
secure_asg_max = "4"
secure_asg_min = "3"
ssh_access_list = "192.0.2.10"
terraform_bucket_name = "example-dev-terraform"
"#;
    let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
    let changed: Vec<String> = changes.lines().map(key).collect();
    let kept = base.lines().filter(|line| !changed.contains(&key(line)));
    let text = kept.chain(changes.lines()).collect::<Vec<_>>().join("\n");
    env::parse(&text, Path::new("dev.tfvars")).unwrap()
}

/// The head of a program as it goes onto machines (64 bits, x86-64, one segment to load, no loader), and `content` after it.
pub(crate) fn static_program(content: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(64 + 56, 0);
    let mut put = |at: usize, value: u8| bytes[at] = value;
    put(16, 2); // e_type: executable
    put(18, 62); // e_machine: x86-64
    put(20, 1); // e_version
    put(32, 64); // e_phoff
    put(52, 64); // e_ehsize
    put(54, 56); // e_phentsize
    put(56, 1); // e_phnum
    put(64, 1); // p_type: PT_LOAD
    bytes.extend_from_slice(content);
    bytes
}
