use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::*;
use crate::admin::state::{InstanceState, Lifecycle, NodeStatus, Soon, StatusSource};
use crate::cluster::topology::{Mode, NodeAddr, SLOTS, Shard, Topology, UNASSIGNED};
use crate::cluster::watcher::WatcherStatus;
use crate::credentials::{Credential, CredentialState, Secret};
use crate::telemetry::control::{MapSources, ProcessSources};
use crate::telemetry::scrape::{InstanceSources, Scrape};

struct Source {
    dead: Option<String>,
    /// Never tells its connections.
    stuck: bool,
}

impl StatusSource for Source {
    fn listeners(&self) -> Vec<String> {
        vec!["127.0.0.1:6379".to_owned()]
    }

    fn clients(&self) -> u64 {
        3
    }

    fn nodes(&self) -> Soon<'_, Vec<NodeStatus>> {
        if self.stuck {
            return Box::pin(std::future::pending());
        }
        Box::pin(async {
            vec![NodeStatus {
                state: "ready",
                authenticated_seconds_ago: Some(1),
                next_renewal_in_seconds: Some(2),
                backoff_seconds: None,
                node: "10.0.0.1:11000".to_owned(),
                ready: 2,
                connecting: 1,
                in_flight: 9,
                last_error: None,
            }]
        })
    }

    fn alive(&self) -> Result<(), String> {
        self.dead.clone().map_or(Ok(()), Err)
    }
}

/// A served state whose parts a test can change.
struct Bed {
    port: u16,
    credentials: watch::Sender<CredentialState>,
    topology: watch::Sender<Option<Arc<Topology>>>,
    watcher: watch::Sender<WatcherStatus>,
    lifecycle: Arc<Lifecycle>,
    stop: oneshot::Sender<()>,
    served: tokio::task::JoinHandle<io::Result<()>>,
}

async fn bed(health_check: bool, prometheus: bool, dead: Option<&str>) -> Bed {
    let credentials = watch::channel(CredentialState::Pending);
    let topology = watch::channel(None);
    let watcher = watch::channel(WatcherStatus::default());
    let lifecycle = Arc::new(Lifecycle::default());
    let state = AppState {
        credentials: credentials.1.clone(),
        instances: vec![InstanceState {
            name: "seed:6379".into(),
            topology: topology.1.clone(),
            watcher: watcher.1.clone(),
            backend: None,
            source: Arc::new(Source { dead: dead.map(str::to_owned), stuck: dead.is_some() }),
        }],
        lifecycle: lifecycle.clone(),
        started_at: SystemTime::now(),
    };
    let metrics = prometheus.then(|| {
        let process = ProcessSources {
            credentials: credentials.1,
            credential_counts: Arc::new(Vec::new),
            started_at: state.started_at,
        };
        let map = MapSources { resting: Vec::new(), topology: topology.1, watcher: watcher.1 };
        let threads = vec![Arc::default()];
        let instance = InstanceSources { name: "seed:6379".into(), threads, map };
        Scrape::new(process, vec![instance]).unwrap()
    });
    let listener = bind("127.0.0.1", 0).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (stop, stopped) = oneshot::channel::<()>();
    let router = router(Arc::new(state), health_check, metrics);
    let served = tokio::spawn(serve(listener, router, async {
        let _ = stopped.await;
    }));
    let (credentials, topology, watcher) = (credentials.0, topology.0, watcher.0);
    Bed { port, credentials, topology, watcher, lifecycle, stop, served }
}

impl Bed {
    /// Status code, headers and body of a GET.
    async fn get(&self, path: &str) -> (u16, String, String) {
        let exchange = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            text
        };
        let text = timeout(Duration::from_secs(20), exchange).await.unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, head.to_owned(), body.to_owned())
    }

    async fn expect(&self, path: &str, code: u16, says: &str) {
        let (got, _, body) = self.get(path).await;
        assert_eq!(got, code, "{path}: {body}");
        assert!(body.contains(says), "{path}: {body}");
    }

    fn set_map(&self, covered: usize) {
        let mut slots = Box::new([UNASSIGNED; SLOTS]);
        slots[..covered].fill(0);
        slots[7] = 1;
        let node = |host: &str| NodeAddr { host: host.into(), port: 11000 };
        let shards = vec![
            Shard { primary: node("10.0.0.1"), replicas: vec![node("10.0.0.9")] },
            Shard { primary: node("fd00::1"), replicas: vec![] },
        ];
        let map =
            Topology { epoch: 4, mode: Mode::Cluster, shards, slots, server: Default::default() };
        self.topology.send_replace(Some(Arc::new(map)));
    }

    fn set_credential(&self) {
        let now = SystemTime::now();
        self.credentials.send_replace(CredentialState::Ready {
            credential: Arc::new(Credential {
                username: "user@example".into(),
                secret: Secret::new("ya29.hidden".to_owned()),
                expires_at: Some(now + Duration::from_secs(3000)),
                obtained_at: now - Duration::from_secs(600),
                generation: 12,
                source: "metadata server",
                principal: None,
            }),
            refresh_error: Some("metadata server: 500".into()),
        });
    }
}

#[tokio::test]
async fn probes_tell_what_is_missing() {
    let bed = bed(true, false, None).await;
    bed.expect("/liveness", 200, "ok").await;
    bed.expect("/startup", 503, "not listening").await;
    bed.expect("/readiness", 503, "first credential is awaited").await;

    bed.lifecycle.set_listening();
    bed.watcher.send_modify(|w| w.error = Some("seed:6379 refused".into()));
    bed.expect("/startup", 503, "the cluster map is not known: seed:6379 refused").await;
    bed.set_credential();
    bed.set_map(SLOTS);
    bed.expect("/startup", 200, "ok").await;
    bed.expect("/readiness", 200, "ok").await;

    bed.set_map(SLOTS - 1);
    bed.expect("/readiness", 503, "only 16383 of 16384 slots").await;
    bed.set_map(SLOTS);
    bed.credentials.send_replace(CredentialState::Failed { error: "gcloud: expired".into() });
    bed.expect("/readiness", 503, "no usable credential: gcloud: expired").await;
    bed.expect("/startup", 200, "ok").await;
    bed.expect("/liveness", 200, "ok").await;
    bed.credentials.send_replace(CredentialState::NotNeeded);
    bed.expect("/readiness", 200, "ok").await;
    bed.lifecycle.set_draining();
    bed.expect("/readiness", 503, "draining").await;
    bed.expect("/liveness", 200, "ok").await;
}

#[tokio::test]
async fn a_dead_worker_fails_liveness() {
    let bed = bed(true, false, Some("worker 0 ended")).await;
    bed.expect("/liveness", 503, "worker 0 ended").await;
    bed.expect("/status", 200, "\"nodes\":null").await;
}

#[tokio::test]
async fn paths_exist_only_with_their_flag() {
    let health = bed(true, false, None).await;
    health.expect("/metrics", 404, "").await;
    health.expect("/status", 200, "version").await;
    let metrics = bed(false, true, None).await;
    for path in ["/startup", "/liveness", "/readiness", "/"] {
        metrics.expect(path, 404, "").await;
    }
    metrics.expect("/status", 200, "version").await;
    let (code, head, body) = metrics.get("/metrics").await;
    assert_eq!(code, 200);
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    assert!(
        body.contains("\nmemorystore_proxy_commands_total{instance_name=\"seed:6379\"} 0\n"),
        "{body}"
    );
    assert!(
        body.contains("\nmemorystore_proxy_topology_epoch{instance_name=\"seed:6379\"} 0\n"),
        "{body}"
    );
}

#[tokio::test]
async fn status_shows_the_world_and_no_secret() {
    let bed = bed(true, true, None).await;
    bed.lifecycle.set_listening();
    bed.set_credential();
    bed.set_map(100);
    bed.watcher.send_modify(|w| {
        w.refreshes = 2;
        w.answered_by = Some(NodeAddr { host: "seed".into(), port: 6379 });
        w.refreshed_at = Some(SystemTime::now());
    });
    let (code, head, body) = bed.get("/status").await;
    assert_eq!(code, 200);
    assert!(head.contains("application/json"), "{head}");
    for secret in ["ya29", "user@example"] {
        assert!(!body.contains(secret), "{body}");
        assert!(!bed.get("/metrics").await.2.contains(secret));
        assert!(!bed.get("/readiness").await.2.contains(secret));
    }
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    let at = |pointer: &str| json.pointer(pointer).unwrap_or_else(|| panic!("{pointer}: {body}"));
    assert_eq!(at("/instances/0/listeners/0"), "127.0.0.1:6379");
    assert_eq!(at("/clients"), 3);
    assert_eq!(at("/credential/state"), "ready");
    assert_eq!(at("/credential/source"), "metadata server");
    assert_eq!(at("/credential/generation"), 12);
    assert_eq!(at("/credential/error"), "metadata server: 500");
    let age = at("/credential/age_seconds").as_i64().unwrap();
    assert!((600..660).contains(&age), "{age}");
    let left = at("/credential/expires_in_seconds").as_i64().unwrap();
    assert!((2940..=3000).contains(&left), "{left}");
    assert_eq!(at("/instances/0/topology/mode"), "cluster");
    assert_eq!(at("/instances/0/topology/epoch"), 4);
    assert_eq!(at("/instances/0/topology/slots_covered"), 100);
    assert_eq!(at("/instances/0/topology/shards/0/slots"), &serde_json::json!(["0-6", "8-99"]));
    assert_eq!(at("/instances/0/topology/shards/0/replicas/0"), "10.0.0.9:11000");
    assert_eq!(at("/instances/0/topology/shards/1/primary"), "[fd00::1]:11000");
    assert_eq!(at("/instances/0/topology/shards/1/slots"), &serde_json::json!(["7"]));
    assert_eq!(at("/instances/0/topology/answered_by"), "seed:6379");
    assert_eq!(at("/instances/0/nodes/0/in_flight"), 9);
}

#[tokio::test]
async fn the_server_ends_when_told() {
    let bed = bed(true, false, None).await;
    bed.expect("/liveness", 200, "ok").await;
    bed.stop.send(()).unwrap();
    timeout(Duration::from_secs(20), bed.served).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_taken_port_names_the_flag() {
    let taken = bind("127.0.0.1", 0).await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = bind("127.0.0.1", port).await.unwrap_err().to_string();
    assert!(error.contains("--http-port") && error.contains(&port.to_string()), "{error}");
}
