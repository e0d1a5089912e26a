//! /metrics, /healthz and /readyz over plain HTTP, and /log for this host. Knows neither Kubernetes nor Slurm.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::TextEncoder;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::log;
use crate::metrics::{CONTENT, Roll};

/// Longest filter of the log that is read.
const FILTER: usize = 4096;
/// To strangers.
const NOT_HERE: &str = "only from the bridge's own host; use kubectl port-forward\n";
/// What figures are written as.
const TEXT: &str = "text/plain; version=0.0.4";

/// One thing that must be well before this bridge is ready.
#[derive(Debug, Default)]
pub(crate) struct Readiness {
    /// All watches have been read once.
    pub(crate) synced: AtomicBool,
    /// The API server has answered lately.
    pub(crate) kubernetes: AtomicBool,
    /// slurmrestd and slurmctld have answered lately, or the door behind which they are.
    pub(crate) slurm: AtomicBool,
}

impl Readiness {
    /// What is missing, for people; empty when ready.
    fn missing(&self) -> Vec<&'static str> {
        let parts = [
            (&self.synced, "watches are not synced"),
            (&self.kubernetes, "the Kubernetes API server does not answer"),
            (&self.slurm, "Slurm, or the door to it, does not answer"),
        ];
        parts
            .into_iter()
            .filter(|(ok, _)| !ok.load(Ordering::Relaxed))
            .map(|(_, what)| what)
            .collect()
    }
}

/// Opens a port.
pub(crate) async fn open(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Serves /metrics.
pub(crate) async fn metrics(
    listener: TcpListener,
    roll: Roll,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    serve_figures(listener, roll, None, stop).await
}

/// Serves /metrics, and /metrics/devices, which has a line for each device that is held: whoever does not want that
/// many does not ask for it.
pub(crate) async fn metrics_and_devices(
    listener: TcpListener,
    roll: Roll,
    devices: watch::Receiver<Arc<str>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    serve_figures(listener, roll, Some(devices), stop).await
}

async fn serve_figures(
    listener: TcpListener,
    roll: Roll,
    devices: Option<watch::Receiver<Arc<str>>>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut app = Router::new().route("/metrics", get(text)).with_state(roll);
    if let Some(devices) = devices {
        let page = move || async move {
            let page = devices.borrow().clone();
            ([(CONTENT_TYPE, TEXT)], page.to_string())
        };
        app = app.route("/metrics/devices", get(page));
    }
    axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await?;
    Ok(())
}

/// Serves /healthz (the process lives), /readyz (both sides answer) and /log (what is logged).
pub(crate) async fn health(
    listener: TcpListener,
    readiness: Arc<Readiness>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let app = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .route("/log", get(logged).put(change_log))
        .layer(DefaultBodyLimit::max(FILTER))
        .with_state(readiness);
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await?;
    Ok(())
}

async fn text(State(roll): State<Roll>, headers: HeaderMap) -> impl IntoResponse {
    let accepted = headers.get(ACCEPT).and_then(|accepted| accepted.to_str().ok());
    if accepted.is_some_and(|accepted| accepted.contains("application/openmetrics-text")) {
        return (StatusCode::OK, [(CONTENT_TYPE, CONTENT)], roll.as_open_metrics()).into_response();
    }
    match TextEncoder::new().encode_to_string(&roll.registry().gather()) {
        Ok(text) => (StatusCode::OK, [(CONTENT_TYPE, TEXT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// What is logged now. To those on this host only, as is changing it: that is whoever may `kubectl port-forward`.
async fn logged(ConnectInfo(from): ConnectInfo<SocketAddr>) -> impl IntoResponse {
    if !from.ip().to_canonical().is_loopback() {
        return (StatusCode::FORBIDDEN, NOT_HERE.to_owned());
    }
    match log::filter() {
        Some(filter) => (StatusCode::OK, filter + "\n"),
        None => (StatusCode::NOT_FOUND, "nothing is logged\n".to_owned()),
    }
}

async fn change_log(
    ConnectInfo(from): ConnectInfo<SocketAddr>,
    filter: String,
) -> impl IntoResponse {
    if !from.ip().to_canonical().is_loopback() {
        return (StatusCode::FORBIDDEN, NOT_HERE.to_owned());
    }
    match log::change(&filter) {
        Ok(()) => (StatusCode::OK, filter.trim().to_owned() + "\n"),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

async fn ready(State(readiness): State<Arc<Readiness>>) -> impl IntoResponse {
    let missing = readiness.missing();
    if missing.is_empty() {
        (StatusCode::OK, "ready".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, missing.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    async fn put_log(from: &str) -> (StatusCode, String) {
        let app = Router::new().route("/log", get(logged).put(change_log));
        let mut request = Request::put("/log").body(Body::from("gangway=loud")).expect("a request");
        let from: SocketAddr = from.parse().expect("an address");
        request.extensions_mut().insert(ConnectInfo(from));
        let answer = app.oneshot(request).await.expect("an answer");
        let status = answer.status();
        let body = to_bytes(answer.into_body(), 4096).await.expect("a body");
        (status, String::from_utf8(body.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn what_is_logged_is_changed_from_this_host_alone() {
        for stranger in ["10.0.0.7:4711", "[2001:db8::7]:4711", "[::ffff:10.0.0.7]:4711"] {
            let (status, said) = put_log(stranger).await;
            assert_eq!(status, StatusCode::FORBIDDEN, "{stranger}");
            assert!(said.contains("port-forward"), "{said}");
        }
        for own in ["127.0.0.1:4711", "[::1]:4711", "[::ffff:127.0.0.1]:4711"] {
            let (status, said) = put_log(own).await;
            assert_eq!((status, said.contains("not a filter")), (StatusCode::BAD_REQUEST, true));
        }
    }
}
