//! A fake of both admin APIs: instances with their certificate authorities, in the field shapes Google's
//! own clients were seen to use, and the faults they answer with.
//!
//! It checks the bearer token against the metadata server's, as the real ones do.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value as Json, json};

use super::metadata::Tokens;

/// What an API answers instead of the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiFault {
    /// 403: the account may not read.
    Forbidden,
    /// 403: the API is off.
    Disabled,
    /// 429 with Retry-After.
    TooMany,
    /// 500.
    Internal,
    /// 200 with something else.
    Garbage,
}

#[derive(Debug, Default)]
struct World {
    resources: HashMap<String, Json>,
    fault: Option<ApiFault>,
    calls: Vec<String>,
    quota_projects: Vec<String>,
}

/// A running fake.
#[derive(Debug, Clone)]
pub struct FakeApi {
    addr: SocketAddr,
    world: Arc<Mutex<World>>,
}

#[derive(Clone)]
struct Shared {
    tokens: Arc<Tokens>,
    world: Arc<Mutex<World>>,
}

impl FakeApi {
    /// Serves nothing yet.
    pub async fn start(tokens: Arc<Tokens>) -> Self {
        let world: Arc<Mutex<World>> = Arc::default();
        let shared = Shared { tokens, world: world.clone() };
        let router = Router::new().route("/v1/{*path}", get(answer)).with_state(shared);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("its address");
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { addr, world }
    }

    /// For `--redis-api-endpoint` and `--memorystore-api-endpoint`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Flags that make a proxy ask this.
    pub fn args(&self) -> [String; 2] {
        let url = self.url();
        [format!("--redis-api-endpoint={url}"), format!("--memorystore-api-endpoint={url}")]
    }

    /// Serves this JSON below `/v1/`.
    pub fn put(&self, path: &str, body: Json) {
        self.world().resources.insert(path.to_owned(), body);
    }

    /// Answers everything with this from now on.
    pub fn set_fault(&self, fault: Option<ApiFault>) {
        self.world().fault = fault;
    }

    /// Paths asked for so far.
    pub fn calls(&self) -> Vec<String> {
        self.world().calls.clone()
    }

    /// What stood in `x-goog-user-project`.
    pub fn quota_projects(&self) -> Vec<String> {
        self.world().quota_projects.clone()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(|e| e.into_inner())
    }
}

async fn answer(
    State(shared): State<Shared>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Response {
    let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut world = shared.world.lock().unwrap_or_else(|e| e.into_inner());
    world.calls.push(path.clone());
    if headers.contains_key("x-goog-user-project") {
        world.quota_projects.push(header("x-goog-user-project").to_owned());
    }
    let token = header("authorization").strip_prefix("Bearer ").unwrap_or_default();
    if !shared.tokens.is_live(token) {
        let said = "Request had invalid authentication credentials.";
        return refusal(401, "UNAUTHENTICATED", said, "ACCESS_TOKEN_TYPE_UNSUPPORTED");
    }
    match world.fault {
        None => match world.resources.get(&path) {
            Some(body) => axum::Json(body.clone()).into_response(),
            None => refusal(404, "NOT_FOUND", &format!("Resource '{path}' was not found"), ""),
        },
        Some(ApiFault::Forbidden) => {
            let said = format!("Permission 'redis.clusters.get' denied on '{path}'");
            refusal(403, "PERMISSION_DENIED", &said, "IAM_PERMISSION_DENIED")
        }
        Some(ApiFault::Disabled) => {
            let said = "Google Cloud Memorystore API has not been used in project 1 before or it is disabled.";
            refusal(403, "PERMISSION_DENIED", said, "SERVICE_DISABLED")
        }
        Some(ApiFault::TooMany) => {
            let mut response =
                refusal(429, "RESOURCE_EXHAUSTED", "Quota exceeded", "RATE_LIMIT_EXCEEDED");
            response.headers_mut().insert("retry-after", "1".parse().expect("a header"));
            response
        }
        Some(ApiFault::Internal) => refusal(500, "INTERNAL", "Internal error encountered.", ""),
        Some(ApiFault::Garbage) => "<html>a captive portal</html>".into_response(),
    }
}

fn refusal(code: u16, status: &str, message: &str, reason: &str) -> Response {
    let details = match reason {
        "" => json!([]),
        reason => json!([{
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason, "domain": "googleapis.com", "metadata": {"consumer": "projects/1"},
        }]),
    };
    let error = json!({"code": code, "message": message, "status": status, "details": details});
    let code = StatusCode::from_u16(code).expect("a status");
    (code, axum::Json(json!({ "error": error }))).into_response()
}

/// What the API says of a Redis cluster with this discovery endpoint. Connection types and order as
/// the real one has them: the data entry comes first here, and names no type.
pub fn redis_cluster(name: &str, discovery: SocketAddr, auth: &str, transit: &str) -> Json {
    let (host, port) = (discovery.ip().to_string(), discovery.port());
    json!({
        "name": name, "state": "ACTIVE", "uid": "cb3ac4ed",
        "authorizationMode": format!("AUTH_MODE_{auth}"),
        "transitEncryptionMode": format!("TRANSIT_ENCRYPTION_MODE_{transit}"),
        "discoveryEndpoints": [{"address": host, "port": port,
            "pscConfig": {"network": "projects/p/global/networks/n"}}],
        "clusterEndpoints": [{"connections": [
            {"pscAutoConnection": {"address": "10.172.0.7",
                "pscConnectionStatus": "PSC_CONNECTION_STATUS_ACTIVE"}},
            {"pscAutoConnection": {"address": host, "connectionType": "CONNECTION_TYPE_DISCOVERY",
                "pscConnectionStatus": "PSC_CONNECTION_STATUS_ACTIVE"}},
        ]}],
        "pscConnections": [{"address": host}, {"address": "10.172.0.7"}],
        "shardCount": 3, "replicaCount": 1, "nodeType": "REDIS_HIGHMEM_MEDIUM",
        "sizeGb": 39, "preciseSizeGb": 39.0,
    })
}

/// What the API says of a Valkey instance without cluster mode.
pub fn valkey_single(name: &str, primary: SocketAddr, reader: Option<SocketAddr>) -> Json {
    let connection = |kind: &str, addr: SocketAddr| {
        json!({"pscAutoConnection": {"connectionType": format!("CONNECTION_TYPE_{kind}"),
            "ipAddress": addr.ip().to_string(), "port": addr.port(),
            "pscConnectionStatus": "ACTIVE"}})
    };
    let mut connections = vec![connection("PRIMARY", primary)];
    connections.extend(reader.map(|addr| connection("READER", addr)));
    json!({
        "name": name, "state": "ACTIVE", "mode": "CLUSTER_DISABLED",
        "authorizationMode": "AUTH_DISABLED", "transitEncryptionMode": "TRANSIT_ENCRYPTION_DISABLED",
        "endpoints": [{"connections": connections}],
        "engineVersion": "VALKEY_9_0", "replicaCount": 1,
    })
}

/// What the API says of a certificate authority.
pub fn authority(name: &str, chains: &[&[&str]]) -> Json {
    let chains: Vec<Json> = chains.iter().map(|chain| json!({"certificates": chain})).collect();
    json!({"name": format!("{name}/certificateAuthority"), "managedServerCa": {"caCerts": chains}})
}
