//! The instances the user names, each with listeners of its own.
//!
//! An instance is `ENDPOINT[?key=value&…]`, as cloud-sql-proxy writes it; the keys are flags that one
//! instance may have otherwise than the rest. Invariant: no two instances share an address, a Unix
//! socket or a name.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::Arc;

use super::endpoint::Endpoint;
use super::values::{ip, octal, port, read_from, socket_path};
use super::{Listen, Reader, UnixSocket};
use crate::args::flags;
use crate::error::Error;
use crate::worker::hub::ReadFrom;

/// One cluster, or server, and where its clients connect.
#[derive(Debug, Clone)]
pub struct Instance {
    /// What logs, metrics and `/status` call it: the endpoint, and `#2` behind it if that is given twice.
    pub name: Arc<str>,
    /// Where it is.
    pub endpoint: Endpoint,
    /// Where its clients connect.
    pub listen: Listen,
    /// Which of its nodes answer reads.
    pub read_from: ReadFrom,
}

/// What stands behind the question mark.
#[derive(Default)]
struct Query {
    address: Option<std::net::IpAddr>,
    port: Option<u16>,
    unix_socket: Option<std::path::PathBuf>,
    read_from: Option<ReadFrom>,
}

impl Query {
    fn parse(text: &str) -> Result<Self, String> {
        let mut query = Self::default();
        for (key, value) in form_urlencoded::parse(text.as_bytes()) {
            let says = |says: String| format!("has a wrong {key}=: {says}");
            let twice = match &*key {
                "address" => query.address.replace(ip(&value).map_err(says)?).is_some(),
                "port" => query.port.replace(port(&value).map_err(says)?).is_some(),
                "unix-socket" | "unix-socket-path" => {
                    query.unix_socket.replace(socket_path(&value).map_err(says)?).is_some()
                }
                "read-from" => query.read_from.replace(read_from(&value).map_err(says)?).is_some(),
                _ => {
                    return Err(format!(
                        "has an unknown key '{key}' behind the question mark; it takes port, address, \
                         unix-socket and read-from"
                    ));
                }
            };
            if twice {
                return Err(format!("gives {key} twice; give it once"));
            }
        }
        Ok(query)
    }
}

/// A token that lost its flag must not be repeated in an error.
fn looks_like_a_token(text: &str) -> bool {
    text.starts_with("ya29.") || text.starts_with("eyJ")
}

impl Reader<'_> {
    /// Reads all instances.
    pub(super) fn instances(&self) -> Result<Vec<Instance>, Error> {
        let name = flags::ENDPOINT;
        let unix_socket = self.unix_socket()?;
        let default_address = self.typed("address", ip)?;
        self.may_listen_on("address", default_address)?;
        let default_read_from = self.typed("read-from", read_from)?;
        let mode = self.typed("unix-socket-mode", octal)?;
        let mut next_port = self.typed("port", port)?;
        let Some(given) = self.0.get(name) else {
            return Err(Error::config(
                "the cluster's endpoint is missing; give its resource name or its discovery endpoint \
                 as HOST:PORT, for example 'memorystore-auth-proxy 10.0.0.3:6379'",
            ));
        };
        let texts: Vec<&str> = given.text.split_whitespace().collect();
        let fail = |says: String| self.fail(name, given.origin, says);
        if texts.is_empty() {
            return fail("is empty; give the discovery endpoint as HOST:PORT".to_owned());
        }
        if texts.iter().any(|text| looks_like_a_token(text)) {
            return fail(
                "is no endpoint but looks like an access token; put --token in front of it"
                    .to_owned(),
            );
        }
        if let (Some(_), [_, second, ..], Some(socket)) =
            (&unix_socket, &texts[..], self.0.get("unix-socket"))
        {
            let says = format_args!(
                "is one path for several instances; write it behind each, such as \
                 '{second}?unix-socket=PATH'"
            );
            return self.fail("unix-socket", socket.origin, says);
        }
        let mut instances: Vec<Instance> = Vec::with_capacity(texts.len());
        for text in texts {
            let (target, query) = text.split_once('?').unwrap_or((text, ""));
            let query = match Query::parse(query) {
                Ok(query) => query,
                Err(says) => return fail(format!("'{target}' {says}")),
            };
            let endpoint = match Endpoint::parse(target) {
                Ok(endpoint) => endpoint,
                Err(says) => return fail(says),
            };
            let port = match query.port {
                Some(port) => port,
                None => {
                    let port = next_port;
                    // 0 takes a free port each time.
                    if next_port != 0 {
                        next_port = next_port.saturating_add(1);
                    }
                    port
                }
            };
            let address = query.address.unwrap_or(default_address);
            if query.address.is_some() {
                self.may_listen_on(name, address)?;
            }
            let own_socket = query.unix_socket.map(|path| UnixSocket { path, mode });
            let listen =
                Listen { address, port, unix_socket: own_socket.or_else(|| unix_socket.clone()) };
            if let Some(other) = instances.iter().find(|i| i.listen.overlaps(&listen)) {
                return fail(format!(
                    "lets '{text}' and '{}' listen on the same address or socket; give one of them \
                     another ?port= or ?unix-socket=",
                    other.name
                ));
            }
            let same = instances.iter().filter(|i| i.endpoint == endpoint).count();
            instances.push(Instance {
                name: if same == 0 {
                    target.into()
                } else {
                    format!("{target}#{}", same + 1).into()
                },
                endpoint,
                listen,
                read_from: query.read_from.unwrap_or(default_read_from),
            });
        }
        Ok(instances)
    }
}

#[cfg(test)]
mod tests {
    use crate::args::{self, Request};
    use crate::config::Config;
    use crate::env::Environment;
    use crate::worker::hub::ReadFrom;

    fn load(args: &[&str]) -> Result<Config, String> {
        let argv = ["proxy"].iter().chain(args);
        let request = args::parse(argv, &Environment::from_iter([("A", "")])).unwrap();
        let Request::Run(settings) = request else { panic!("shows help") };
        Config::from_settings(&settings).map_err(|error| error.to_string())
    }

    fn shown(config: &Config) -> Vec<String> {
        let show = |i: &super::Instance| {
            let socket = i.listen.unix_socket.as_ref().map(|u| u.path.display().to_string());
            format!("{} {}:{} {socket:?}", i.name, i.listen.address, i.listen.port)
        };
        config.instances.iter().map(show).collect()
    }

    #[test]
    fn ports_count_up_and_the_query_wins() {
        let config = load(&[
            "--port=7000",
            "a:1,b:1",
            "c:1?port=9000&address=::1&read-from=replica",
            "d:1?unix-socket=/run/d%20d",
            "a:1,b:1",
        ])
        .unwrap();
        assert_eq!(
            shown(&config),
            [
                "a:1,b:1 127.0.0.1:7000 None",
                "c:1 ::1:9000 None",
                "d:1 127.0.0.1:7001 Some(\"/run/d d\")",
                "a:1,b:1#2 127.0.0.1:7002 None",
            ]
        );
        assert_eq!(config.instances[1].read_from, ReadFrom::Replica);
        assert_eq!(config.instances[0].read_from, ReadFrom::Primary);
        let free = load(&["--port=0", "a:1", "b:1"]).unwrap();
        assert!(free.instances.iter().all(|i| i.listen.port == 0));
    }

    #[test]
    fn wrong_instances_say_why() {
        for (args, says) in [
            (&["a:1?port=x"][..], "'a:1' has a wrong port=: 'x' is not a number"),
            (&["a:1?prot=1"], "unknown key 'prot'"),
            (&["a:1?port=1&port=2"], "gives port twice"),
            (&["a:1?address=0.0.0.0"], "--allow-non-loopback"),
            (&["a:1", "b:1?port=6379"], "listen on the same address"),
            (&["a:1?unix-socket=/s", "b:1?unix-socket=/s"], "the same address or socket"),
            (&["--unix-socket=/s", "a:1", "b:1"], "'b:1?unix-socket=PATH'"),
            (&["a:1", "b"], "'b' has no port"),
            (&["a:1", "ya29.hush"], "looks like an access token"),
            (&["a:1?port=9090", "--health-check"], "--http-port are both 9090"),
        ] {
            let error = load(args).unwrap_err();
            assert!(error.contains(says) && !error.contains("hush"), "{args:?}: {error}");
        }
    }
}
