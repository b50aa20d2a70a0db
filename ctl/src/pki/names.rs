//! Whom the certificates of an environment speak of.

use std::net::Ipv4Addr;

use crate::env::Environment;

/// The port of the API server, on its machines and on the load balancers.
pub const API_PORT: u16 = 6443;

/// The names that certificates and kubeconfigs hold. Nothing else of an environment changes a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// The environment's name.
    pub environment: String,
    /// The zone of the platform's names.
    pub zone: String,
    /// The AWS region.
    pub region: String,
    /// The DNS domain inside the cluster.
    pub cluster_domain: String,
    /// The first address of the service network, which is the service `kubernetes`.
    pub service_ip: Ipv4Addr,
}

impl Names {
    /// Those of an environment.
    #[must_use]
    pub fn of(environment: &Environment) -> Self {
        let service = environment.networks.service;
        Self {
            environment: environment.name.to_string(),
            zone: environment.dns_zone.to_string(),
            region: environment.region.to_string(),
            cluster_domain: environment.cluster_domain.to_string(),
            // A service network has at least 16 addresses.
            service_ip: service.nth(1).unwrap_or_else(|| service.network()),
        }
    }

    /// The API server's public name.
    #[must_use]
    pub fn public_api(&self) -> String {
        format!("kube.{}", self.zone)
    }

    /// The API server's URL for operators.
    #[must_use]
    pub fn public_api_url(&self) -> String {
        format!("https://{}:{API_PORT}", self.public_api())
    }

    /// The API server's name inside the VPC.
    #[must_use]
    pub fn internal_api(&self) -> String {
        format!("kube-internal.{}", self.zone)
    }

    /// The API server's URL for machines that do not run one.
    #[must_use]
    pub fn internal_api_url(&self) -> String {
        format!("https://{}:{API_PORT}", self.internal_api())
    }

    /// The API server's URL on the machines that run it.
    #[must_use]
    pub fn local_api_url() -> String {
        format!("https://127.0.0.1:{API_PORT}")
    }

    /// The pattern of the machines' private DNS names. Machines of an auto-scaling group come and go, and no authority
    /// is on them, so one certificate must do for all. `us-east-1` has a domain of its own.
    #[must_use]
    pub fn machines(&self) -> String {
        match self.region.as_str() {
            "us-east-1" => "*.ec2.internal".to_owned(),
            region => format!("*.{region}.compute.internal"),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_oldest_region_has_a_domain_of_its_own() {
        let mut names = crate::pki::leaf::tests::names();
        assert_eq!(names.machines(), "*.eu-west-1.compute.internal");
        names.region = "us-east-1".to_owned();
        assert_eq!(names.machines(), "*.ec2.internal");
        names.region = "us-east-2".to_owned();
        assert_eq!(names.machines(), "*.us-east-2.compute.internal");
    }
}
