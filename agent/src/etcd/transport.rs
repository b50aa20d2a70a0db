//! A call of etcd's JSON gateway: one connection for each, over TLS, and what can go wrong with it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use url::Host;

use super::answers::Refusal;
use super::client::{ANSWER_BYTES, CONNECT, EtcdClient};
use super::{EtcdError, EtcdErrorKind};

impl EtcdClient {
    pub(super) async fn ask<Q: Serialize, A: for<'de> Deserialize<'de>>(
        &self,
        operation: &'static str,
        path: &str,
        ask: &Q,
        limit: Duration,
    ) -> Result<A, EtcdError> {
        let body = serde_json::to_vec(ask)
            .map_err(|e| self.failed(operation, EtcdErrorKind::Other, Box::new(e)))?;
        let (status, body) = self
            .whole(operation, Method::POST, path, body.into(), limit)
            .await?;
        if !(200..300).contains(&status) {
            return Err(self.refused(operation, status, &body));
        }
        serde_json::from_slice(&body)
            .map_err(|e| self.failed(operation, EtcdErrorKind::Other, Box::new(e)))
    }

    pub(super) async fn whole(
        &self,
        operation: &'static str,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<(u16, Bytes), EtcdError> {
        let asking = async {
            let (answer, connection) = self.send(operation, method, path, body).await?;
            let status = answer.status().as_u16();
            let read = Limited::new(answer.into_body(), ANSWER_BYTES).collect();
            let read = read.await;
            connection.abort();
            let read = read.map_err(|e| {
                let kind = match e.is::<LengthLimitError>() {
                    true => EtcdErrorKind::TooLarge,
                    false => EtcdErrorKind::Unreachable,
                };
                self.failed(operation, kind, e)
            })?;
            Ok((status, read.to_bytes()))
        };
        self.within(limit + CONNECT, operation, asking).await
    }

    pub(super) async fn send(
        &self,
        operation: &'static str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, JoinHandle<()>), EtcdError> {
        let unreachable =
            |e: hyper::Error| self.failed(operation, EtcdErrorKind::Unreachable, Box::new(e));
        let connecting = self.connect(operation);
        let stream = self.within(CONNECT, operation, connecting).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(unreachable)?;
        let driver = tokio::spawn(async move {
            // What went wrong here is told by the request.
            let _ = connection.await;
        });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, format!("{}:{}", self.host, self.port))
            .header(USER_AGENT, "platform-agent")
            .header(CONTENT_TYPE, "application/json")
            .header(CONNECTION, "close")
            .body(Full::new(body))
            .map_err(|e| self.failed(operation, EtcdErrorKind::Other, Box::new(e)))?;
        match sender.send_request(request).await {
            Ok(answer) => Ok((answer, driver)),
            Err(e) => {
                driver.abort();
                // A TLS 1.3 server refuses a client's certificate after the handshake, in its first record.
                let kind = match refused_certificate(&e) {
                    true => EtcdErrorKind::Untrusted,
                    false => EtcdErrorKind::Unreachable,
                };
                Err(self.failed(operation, kind, Box::new(e)))
            }
        }
    }

    async fn connect(
        &self,
        operation: &'static str,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, EtcdError> {
        let unreachable = |e: Box<dyn std::error::Error + Send + Sync>| {
            self.failed(operation, EtcdErrorKind::Unreachable, e)
        };
        let (addresses, name) = match &self.host {
            Host::Ipv4(ip) => (vec![IpAddr::V4(*ip)], ServerName::from(IpAddr::V4(*ip))),
            Host::Ipv6(ip) => (vec![IpAddr::V6(*ip)], ServerName::from(IpAddr::V6(*ip))),
            Host::Domain(name) => {
                let server = ServerName::try_from(name.clone())
                    .map_err(|e| self.failed(operation, EtcdErrorKind::Other, Box::new(e)))?;
                let addresses = match self.at {
                    Some(_) => Vec::new(),
                    None => self.dns.addresses(name).await.map_err(unreachable)?,
                };
                (addresses, server)
            }
        };
        let address = self.at.or_else(|| addresses.first().copied());
        let address = address.ok_or_else(|| self.other(operation, "its name has no address"))?;
        let stream = TcpStream::connect(SocketAddr::new(address, self.port))
            .await
            .map_err(|e| unreachable(Box::new(e)))?;
        let connector = TlsConnector::from(Arc::clone(&self.identity.tls));
        connector.connect(name, stream).await.map_err(|e| {
            let kind = match e.kind() {
                std::io::ErrorKind::InvalidData => EtcdErrorKind::Untrusted,
                _ => EtcdErrorKind::Unreachable,
            };
            self.failed(operation, kind, Box::new(e))
        })
    }

    pub(super) async fn within<T>(
        &self,
        limit: Duration,
        operation: &'static str,
        call: impl Future<Output = Result<T, EtcdError>>,
    ) -> Result<T, EtcdError> {
        match tokio::time::timeout(limit, call).await {
            Ok(done) => done,
            Err(late) => Err(self.failed(operation, EtcdErrorKind::Unreachable, Box::new(late))),
        }
    }

    pub(super) fn refused(&self, operation: &'static str, status: u16, body: &[u8]) -> EtcdError {
        let refusal: Option<Refusal> = serde_json::from_slice(body).ok();
        let (code, said) = match &refusal {
            Some(refusal) => (refusal.code(), refusal.message().to_owned()),
            None => (0, format!("HTTP status {status}")),
        };
        EtcdError {
            endpoint: self.endpoint.clone(),
            operation,
            kind: EtcdErrorKind::of_answer(code, &said),
            said: crate::trouble::shortened(&said),
            source: None,
        }
    }

    pub(super) fn failed(
        &self,
        operation: &'static str,
        kind: EtcdErrorKind,
        source: Box<dyn std::error::Error + Send + Sync>,
    ) -> EtcdError {
        EtcdError {
            endpoint: self.endpoint.clone(),
            operation,
            kind,
            said: String::new(),
            source: Some(source),
        }
    }

    pub(super) fn other(&self, operation: &'static str, said: &str) -> EtcdError {
        EtcdError {
            endpoint: self.endpoint.clone(),
            operation,
            kind: EtcdErrorKind::Other,
            said: said.to_owned(),
            source: None,
        }
    }
}

/// Whether rustls is in the chain: what it says after the handshake is the other side's alert.
fn refused_certificate(error: &hyper::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        let io = cause.downcast_ref::<std::io::Error>();
        let inner = io.and_then(std::io::Error::get_ref);
        let alert = inner.and_then(|e| e.downcast_ref::<tokio_rustls::rustls::Error>());
        if alert.is_some() {
            return true;
        }
        next = cause.source();
    }
    false
}
