//! What Google's APIs say: JSON becomes facts or a reason, and reasons do not repeat it.

use memorystore_auth_proxy::google::describe::{Endpoints, ca_bundle, describe};
use memorystore_auth_proxy::google::name::ResourceName;

use crate::support::within;

pub fn run(data: &[u8]) {
    let [kind, json @ ..] = data else {
        return;
    };
    let bound = 64 * json.len() + 64 * 1024;
    if kind % 3 == 0 {
        match within(bound, || ca_bundle(json)) {
            Ok(pem) => {
                assert!(pem.starts_with("-----BEGIN CERTIFICATE-----"));
                assert!(pem.ends_with("-----END CERTIFICATE-----\n"));
            }
            Err(error) => assert!(error.to_string().len() < 200),
        }
        return;
    }
    let collection = if kind % 3 == 1 { "clusters/c" } else { "instances/i" };
    let name =
        ResourceName::parse(&format!("projects/p/locations/r/{collection}")).expect("a name");
    match within(bound, || describe(&name, json)) {
        Ok(facts) => {
            let all = match &facts.endpoints {
                Endpoints::Cluster { discovery } => vec![discovery],
                Endpoints::Single { primary, reader } if reader.is_empty() => vec![primary],
                Endpoints::Single { primary, reader } => vec![primary, reader],
            };
            for list in all {
                assert!(!list.is_empty());
                assert!(list.iter().all(|addr| addr.port != 0 && !addr.host.is_empty()));
            }
            let _ = (facts.endpoints.to_string(), facts.authorization.to_string());
        }
        Err(error) => assert!(error.to_string().len() < 400, "{error}"),
    }
}
