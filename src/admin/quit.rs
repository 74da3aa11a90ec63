//! `/quitquitquit` on the admin port: ends the process as SIGTERM does, with code 0.
//!
//! For jobs whose sidecar must end with them. Only on localhost, only with `--quitquitquit`. GET is
//! taken as well as POST, as cloud-sql-proxy does.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use tokio::sync::Notify;

/// The path of it.
pub const PATH: &str = "/quitquitquit";

/// Serves the path; `quit` is rung by it.
pub fn router(quit: Arc<Notify>) -> Router {
    let ring = move || {
        quit.notify_one();
        std::future::ready("stopping\n")
    };
    Router::new().route(PATH, get(ring.clone()).post(ring))
}
