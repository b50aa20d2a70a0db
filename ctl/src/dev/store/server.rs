//! Connections: HTTP/1.1 on a loopback socket, kept alive, closed in an orderly way at the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use s3s::service::S3Service;
use s3s::{Body, HttpError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::requests::Counters;

/// How long requests in progress may take after the store was told to end.
const GRACE: Duration = Duration::from_secs(5);

/// How long to wait when a connection can't be accepted, which is when file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `ending` turns true, then finishes requests in progress, for at most [`GRACE`].
pub(super) async fn serve(
    listener: TcpListener,
    service: S3Service,
    counters: Arc<Counters>,
    mut ending: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        // Each arm is cancel-safe: accept loses no connection, join_next no result, told nothing.
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (service, counters) = (service.clone(), Arc::clone(&counters));
                    connections.spawn(converse(stream, service, counters, ending.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "store can't accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "store connection ended abnormally");
                }
            }
            () = told(&mut ending) => break,
        }
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, all_ended).await.is_err() {
        tracing::warn!("store closes connections whose requests did not end");
    }
    connections.shutdown().await;
}

/// Waits for the end; an owner that is gone is one as well.
async fn told(ending: &mut watch::Receiver<bool>) {
    let _ = ending.wait_for(|ending| *ending).await;
}

async fn converse(
    stream: TcpStream,
    service: S3Service,
    counters: Arc<Counters>,
    mut ending: watch::Receiver<bool>,
) {
    // Answers are small: they must not wait for an acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "store can't set TCP_NODELAY");
    }
    counters.connections.fetch_add(1, Ordering::Relaxed);
    let _open = Open(Arc::clone(&counters));
    let answer = service_fn(move |request| answer(service.clone(), Arc::clone(&counters), request));
    let mut connection =
        std::pin::pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told(&mut ending) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "store connection broke");
    }
}

/// Counts a connection as open until it is dropped.
struct Open(Arc<Counters>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn answer(
    service: S3Service,
    counters: Arc<Counters>,
    request: Request<Incoming>,
) -> Result<Response<Body>, HttpError> {
    let mut response = service.call(request.map(Body::from)).await?;
    counters.answered(response.status());
    if response.status() == StatusCode::NOT_MODIFIED {
        // s3s can only answer it as an error, with an error's document: a 304 has no body.
        *response.body_mut() = Body::empty();
        response.headers_mut().remove(CONTENT_LENGTH);
        response.headers_mut().remove(CONTENT_TYPE);
    }
    Ok(response)
}

/// Lets this process open as many files as it may: each connection is one, and the usual soft limit is 1,024.
pub(super) fn raise_open_files_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard {
            setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        } else {
            Ok(())
        }
    });
    if let Err(error) = raised {
        tracing::debug!(%error, "can't raise the limit of open files");
    }
}
