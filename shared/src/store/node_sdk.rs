//! What a node's AWS clients have in common, without the search for credentials that a person's machine needs.

use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::retry::RetryConfig;
use aws_config::stalled_stream_protection::StalledStreamProtectionConfig;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;

use super::s3::{connecting, http_client};

/// The configuration of a node's clients: the instance's role by its metadata service, or the credentials given.
///
/// Nothing else is asked: a profile or a variable that lies about on a machine does not change who the agent is, and the
/// code that would look for them is not in the agent.
#[must_use]
pub fn node_sdk_config(
    region: &str,
    endpoint_url: Option<&str>,
    credentials: Option<Credentials>,
) -> SdkConfig {
    let region = Region::new(region.to_owned());
    let http_client = http_client();
    let credentials = match credentials {
        Some(credentials) => SharedCredentialsProvider::new(credentials),
        None => {
            let provider = ProviderConfig::without_region()
                .with_region(Some(region.clone()))
                .with_http_client(http_client.clone());
            let role = ImdsCredentialsProvider::builder().configure(&provider);
            SharedCredentialsProvider::new(role.build())
        }
    };
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(region)
        .http_client(http_client)
        .credentials_provider(credentials)
        .retry_config(RetryConfig::standard().with_max_attempts(1))
        .timeout_config(connecting())
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
    config.set_endpoint_url(endpoint_url.map(str::to_owned));
    config.build()
}
