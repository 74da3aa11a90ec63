//! The discovery endpoint as the user names it.
//!
//! Invariant: a seed that parsed has a host that can be dialled or looked up, and a port other
//! than 0. Names are not looked up here.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::cluster::topology::NodeAddr;
use crate::google::name::ResourceName;

/// What the proxy is pointed at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// One or more nodes or discovery addresses, tried in this order.
    Seeds(Vec<NodeAddr>),
    /// The resource name of a cluster or instance, to be looked up with Google's API.
    Resource(ResourceName),
}

impl Endpoint {
    /// Reads `HOST:PORT[,HOST:PORT…]` or a resource name.
    ///
    /// # Errors
    /// The rest of a sentence that begins with the setting's name: what is wrong, and the mend.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("//") || text.trim_start_matches('/').starts_with("projects/") {
            return ResourceName::parse(text).map(Self::Resource);
        }
        let mut seeds: Vec<NodeAddr> = Vec::new();
        for item in text.split(',') {
            let seed = seed(item.trim())?;
            if !seeds.contains(&seed) {
                seeds.push(seed);
            }
        }
        Ok(Self::Seeds(seeds))
    }
}

fn seed(text: &str) -> Result<NodeAddr, String> {
    if text.is_empty() {
        return Err("has an empty entry; give HOST:PORT, several separated by commas".to_owned());
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(format!("begins with {scheme}://; give HOST:PORT without a scheme"));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Err(format!("'{text}' has no port; write an IPv6 address as [{text}]:6379"));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, after) = rest
                .split_once(']')
                .ok_or_else(|| format!("'{text}' lacks the ]; write [IPv6]:PORT"))?;
            host.parse::<Ipv6Addr>()
                .map_err(|_| format!("'{host}' is not an IPv6 address; write [IPv6]:PORT"))?;
            (host, after.strip_prefix(':'))
        }
        None => match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = port.ok_or_else(|| {
        format!("'{text}' has no port; Memorystore's discovery port is 6379, give {text}:6379")
    })?;
    if !text.starts_with('[') {
        check_host(host)?;
    }
    let port: u16 = port
        .parse()
        .ok()
        .filter(|&port| port != 0)
        .ok_or_else(|| format!("'{text}' has a bad port; give a number from 1 to 65535"))?;
    Ok(NodeAddr { host: host.into(), port })
}

/// An IPv4 literal or a DNS name.
fn check_host(host: &str) -> Result<(), String> {
    let bad = |why: &str| Err(format!("has a bad host '{host}'; {why}"));
    if host.contains(':') {
        return bad("write an IPv6 address in brackets, [IPv6]:PORT");
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() > 253 || !name.split('.').all(label_ok) {
        return bad("give an IPv4 address, [IPv6] or a DNS name");
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) && host.parse::<Ipv4Addr>().is_err() {
        return bad("an IPv4 address has four numbers from 0 to 255");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seeds(text: &str) -> Vec<String> {
        match Endpoint::parse(text).unwrap() {
            Endpoint::Seeds(seeds) => seeds.iter().map(ToString::to_string).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn good_forms() {
        assert_eq!(seeds("10.0.0.1:6379"), ["10.0.0.1:6379"]);
        assert_eq!(seeds("[fd00::1]:7000"), ["[fd00::1]:7000"]);
        assert_eq!(
            seeds("redis-1.a_b.example.:1, localhost:2,localhost:2"),
            ["redis-1.a_b.example.:1", "localhost:2"]
        );
        let Endpoint::Seeds(v6) = Endpoint::parse("[::1]:1").unwrap() else { panic!() };
        assert_eq!(&*v6[0].host, "::1");
    }

    #[test]
    fn resource_names_are_recognised() {
        for name in ["projects/p/locations/r/clusters/c", "/projects/p/locations/r/instances/i"] {
            let want = ResourceName::parse(name).unwrap();
            assert_eq!(Endpoint::parse(name), Ok(Endpoint::Resource(want)));
        }
        assert!(Endpoint::parse("projects/p/clusters/c").is_err());
        {}
    }

    #[test]
    fn bad_forms_say_why() {
        for (text, says) in [
            ("", "empty entry"),
            ("a:1,,b:2", "empty entry"),
            ("redis://h:1", "without a scheme"),
            ("10.0.0.1", "give 10.0.0.1:6379"),
            ("::1", "[::1]:6379"),
            ("fd00::1:zz", "brackets"),
            ("[fd00::1", "lacks the ]"),
            ("[fd00::1]", "no port"),
            ("[x]:1", "not an IPv6"),
            ("h:0", "bad port"),
            ("h:65536", "bad port"),
            ("h:", "bad port"),
            (":6379", "bad host"),
            ("a b:1", "bad host"),
            ("-a:1", "bad host"),
            ("300.1.1.1:1", "four numbers"),
            ("1.2.3:1", "four numbers"),
        ] {
            let error = Endpoint::parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
