//! /metrics, /healthz and /readyz over plain HTTP. Reads only; knows neither Kubernetes nor Slurm.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

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

/// Serves /metrics.
pub(crate) async fn metrics(
    listener: TcpListener,
    registry: Registry,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let app = Router::new().route("/metrics", get(text)).with_state(registry);
    axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await?;
    Ok(())
}

/// Serves /healthz (the process lives) and /readyz (both sides answer).
pub(crate) async fn health(
    listener: TcpListener,
    readiness: Arc<Readiness>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let app = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(ready))
        .with_state(readiness);
    axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await?;
    Ok(())
}

async fn text(State(registry): State<Registry>) -> impl IntoResponse {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => {
            (StatusCode::OK, [(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
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
