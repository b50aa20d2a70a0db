//! From stage two to stage three: each value by itself, then the rules between them. Nothing stops at a first mistake.

mod rules;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;
use std::time::Duration;

use url::Url;

use super::cidr::{Cidr, CidrError};
use super::error::Problem;
use super::merged::{Merged, Value};
use super::validated::{AccessLists, COMPUTE, Environment, SECURE, Versions};
use super::values::{Account, Refused, Region};

/// A value with its place in the file, which a default does not have.
#[derive(Debug, Clone)]
struct Placed<T> {
    value: T,
    span: Option<Range<usize>>,
}

/// Validates everything; the environment if there was no problem before and none was found.
pub(crate) fn validate(
    merged: &Merged,
    stem: &str,
    problems: Vec<Problem>,
) -> Result<Environment, Vec<Problem>> {
    let mut checks = Checks { merged, problems };
    match checks.environment(stem) {
        Some(environment) if checks.problems.is_empty() => Ok(environment),
        _ => Err(checks.problems),
    }
}

struct Checks<'a> {
    merged: &'a Merged,
    problems: Vec<Problem>,
}

impl From<CidrError> for Refused {
    fn from(error: CidrError) -> Self {
        Refused::because(error.to_string())
    }
}

impl Checks<'_> {
    /// Checks every key even where an earlier one failed, and only then puts the environment together.
    fn environment(&mut self, stem: &str) -> Option<Environment> {
        let name = self.name(stem);
        let platform = self.parsed("platform");
        let region: Option<Placed<Region>> = self.parsed("aws_region");
        let account: Option<Placed<Account>> = self.parsed("aws_account");
        let profile = self.parsed("aws_profile");
        let (secrets_bucket, terraform_bucket) = self.buckets();
        let key_wrap = self.key_wrap(region.as_ref(), account.as_ref());
        let endpoint_url = self.parsed_by("aws_endpoint_url", endpoint);
        let secure = self.group(SECURE, "etcd_flavor");
        let compute = self.group(COMPUTE, "compute_flavor");
        let image = self.parsed("coreos_image");
        let zones = self.zones(region.as_ref());
        let access = AccessLists {
            kubeapi: self.networks("kubeapi_access_list"),
            ssh: self.networks("ssh_access_list"),
        };
        let dns_zone = self.parsed("dns_zone_name");
        let kubernetes = self.parsed("kubernetes_version");
        let etcd = self.parsed("etcd_version");
        let networks = self.three_networks(secure.as_ref(), compute.as_ref());
        let cluster_domain = self.parsed("cluster_domain");
        let poll_interval = self.number("poll_interval_seconds", 1..=3600);
        let metrics_listen = self.parsed_by("metrics_listen", listen_address);
        let recovery_recipients = self
            .list("recovery_recipients")
            .into_iter()
            .map(|r| r.value)
            .collect();

        Some(Environment {
            name: name?,
            platform: platform?.value,
            region: region?.value,
            account: account.map(|a| a.value),
            profile: profile.map(|p| p.value),
            secrets_bucket: secrets_bucket?,
            terraform_bucket,
            key_wrap: key_wrap?,
            endpoint_url: endpoint_url.map(|u| u.value),
            groups: BTreeMap::from([(SECURE.to_owned(), secure?), (COMPUTE.to_owned(), compute?)]),
            image: image.map(|i| i.value),
            zones,
            access,
            dns_zone: dns_zone?.value,
            versions: Versions {
                kubernetes: kubernetes?.value,
                etcd: etcd?.value,
            },
            networks: networks?,
            cluster_domain: cluster_domain?.value,
            poll_interval: Duration::from_secs(poll_interval?.value.into()),
            metrics_listen: metrics_listen?.value,
            recovery_recipients,
        })
    }

    fn networks(&mut self, key: &str) -> Vec<Cidr> {
        let mut networks: Vec<Cidr> = Vec::new();
        for cidr in self.list(key) {
            // AWS refuses a rule that is there twice.
            if !networks.contains(&cidr.value) {
                networks.push(cidr.value);
            }
        }
        networks
    }

    fn parsed<T>(&mut self, key: &str) -> Option<Placed<T>>
    where
        T: FromStr,
        T::Err: Into<Refused>,
    {
        self.parsed_by(key, |text| text.parse().map_err(Into::into))
    }

    fn parsed_by<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, Refused>,
    ) -> Option<Placed<T>> {
        let setting = self.merged.settings.get(key)?;
        let Value::Text(text) = &setting.value else {
            return None;
        };
        match parse(text) {
            Ok(value) => Some(Placed {
                value,
                span: setting.span.clone(),
            }),
            Err(refused) => {
                self.problems
                    .push(refusal(key, text, refused, setting.span.as_ref()));
                None
            }
        }
    }

    fn list<T>(&mut self, key: &str) -> Vec<Placed<T>>
    where
        T: FromStr,
        T::Err: Into<Refused>,
    {
        let Some(Value::List(items)) = self.merged.settings.get(key).map(|setting| &setting.value)
        else {
            return Vec::new();
        };
        let mut values = Vec::new();
        for (item, span) in items {
            match item.parse::<T>() {
                Ok(value) => values.push(Placed {
                    value,
                    span: span.clone(),
                }),
                Err(error) => self
                    .problems
                    .push(refusal(key, item, error.into(), span.as_ref())),
            }
        }
        values
    }

    fn number(&mut self, key: &str, bounds: RangeInclusive<u32>) -> Option<Placed<u32>> {
        let setting = self.merged.settings.get(key)?;
        let Value::Number(number) = setting.value else {
            return None;
        };
        match u32::try_from(number)
            .ok()
            .filter(|number| bounds.contains(number))
        {
            Some(value) => Some(Placed {
                value,
                span: setting.span.clone(),
            }),
            None => {
                self.problems.push(
                    Problem::new(format!(
                        "`{key}` is {number}, but must be {} to {}",
                        bounds.start(),
                        bounds.end()
                    ))
                    .at(setting.span.as_ref(), "out of bounds"),
                );
                None
            }
        }
    }
}

fn refusal(key: &str, value: &str, refused: Refused, span: Option<&Range<usize>>) -> Problem {
    Problem::new(format!("`{key}`: `{value}` {}", refused.reason))
        .at(span, "refused")
        .maybe_help(refused.help)
}

fn endpoint(text: &str) -> Result<Url, Refused> {
    let url: Url = text
        .parse()
        .map_err(|error: url::ParseError| Refused::because(format!("is not a URL: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(Refused::because("is not an http or https URL"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Refused::because(
            "holds credentials, which have no place in an environment",
        ));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Refused::because("has a query or fragment"));
    }
    Ok(url)
}

fn listen_address(text: &str) -> Result<SocketAddr, Refused> {
    text.parse().map_err(|_| Refused {
        reason: "is not an address and port".to_owned(),
        help: Some("write it like 127.0.0.1:9102".to_owned()),
    })
}
