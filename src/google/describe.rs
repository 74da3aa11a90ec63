//! What the two admin APIs say about an instance: JSON in, facts out.
//!
//! The APIs differ in names (`address` or `ipAddress`, enum values with a prefix or without) and
//! agree in shape, so one reader serves both. Invariant: an endpoint is chosen by its connection type,
//! never by its place in a list; a field that is missing means its default, and a value this program
//! does not know is kept as text. It asks nobody; see [`super::api`].
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::fmt;

use serde::Deserialize;

use super::name::{Product, ResourceName};
use crate::cluster::topology::NodeAddr;

/// The port both products use where the reply names none.
const PORT: u16 = 6379;

/// What is known of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Where to connect.
    pub endpoints: Endpoints,
    /// What AUTH is given.
    pub authorization: Authorization,
    /// Whether connections are encrypted.
    pub transit: Transit,
    /// Who signs the servers' certificates.
    pub server_ca: ServerCa,
    /// `ACTIVE`, `CREATING`, `UPDATING`, `DELETING`, …; empty when the reply has none.
    pub state: String,
    /// Identity of this very instance: another one of the same name has another.
    pub uid: Option<String>,
    /// The ACL policy that is attached, by its resource name.
    pub acl_policy: Option<String>,
    /// How many shards.
    pub shards: Option<u32>,
    /// How many replicas each shard has.
    pub replicas: Option<u32>,
}

/// Where to connect. With several networks each list has an address for each of them, and the ones
/// of other networks cannot be reached: they are tried in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoints {
    /// A cluster.
    Cluster {
        /// Its discovery endpoint; never empty.
        discovery: Vec<NodeAddr>,
    },
    /// One primary with replicas behind one address (Valkey with cluster mode disabled).
    Single {
        /// Takes reads and writes; never empty.
        primary: Vec<NodeAddr>,
        /// Spreads reads over the replicas; empty when there is none.
        reader: Vec<NodeAddr>,
    },
}

/// What AUTH is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorization {
    /// An access token.
    Iam,
    /// No AUTH.
    Disabled,
    /// A token that the instance itself issues.
    Token,
    /// A mode this program does not know.
    Unknown(String),
}

/// Whether connections are encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transit {
    /// TLS only.
    Tls,
    /// Plain TCP only.
    Plain,
    /// A mode this program does not know.
    Unknown(String),
}

/// Who signs the servers' certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerCa {
    /// A CA of this instance.
    PerInstance,
    /// The CA of the region.
    Shared,
    /// A CA pool of the customer.
    CustomerManaged,
    /// A mode this program does not know.
    Unknown(String),
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list =
            |all: &[NodeAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
        match self {
            Self::Cluster { discovery } => write!(f, "discovery endpoint {}", list(discovery)),
            Self::Single { primary, reader } if reader.is_empty() => {
                write!(f, "primary {}, no reader", list(primary))
            }
            Self::Single { primary, reader } => {
                write!(f, "primary {}, reader {}", list(primary), list(reader))
            }
        }
    }
}

impl fmt::Display for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Iam => "IAM",
            Self::Disabled => "disabled",
            Self::Token => "by the instance's own tokens",
            Self::Unknown(mode) => mode,
        })
    }
}

impl fmt::Display for Transit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "TLS",
            Self::Plain => "no TLS",
            Self::Unknown(mode) => mode,
        })
    }
}

/// Why the reply gives no facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DescribeError {
    /// It is not what the API's reference describes; the text says where, never what stands there.
    Garbled(String),
    /// It is understood, and the instance cannot be connected to (yet); the text is the rest of a
    /// sentence that begins with the instance's name.
    NotUsable(String),
}

impl fmt::Display for DescribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Garbled(said) | Self::NotUsable(said) => f.write_str(said),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Instance {
    name: Option<String>,
    state: Option<String>,
    uid: Option<String>,
    mode: Option<String>,
    authorization_mode: Option<String>,
    transit_encryption_mode: Option<String>,
    server_ca_mode: Option<String>,
    acl_policy: Option<String>,
    shard_count: Option<u32>,
    replica_count: Option<u32>,
    #[serde(default)]
    discovery_endpoints: Vec<Discovery>,
    /// Redis Cluster.
    #[serde(default)]
    cluster_endpoints: Vec<Endpoint>,
    #[serde(default)]
    psc_connections: Vec<Connection>,
    /// Valkey.
    #[serde(default)]
    endpoints: Vec<Endpoint>,
    #[serde(default)]
    psc_auto_connections: Vec<Connection>,
}

#[derive(Deserialize)]
struct Discovery {
    address: Option<String>,
    port: Option<u16>,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(default)]
    connections: Vec<Either>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Either {
    psc_auto_connection: Option<Connection>,
    psc_connection: Option<Connection>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Connection {
    address: Option<String>,
    ip_address: Option<String>,
    port: Option<u16>,
    connection_type: Option<String>,
    psc_connection_status: Option<String>,
}

impl Connection {
    fn host(&self) -> Option<&str> {
        self.address.as_deref().or(self.ip_address.as_deref()).filter(|host| !host.is_empty())
    }

    fn is(&self, kind: &str) -> bool {
        self.connection_type.as_deref().is_some_and(|t| bare(t, "CONNECTION_TYPE_") == kind)
    }

    fn status(&self) -> Status {
        match self.psc_connection_status.as_deref().map(|s| bare(s, "PSC_CONNECTION_STATUS_")) {
            Some("ACTIVE") => Status::Active,
            Some("NOT_FOUND") => Status::Gone,
            _ => Status::Unsaid,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Active,
    /// None, or one this program does not know.
    Unsaid,
    Gone,
}

/// An enum value without the prefix that one of the APIs gives it.
fn bare<'a>(value: &'a str, prefix: &str) -> &'a str {
    value.strip_prefix(prefix).unwrap_or(value)
}

/// Reads the reply to `GET` of the resource `name`.
///
/// # Errors
/// What is missing.
pub fn describe(name: &ResourceName, json: &[u8]) -> Result<Facts, DescribeError> {
    let instance: Instance = serde_json::from_slice(json).map_err(|error| garbled(&error))?;
    // A body of another kind, such as `{}`, would pass for an instance without anything.
    if instance.name.is_none() {
        return Err(DescribeError::Garbled("it has no \"name\"".to_owned()));
    }
    Ok(Facts {
        endpoints: endpoints(name, &instance)?,
        authorization: authorization(instance.authorization_mode.as_deref()),
        transit: transit(instance.transit_encryption_mode.as_deref()),
        server_ca: server_ca(instance.server_ca_mode.as_deref()),
        state: instance.state.unwrap_or_default(),
        uid: instance.uid,
        acl_policy: instance.acl_policy.filter(|policy| !policy.is_empty()),
        shards: instance.shard_count,
        replicas: instance.replica_count,
    })
}

fn garbled(error: &serde_json::Error) -> DescribeError {
    // Not serde's text: that may quote the reply.
    let (line, column) = (error.line(), error.column());
    DescribeError::Garbled(match error.classify() {
        serde_json::error::Category::Data => {
            format!("a field has an unexpected type (line {line}, column {column})")
        }
        _ => format!("it is not JSON (line {line}, column {column})"),
    })
}

fn authorization(mode: Option<&str>) -> Authorization {
    let mode = mode.unwrap_or_default();
    let bare = bare(bare(mode, "AUTH_MODE_"), "AUTHORIZATION_MODE_");
    match bare {
        "IAM_AUTH" => Authorization::Iam,
        // The references of both APIs: not provided means disabled.
        "" | "UNSPECIFIED" | "DISABLED" | "AUTH_DISABLED" => Authorization::Disabled,
        "TOKEN_AUTH" => Authorization::Token,
        _ => Authorization::Unknown(mode.to_owned()),
    }
}

fn transit(mode: Option<&str>) -> Transit {
    let mode = mode.unwrap_or_default();
    match bare(bare(mode, "TRANSIT_ENCRYPTION_MODE_"), "TRANSIT_ENCRYPTION_") {
        "SERVER_AUTHENTICATION" => Transit::Tls,
        "" | "UNSPECIFIED" | "DISABLED" => Transit::Plain,
        _ => Transit::Unknown(mode.to_owned()),
    }
}

fn server_ca(mode: Option<&str>) -> ServerCa {
    let mode = mode.unwrap_or_default();
    match bare(mode, "SERVER_CA_MODE_") {
        "" | "UNSPECIFIED" | "GOOGLE_MANAGED_PER_INSTANCE_CA" => ServerCa::PerInstance,
        "GOOGLE_MANAGED_SHARED_CA" => ServerCa::Shared,
        "CUSTOMER_MANAGED_CAS_CA" => ServerCa::CustomerManaged,
        _ => ServerCa::Unknown(mode.to_owned()),
    }
}

fn endpoints(name: &ResourceName, instance: &Instance) -> Result<Endpoints, DescribeError> {
    let connections = connections(instance);
    let mut gone = false;
    let mut pick = |kind| {
        let (addresses, some_gone) = usable(instance, &connections, kind);
        gone |= some_gone;
        addresses
    };
    let discovery = pick("DISCOVERY");
    if !discovery.is_empty() {
        return Ok(Endpoints::Cluster { discovery });
    }
    let primary = pick("PRIMARY");
    if !primary.is_empty() {
        return Ok(Endpoints::Single { primary, reader: pick("READER") });
    }
    Err(DescribeError::NotUsable(nowhere(name.product(), instance, gone)))
}

/// Every connection that any part of the reply lists.
fn connections(instance: &Instance) -> Vec<&Connection> {
    let made = instance.cluster_endpoints.iter().chain(&instance.endpoints);
    made.flat_map(|endpoint| &endpoint.connections)
        .filter_map(|either| either.psc_auto_connection.as_ref().or(either.psc_connection.as_ref()))
        .chain(&instance.psc_connections)
        .chain(&instance.psc_auto_connections)
        .collect()
}

/// The addresses of this connection type: the active ones, or those nobody calls gone; and whether
/// one is gone.
fn usable(instance: &Instance, all: &[&Connection], kind: &str) -> (Vec<NodeAddr>, bool) {
    let mut found: Vec<(NodeAddr, Status)> = Vec::new();
    let mut add = |host: &str, port: Option<u16>, status| {
        let known = found.iter_mut().find(|(addr, _)| &*addr.host == host);
        match known {
            // The same connection in another list of the reply.
            Some((_, old)) if *old == Status::Unsaid => *old = status,
            Some(_) => {}
            None => {
                let port = port.filter(|&port| port != 0).unwrap_or(PORT);
                found.push((NodeAddr { host: host.into(), port }, status));
            }
        }
    };
    if kind == "DISCOVERY" {
        for endpoint in &instance.discovery_endpoints {
            if let Some(host) = endpoint.address.as_deref().filter(|host| !host.is_empty()) {
                add(host, endpoint.port, Status::Unsaid);
            }
        }
    }
    for connection in all.iter().filter(|connection| connection.is(kind)) {
        if let Some(host) = connection.host() {
            add(host, connection.port, connection.status());
        }
    }
    let with = |wanted| {
        let of_it = found.iter().filter(move |(_, status)| *status == wanted);
        of_it.map(|(addr, _)| addr.clone()).collect::<Vec<_>>()
    };
    let active = with(Status::Active);
    let addresses = if active.is_empty() { with(Status::Unsaid) } else { active };
    (addresses, !with(Status::Gone).is_empty())
}

/// Why there is no endpoint, as the rest of a sentence.
fn nowhere(product: Product, instance: &Instance, gone: bool) -> String {
    let single = matches!(instance.mode.as_deref(), Some("CLUSTER_DISABLED" | "STANDALONE"));
    let missing = if single { "primary" } else { "discovery" };
    let state = instance.state.as_deref().unwrap_or_default();
    match state {
        "CREATING" => format!(
            "is still being created (state CREATING) and has no {missing} endpoint yet; wait until \
             its state is ACTIVE"
        ),
        "DELETING" => "is being deleted (state DELETING); name another one".to_owned(),
        _ if gone => format!(
            "has lost its Private Service Connect connections (status NOT_FOUND): the forwarding rule \
             of its {missing} endpoint was deleted; create the connection anew"
        ),
        _ => format!(
            "has no {missing} endpoint: no Private Service Connect connection of type \
             CONNECTION_TYPE_{}; create one for your network (a service connection policy does it), \
             or give HOST:PORT instead of the name of the {}",
            missing.to_ascii_uppercase(),
            product.noun()
        ),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Authority {
    managed_server_ca: Option<ManagedServerCa>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ManagedServerCa {
    #[serde(default)]
    ca_certs: Vec<Chain>,
}

#[derive(Deserialize)]
struct Chain {
    #[serde(default)]
    certificates: Vec<String>,
}

/// Reads the reply to `GET` of a certificate authority: the certificates of all its chains, in PEM,
/// each one once. There are several chains while one CA takes over from another.
///
/// # Errors
/// [`DescribeError::Garbled`], or [`DescribeError::NotUsable`] when there is no certificate.
pub fn ca_bundle(json: &[u8]) -> Result<String, DescribeError> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let authority: Authority = serde_json::from_slice(json).map_err(|error| garbled(&error))?;
    let chains = authority.managed_server_ca.map(|ca| ca.ca_certs).unwrap_or_default();
    let mut seen: Vec<String> = Vec::new();
    for certificate in chains.into_iter().flat_map(|chain| chain.certificates) {
        let certificate = certificate.trim().to_owned();
        if !(certificate.starts_with(BEGIN) && certificate.ends_with(END)) {
            return Err(DescribeError::Garbled("a certificate is not in PEM".to_owned()));
        }
        if !seen.contains(&certificate) {
            seen.push(certificate);
        }
    }
    if seen.is_empty() {
        let said = "has no CA certificate yet; it is asked again, or give --server-ca-file";
        return Err(DescribeError::NotUsable(said.to_owned()));
    }
    seen.push(String::new());
    Ok(seen.join("\n"))
}

#[cfg(test)]
mod tests;
