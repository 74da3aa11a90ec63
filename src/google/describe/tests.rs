//! The field shapes that the documentation, real replies and other tools' fixtures show.

use super::*;
use serde_json::{Value, json};

fn cluster() -> ResourceName {
    ResourceName::parse("projects/p/locations/europe-west6/clusters/c1").unwrap()
}

fn valkey() -> ResourceName {
    ResourceName::parse("projects/p/locations/europe-west6/instances/i1").unwrap()
}

fn read(name: &ResourceName, body: &Value) -> Result<Facts, DescribeError> {
    describe(name, body.to_string().as_bytes())
}

fn texts(addresses: &[NodeAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

fn discovery(name: &ResourceName, body: &Value) -> Vec<String> {
    match read(name, body).unwrap().endpoints {
        Endpoints::Cluster { discovery } => texts(&discovery),
        other => panic!("{other:?}"),
    }
}

/// What `gcloud redis clusters describe` shows of a real cluster.
fn real_cluster() -> Value {
    json!({
        "name": "projects/p/locations/europe-west6/clusters/c1", "state": "ACTIVE", "uid": "cb3ac4ed",
        "authorizationMode": "AUTH_MODE_IAM_AUTH",
        "transitEncryptionMode": "TRANSIT_ENCRYPTION_MODE_SERVER_AUTHENTICATION",
        "discoveryEndpoints": [
            {"address": "10.172.0.6", "port": 6379, "pscConfig": {"network": "projects/p/global/networks/n"}}
        ],
        "clusterEndpoints": [{"connections": [
            {"pscAutoConnection": {"address": "10.172.0.7",
                "pscConnectionStatus": "PSC_CONNECTION_STATUS_ACTIVE", "serviceAttachment": "sa-2"}},
            {"pscAutoConnection": {"address": "10.172.0.6",
                "connectionType": "CONNECTION_TYPE_DISCOVERY",
                "pscConnectionStatus": "PSC_CONNECTION_STATUS_ACTIVE",
                "projectId": "p", "pscConnectionId": "19404658127405062"}}
        ]}],
        "pscConnections": [{"address": "10.172.0.6"}, {"address": "10.172.0.7"}],
        "shardCount": 3, "replicaCount": 1, "nodeType": "REDIS_HIGHMEM_MEDIUM", "sizeGb": 39,
        "preciseSizeGb": 39.0, "zoneDistributionConfig": {"mode": "MULTI_ZONE"}
    })
}

#[test]
fn a_real_cluster() {
    let facts = read(&cluster(), &real_cluster()).unwrap();
    assert_eq!(discovery(&cluster(), &real_cluster()), ["10.172.0.6:6379"]);
    assert_eq!(facts.authorization, Authorization::Iam);
    assert_eq!(facts.transit, Transit::Tls);
    assert_eq!(facts.server_ca, ServerCa::PerInstance);
    assert_eq!((facts.state.as_str(), facts.uid.as_deref()), ("ACTIVE", Some("cb3ac4ed")));
    assert_eq!((facts.shards, facts.replicas), (Some(3), Some(1)));
}

#[test]
fn the_discovery_connection_is_chosen_by_type_not_by_place() {
    let mut body = real_cluster();
    body.as_object_mut().unwrap().remove("discoveryEndpoints");
    assert_eq!(discovery(&cluster(), &body), ["10.172.0.6:6379"]);
    // Connections the user registered, which name no port either.
    let body = json!({"name": "n", "state": "ACTIVE", "clusterEndpoints": [{"connections": [
        {"pscConnection": {"address": "10.0.0.9", "pscConnectionStatus": "PSC_CONNECTION_STATUS_ACTIVE"}},
        {"pscConnection": {"address": "10.0.0.8", "connectionType": "CONNECTION_TYPE_DISCOVERY"}}
    ]}]});
    assert_eq!(discovery(&cluster(), &body), ["10.0.0.8:6379"]);
}

#[test]
fn of_several_networks_the_active_ones_are_taken_in_order() {
    let connection = |ip: &str, status: &str| {
        json!({"connections": [{"pscAutoConnection": {"ipAddress": ip, "port": 6379,
            "connectionType": "CONNECTION_TYPE_DISCOVERY", "pscConnectionStatus": status}}]})
    };
    let body = |statuses: [&str; 3]| {
        let [a, b, c] = statuses;
        json!({"name": "n", "mode": "CLUSTER", "endpoints": [
            connection("10.0.0.1", a), connection("10.0.0.2", b), connection("10.0.0.3", c)]})
    };
    let found = |statuses| discovery(&valkey(), &body(statuses));
    assert_eq!(found(["ACTIVE", "NOT_FOUND", "ACTIVE"]), ["10.0.0.1:6379", "10.0.0.3:6379"]);
    assert_eq!(found(["NEW_WORD", "NOT_FOUND", "ACTIVE"]), ["10.0.0.3:6379"]);
    assert_eq!(found(["NEW_WORD", "NOT_FOUND", ""]), ["10.0.0.1:6379", "10.0.0.3:6379"]);
    let error = read(&valkey(), &body(["NOT_FOUND"; 3])).unwrap_err().to_string();
    assert!(error.contains("status NOT_FOUND"), "{error}");
    // A discovery endpoint whose connection is gone does not count either.
    let mut body = real_cluster();
    body["clusterEndpoints"][0]["connections"][1]["pscAutoConnection"]["pscConnectionStatus"] =
        "PSC_CONNECTION_STATUS_NOT_FOUND".into();
    assert!(matches!(read(&cluster(), &body), Err(DescribeError::NotUsable(_))));
}

#[test]
fn valkey_with_and_without_cluster_mode() {
    let body = json!({"name": "n", "state": "ACTIVE", "mode": "CLUSTER", "authorizationMode": "IAM_AUTH",
        "transitEncryptionMode": "SERVER_AUTHENTICATION", "serverCaMode": "GOOGLE_MANAGED_SHARED_CA",
        "endpoints": [{"connections": [
            {"pscAutoConnection": {"connectionType": "CONNECTION_TYPE_DISCOVERY",
                "ipAddress": "10.128.0.58", "port": 6379}},
            {"pscAutoConnection": {"ipAddress": "10.128.0.59", "port": 6379}}]}]});
    let facts = read(&valkey(), &body).unwrap();
    assert_eq!(discovery(&valkey(), &body), ["10.128.0.58:6379"]);
    assert_eq!((facts.authorization, facts.transit), (Authorization::Iam, Transit::Tls));
    assert_eq!(facts.server_ca, ServerCa::Shared);

    let single = |reader: bool| {
        let mut connections = vec![json!({"pscAutoConnection": {
            "connectionType": "CONNECTION_TYPE_PRIMARY", "ipAddress": "10.0.0.2", "port": 6380}})];
        if reader {
            connections.insert(0, json!({"pscAutoConnection": {
                "connectionType": "CONNECTION_TYPE_READER", "ipAddress": "10.0.0.3", "port": 6379}}));
        }
        json!({"name": "n", "mode": "CLUSTER_DISABLED", "endpoints": [{"connections": connections}]})
    };
    for has_reader in [true, false] {
        let facts = read(&valkey(), &single(has_reader)).unwrap();
        let Endpoints::Single { primary, reader } = facts.endpoints else { panic!() };
        assert_eq!(texts(&primary), ["10.0.0.2:6380"]);
        assert_eq!(texts(&reader), if has_reader { vec!["10.0.0.3:6379"] } else { vec![] });
        assert_eq!((facts.authorization, facts.transit), (Authorization::Disabled, Transit::Plain));
    }
}

#[test]
fn older_valkey_instances_use_the_deprecated_fields() {
    let body = json!({"name": "n", "discoveryEndpoints": [{"address": "10.0.0.4", "port": 6379}],
        "pscAutoConnections": [{"ipAddress": "10.0.0.4", "connectionType": "CONNECTION_TYPE_DISCOVERY",
            "pscConnectionStatus": "ACTIVE"}]});
    assert_eq!(discovery(&valkey(), &body), ["10.0.0.4:6379"]);
}

#[test]
fn enum_values() {
    let with = |field: &str, value: &str| {
        let mut body = real_cluster();
        body[field] = value.into();
        read(&cluster(), &body).unwrap()
    };
    for (value, want) in [
        ("AUTH_MODE_UNSPECIFIED", Authorization::Disabled),
        ("AUTH_MODE_DISABLED", Authorization::Disabled),
        ("AUTHORIZATION_MODE_UNSPECIFIED", Authorization::Disabled),
        ("AUTH_DISABLED", Authorization::Disabled),
        ("AUTH_MODE_TOKEN_AUTH", Authorization::Token),
        ("TOKEN_AUTH", Authorization::Token),
        ("IAM_AUTH", Authorization::Iam),
        ("AUTH_MODE_NEW", Authorization::Unknown("AUTH_MODE_NEW".into())),
    ] {
        assert_eq!(with("authorizationMode", value).authorization, want);
    }
    for (value, want) in [
        ("TRANSIT_ENCRYPTION_MODE_DISABLED", Transit::Plain),
        ("TRANSIT_ENCRYPTION_DISABLED", Transit::Plain),
        ("TRANSIT_ENCRYPTION_MODE_UNSPECIFIED", Transit::Plain),
        ("MUTUAL", Transit::Unknown("MUTUAL".into())),
    ] {
        assert_eq!(with("transitEncryptionMode", value).transit, want);
    }
    for (value, want) in [
        ("SERVER_CA_MODE_GOOGLE_MANAGED_SHARED_CA", ServerCa::Shared),
        ("CUSTOMER_MANAGED_CAS_CA", ServerCa::CustomerManaged),
        ("OTHER", ServerCa::Unknown("OTHER".into())),
    ] {
        assert_eq!(with("serverCaMode", value).server_ca, want);
    }
    assert_eq!(with("state", "MIGRATING").state, "MIGRATING");
}

#[test]
fn what_is_missing_is_said() {
    for (body, says) in [
        (json!({"name": "n", "state": "CREATING"}), "still being created"),
        (
            json!({"name": "n", "state": "CREATING", "mode": "CLUSTER_DISABLED"}),
            "no primary endpoint yet",
        ),
        (json!({"name": "n", "state": "DELETING"}), "being deleted"),
        (json!({"name": "n", "state": "ACTIVE"}), "type CONNECTION_TYPE_DISCOVERY"),
        (json!({"name": "n", "mode": "CLUSTER_DISABLED"}), "type CONNECTION_TYPE_PRIMARY"),
        (
            json!({"name": "n", "endpoints": [{"connections": [{"pscConnection": {
                "connectionType": "CONNECTION_TYPE_DISCOVERY", "ipAddress": ""}}]}]}),
            "no discovery endpoint",
        ),
    ] {
        match read(&valkey(), &body) {
            Err(DescribeError::NotUsable(said)) => assert!(said.contains(says), "{body}: {said}"),
            other => panic!("{body}: {other:?}"),
        }
    }
    for body in [
        "",
        "{}",
        "[]",
        "<html>hush</html>",
        r#"{"name":"n","state":{"hush":1}}"#,
        r#"{"name":"hu"#,
    ] {
        match describe(&valkey(), body.as_bytes()) {
            Err(DescribeError::Garbled(said)) => assert!(!said.contains("hush"), "{said}"),
            other => panic!("{body}: {other:?}"),
        }
    }
}

#[test]
fn all_chains_of_a_certificate_authority() {
    let pem =
        |name: &str| format!("-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----");
    let body = json!({"name": "n", "managedServerCa": {"caCerts": [
        {"certificates": [pem("leafmost"), pem("root") + "\n"]},
        {"certificates": [pem("new"), pem("root")]}]}});
    let bundle = ca_bundle(body.to_string().as_bytes()).unwrap();
    assert_eq!(bundle, format!("{}\n{}\n{}\n", pem("leafmost"), pem("root"), pem("new")));
    for (body, says) in [
        (json!({}), "no CA certificate"),
        (json!({"managedServerCa": {"caCerts": []}}), "no CA certificate"),
        (json!({"managedServerCa": {"caCerts": [{"certificates": ["hush"]}]}}), "not in PEM"),
        (json!({"managedServerCa": {"caCerts": "hush"}}), "unexpected type"),
    ] {
        let error = ca_bundle(body.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains("hush"), "{error}");
    }
}
