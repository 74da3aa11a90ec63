//! The HTTP server: which paths there are, and what they answer.
//!
//! Invariant: a path exists only when its flag is given. The server is not on the data path: it runs
//! on the control thread, and its failure stops nothing else.

use std::future::Future;
use std::io;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::TextEncoder;
use tokio::net::TcpListener;

use super::health::{self, Unhealthy};
use super::state::AppState;
use super::status::{Status, status};
use crate::telemetry::scrape::Scrape;

/// The HTTP side could not start.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen for health checks and metrics on {host}:{port}: {cause}; give another \
     --http-port (0 takes a free one) or --http-address, or drop --health-check and --prometheus"
)]
pub struct BindError {
    host: String,
    port: u16,
    cause: io::Error,
}

/// Binds `--http-address` and `--http-port`; `port` 0 takes a free one.
///
/// # Errors
/// [`BindError`] names the flags.
pub async fn bind(host: &str, port: u16) -> Result<TcpListener, BindError> {
    TcpListener::bind((host, port)).await.map_err(|cause| BindError {
        host: host.to_owned(),
        port,
        cause,
    })
}

/// The paths: health when `health_check`, `/metrics` when there is something to scrape, `/status` always.
pub fn router(state: Arc<AppState>, health_check: bool, metrics: Option<Scrape>) -> Router {
    let mut router = Router::new().route("/status", get(status_handler));
    if health_check {
        router = router
            .route("/startup", get(startup))
            .route("/liveness", get(liveness))
            .route("/readiness", get(readiness));
    }
    let mut router = router.with_state(state);
    if let Some(metrics) = metrics {
        router = router.route("/metrics", get(move || std::future::ready(text(&metrics))));
    }
    router
}

/// Serves until `shutdown` ends; requests under way are still answered.
///
/// # Errors
/// The listener failed for good.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await
}

async fn startup(State(state): State<Arc<AppState>>) -> Response {
    probe(health::startup(&state))
}

async fn liveness(State(state): State<Arc<AppState>>) -> Response {
    probe(health::liveness(&state))
}

async fn readiness(State(state): State<Arc<AppState>>) -> Response {
    probe(health::readiness(&state))
}

async fn status_handler(State(state): State<Arc<AppState>>) -> Json<Status> {
    Json(status(&state).await)
}

fn probe(outcome: Result<(), Unhealthy>) -> Response {
    match outcome {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(Unhealthy(reasons)) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", reasons.join("\n"))).into_response()
        }
    }
}

fn text(metrics: &Scrape) -> Response {
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    match TextEncoder::new().encode_to_string(&metrics.gather()) {
        Ok(text) => (content_type, text).into_response(),
        Err(e) => {
            tracing::error!("cannot write the metrics as text: {e}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
