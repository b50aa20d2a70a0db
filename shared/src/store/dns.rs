//! Name resolution without the C library: a static glibc must not use NSS.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use hickory_resolver::TokioResolver;

/// How long one look-up may take: less than the three seconds that a connection gets, whose end would drop it unseen.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(2);

type Make = fn() -> Result<TokioResolver, ResolveDnsError>;

/// Resolves through the servers of `/etc/resolv.conf`. The resolver is made at the first look-up and made again after
/// one that did not succeed, silence included: at boot the file may be empty, or still name another network's servers.
#[derive(Clone)]
pub struct SystemDns {
    resolver: Arc<Mutex<Option<Arc<TokioResolver>>>>,
    make: Make,
}

impl fmt::Debug for SystemDns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SystemDns")
    }
}

impl Default for SystemDns {
    fn default() -> Self {
        Self::made_by(|| {
            TokioResolver::builder_tokio()
                .and_then(hickory_resolver::ResolverBuilder::build)
                .map_err(ResolveDnsError::new)
        })
    }
}

/// Takes the resolver away unless told that it is good: also when the look-up is dropped half-way.
struct Suspect<'a>(Option<&'a SystemDns>);

impl Drop for Suspect<'_> {
    fn drop(&mut self) {
        if let Some(dns) = self.0 {
            *dns.slot() = None;
        }
    }
}

impl SystemDns {
    fn made_by(make: Make) -> Self {
        Self {
            resolver: Arc::default(),
            make,
        }
    }

    /// The addresses of a name, for a connection of one's own.
    ///
    /// # Errors
    /// What the look-up said; it is bounded in time.
    pub async fn addresses(
        &self,
        name: &str,
    ) -> Result<Vec<std::net::IpAddr>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.resolve_dns(name).await?)
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Arc<TokioResolver>>> {
        self.resolver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resolver(&self) -> Result<Arc<TokioResolver>, ResolveDnsError> {
        let mut slot = self.slot();
        if let Some(resolver) = slot.as_ref() {
            return Ok(Arc::clone(resolver));
        }
        Ok(Arc::clone(slot.insert(Arc::new((self.make)()?))))
    }
}

impl ResolveDns for SystemDns {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            if name == "localhost" {
                return Ok(vec![std::net::Ipv4Addr::LOCALHOST.into()]);
            }
            let resolver = self.resolver()?;
            let mut suspect = Suspect(Some(self));
            let found = tokio::time::timeout(LOOKUP_DEADLINE, resolver.lookup_ip(name)).await;
            let found = found
                .map_err(ResolveDnsError::new)?
                .map_err(ResolveDnsError::new)?;
            suspect.0 = None;
            Ok(found.iter().collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};

    use super::*;

    static MADE: AtomicUsize = AtomicUsize::new(0);
    static PORT: AtomicU16 = AtomicU16::new(0);

    /// A resolver of a server that never answers.
    fn silent() -> Result<TokioResolver, ResolveDnsError> {
        MADE.fetch_add(1, Ordering::Relaxed);
        let mut udp = ConnectionConfig::udp();
        udp.port = PORT.load(Ordering::Relaxed);
        let server = NameServerConfig::new(std::net::Ipv4Addr::LOCALHOST.into(), true, vec![udp]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let builder = TokioResolver::builder_with_config(config, Default::default());
        builder.build().map_err(ResolveDnsError::new)
    }

    #[tokio::test]
    async fn silent_servers_are_read_again_whoever_gives_up_first() {
        let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        PORT.store(server.local_addr().unwrap().port(), Ordering::Relaxed);
        let dns = SystemDns::made_by(silent);
        let began = std::time::Instant::now();
        assert!(dns.resolve_dns("a.example.").await.is_err());
        assert!(
            began.elapsed() < Duration::from_millis(2900),
            "{:?}",
            began.elapsed()
        );
        // The caller has less patience.
        let patience = Duration::from_millis(100);
        let dropped = tokio::time::timeout(patience, dns.resolve_dns("a.example.")).await;
        assert!(dropped.is_err());
        assert_eq!(MADE.load(Ordering::Relaxed), 2);
        let _ = tokio::time::timeout(patience, dns.resolve_dns("a.example.")).await;
        assert_eq!(MADE.load(Ordering::Relaxed), 3);
    }
}
