//! Name resolution without the C library: a static glibc must not use NSS.

use std::fmt;
use std::sync::Arc;

use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use hickory_resolver::TokioResolver;
use tokio::sync::Mutex;

/// Resolves through the servers of `/etc/resolv.conf`. The resolver is made at the first look-up and made again after
/// a failure: at boot the file may be empty, or still name another network's servers.
#[derive(Clone, Default)]
pub(super) struct SystemDns {
    resolver: Arc<Mutex<Option<Arc<TokioResolver>>>>,
}

impl fmt::Debug for SystemDns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SystemDns")
    }
}

impl SystemDns {
    async fn resolver(&self) -> Result<Arc<TokioResolver>, ResolveDnsError> {
        let mut slot = self.resolver.lock().await;
        if let Some(resolver) = slot.as_ref() {
            return Ok(Arc::clone(resolver));
        }
        let made = TokioResolver::builder_tokio()
            .and_then(hickory_resolver::ResolverBuilder::build)
            .map_err(ResolveDnsError::new)?;
        Ok(Arc::clone(slot.insert(Arc::new(made))))
    }
}

impl ResolveDns for SystemDns {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            if name == "localhost" {
                return Ok(vec![std::net::Ipv4Addr::LOCALHOST.into()]);
            }
            let resolver = self.resolver().await?;
            match resolver.lookup_ip(name).await {
                Ok(found) => Ok(found.iter().collect()),
                Err(error) => {
                    *self.resolver.lock().await = None;
                    Err(ResolveDnsError::new(error))
                }
            }
        })
    }
}
