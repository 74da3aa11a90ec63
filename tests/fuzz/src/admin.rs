//! Requests to the HTTP server, from the first byte: whatever they are, answers are HTTP, only paths
//! that exist say something, no answer holds a secret, and only `/quitquitquit` ends the process.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use memorystore_auth_proxy::admin::state::{
    AppState, InstanceState, Lifecycle, NodeStatus, Soon, StatusSource,
};
use memorystore_auth_proxy::admin::{quit, server};
use memorystore_auth_proxy::cluster::watcher::WatcherStatus;
use memorystore_auth_proxy::credentials::{Credential, CredentialState, Secret};
use memorystore_auth_proxy::telemetry::control::{MapSources, ProcessSources};
use memorystore_auth_proxy::telemetry::scrape::{InstanceSources, Scrape};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, watch};

use crate::support::within;

const HUSH: &str = "hush-5f1d";

struct Source;

impl StatusSource for Source {
    fn listeners(&self) -> Vec<String> {
        vec!["127.0.0.1:6379".to_owned()]
    }

    fn clients(&self) -> u64 {
        3
    }

    fn nodes(&self) -> Soon<'_, Vec<NodeStatus>> {
        Box::pin(async { vec![NodeStatus::idle("10.0.0.1:11000".to_owned())] })
    }

    fn alive(&self) -> Result<(), String> {
        Ok(())
    }
}

/// A client that has said everything already.
struct Wire<'a> {
    said: &'a [u8],
    heard: &'a mut Vec<u8>,
}

impl AsyncRead for Wire<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let (head, rest) = self.said.split_at(self.said.len().min(buf.remaining()));
        buf.put_slice(head);
        self.said = rest;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.heard.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

struct Bed {
    runtime: Runtime,
    status: axum::Router,
    admin: axum::Router,
    quit: Arc<Notify>,
}

fn bed() -> Bed {
    let credential = Credential {
        username: HUSH.into(),
        secret: Secret::new(HUSH.to_owned()),
        expires_at: None,
        obtained_at: SystemTime::UNIX_EPOCH,
        generation: 1,
        source: "fuzz",
        principal: None,
    };
    let state = CredentialState::Ready { credential: Arc::new(credential), refresh_error: None };
    let (_, credentials) = watch::channel(state);
    let (_, topology) = watch::channel(None);
    let (_, watcher) = watch::channel(WatcherStatus::default());
    let state = AppState {
        credentials: credentials.clone(),
        instances: vec![InstanceState {
            name: "seed:6379".into(),
            topology: topology.clone(),
            watcher: watcher.clone(),
            backend: None,
            source: Arc::new(Source),
        }],
        lifecycle: Arc::new(Lifecycle::default()),
        started_at: SystemTime::now(),
    };
    let process = ProcessSources {
        credentials,
        credential_counts: Arc::new(Vec::new),
        started_at: state.started_at,
    };
    let map = MapSources { resting: Vec::new(), topology, watcher };
    let instance = InstanceSources { name: "seed:6379".into(), threads: vec![Arc::default()], map };
    let metrics = Scrape::new(process, vec![instance]).expect("metrics");
    let quit = Arc::new(Notify::new());
    Bed {
        runtime: Builder::new_current_thread().enable_time().build().expect("a runtime"),
        status: server::router(Arc::new(state), true, Some(metrics)),
        admin: quit::router(quit.clone()),
        quit,
    }
}

thread_local! {
    static BED: Bed = bed();
}

pub fn run(data: &[u8]) {
    let [kind, said @ ..] = data else {
        return;
    };
    BED.with(|bed| {
        let router = if kind % 2 == 0 { &bed.status } else { &bed.admin };
        let mut heard = Vec::new();
        within((4 << 20) + 64 * said.len(), || {
            let wire = TokioIo::new(Wire { said, heard: &mut heard });
            let service = TowerToHyperService::new(router.clone());
            let served = hyper::server::conn::http1::Builder::new().serve_connection(wire, service);
            // A broken request ends the connection.
            let _ = bed.runtime.block_on(served);
        });
        assert!(heard.is_empty() || heard.starts_with(b"HTTP/1."));
        let heard = String::from_utf8_lossy(&heard);
        assert!(!heard.contains(HUSH), "{heard}");
        let ends = bed.runtime.block_on(async {
            tokio::select! {
                biased;
                () = bed.quit.notified() => true,
                () = std::future::ready(()) => false,
            }
        });
        let asked = said.windows(quit::PATH.len()).any(|w| w == quit::PATH.as_bytes());
        assert!(!ends || (kind % 2 == 1 && asked && heard.contains("stopping")), "it would end");
        let paths = ["/status", "/startup", "/liveness", "/readiness", "/metrics", "/quitquitquit"];
        let text = String::from_utf8_lossy(said);
        let named = paths.iter().any(|path| text.contains(path));
        assert!(named || !heard.contains(" 200 OK"), "an answer where there is no path");
    });
}
