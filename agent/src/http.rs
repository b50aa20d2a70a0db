//! `/metrics` and `/healthz` over plain HTTP, on an address that is loopback unless somebody says otherwise.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::metrics::Metrics;

/// Most connections at a time; scrapers are few.
const CONNECTIONS: usize = 16;
/// How long one connection may live: a scraper that keeps it opens another.
const CONNECTION_LIFE: Duration = Duration::from_secs(30);
/// How long the head of a request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait before an address that is taken is tried again.
const BIND_AGAIN: Duration = Duration::from_secs(30);

/// Binds `address` and serves for ever. An address that is taken is logged and tried again: no metrics is no reason
/// for a node without an agent.
pub async fn serve(address: SocketAddr, metrics: Metrics) -> Infallible {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                tracing::error!(%address, %error, "cannot serve metrics");
                tokio::time::sleep(BIND_AGAIN).await;
            }
        }
    };
    match listener.local_addr() {
        Ok(address) => tracing::info!(%address, "serving metrics"),
        Err(error) => tracing::warn!(%error, "serving metrics at an unknown address"),
    }
    serve_on(listener, metrics).await
}

/// Serves on a listener that is bound already.
pub async fn serve_on(listener: TcpListener, metrics: Metrics) -> Infallible {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            // The semaphore is never closed; should it be, nothing more is served.
            return std::future::pending().await;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: not a loop without a pause.
                tracing::warn!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        let metrics = metrics.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&request, &metrics);
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(CONNECTION_LIFE, connection).await;
            drop(slot);
        });
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics) -> Response<Full<Bytes>> {
    route(request.method(), request.uri().path(), metrics)
}

fn route(method: &Method, path: &str, metrics: &Metrics) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    match path {
        "/metrics" => {
            let mut response = plain(StatusCode::OK, metrics.text());
            response.headers_mut().insert(
                CONTENT_TYPE,
                HeaderValue::from_static(
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                ),
            );
            response
        }
        "/healthz" => match metrics.healthy() {
            Ok(()) => plain(StatusCode::OK, "ok\n".to_owned()),
            Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
        },
        _ => plain(StatusCode::NOT_FOUND, "/metrics or /healthz\n".to_owned()),
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    async fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn serves_health_and_metrics() {
        let metrics = Metrics::new(Duration::from_secs(10));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve_on(listener, metrics.clone()));
        let sick = ask(address, "/healthz").await;
        assert!(
            sick.starts_with("HTTP/1.1 503") && sick.contains("starting"),
            "{sick}"
        );
        metrics.disk_is(None);
        metrics.succeeded(1);
        assert!(ask(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        let text = ask(address, "/metrics").await;
        assert!(
            text.contains("platform_agent_last_success_timestamp_seconds 1.0"),
            "{text}"
        );
        assert!(text.ends_with("# EOF\n"));
        assert!(ask(address, "/etc").await.starts_with("HTTP/1.1 404"));
        server.abort();
    }
}
