//! HTTP answers, from the first byte: the metadata server, token endpoints, Google's APIs. What comes
//! out is a token in one line or a reason; no reason repeats a secret that was sent, and an answer has
//! no more than its limit of memory.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use memorystore_auth_proxy::credentials::sources::google_file::GoogleFile;
use memorystore_auth_proxy::credentials::sources::metadata::Metadata;
use memorystore_auth_proxy::credentials::sources::{Context, Minted, Source};
use memorystore_auth_proxy::credentials::{Credential, Secret};
use memorystore_auth_proxy::fuzzing::answer_with;
use memorystore_auth_proxy::google::api::{Api, Bases};
use memorystore_auth_proxy::google::describe::ServerCa;
use memorystore_auth_proxy::google::http::{Call, Http, Url};
use memorystore_auth_proxy::google::name::ResourceName;
use tokio::runtime::{Builder, Runtime};

use crate::support::within;

/// What is sent and must not come back in an error.
const HUSH: &str = "hush-5f1d";

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    static LOCAL: RefCell<Url> = RefCell::new(Url::parse("http://localhost:1").expect("a URL"));
}

fn minted(token: &Minted) {
    let text = token.secret.expose();
    assert!(!text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic()), "{text:?}");
    assert!(token.expires_at.is_none_or(|at| at >= SystemTime::UNIX_EPOCH));
}

fn quiet(error: &str) {
    assert!(!error.contains(HUSH), "{error}");
    assert!(!error.contains(['\n', '\r', '\0']), "{error:?}");
}

async fn from_metadata() {
    let metadata = Metadata::at("metadata", 80);
    match metadata.token().await {
        Ok(token) => minted(&token),
        Err(refusal) => quiet(&refusal.said),
    }
}

async fn from_file(json: &str) {
    let mut file = GoogleFile::inline(Secret::new(json.to_owned()), Context::default());
    match file.mint().await {
        Ok(token) => minted(&token),
        Err(error) => quiet(&error.to_string()),
    }
}

async fn from_api() {
    let base = LOCAL.with_borrow(Clone::clone);
    let api = Api::new(Http::new(), Bases { redis: base.clone(), memorystore: base }, None);
    let name = ResourceName::parse("projects/p/locations/r/clusters/c").expect("a name");
    let credential = Credential {
        username: "default".into(),
        secret: Secret::new(HUSH.to_owned()),
        expires_at: None,
        obtained_at: SystemTime::UNIX_EPOCH,
        generation: 1,
        source: "fuzz",
        principal: Some(Arc::from("me@example.com")),
    };
    if let Err(error) = api.describe(&name, &credential).await {
        quiet(&error.to_string());
    }
    if let Err(error) = api.server_ca(&name, &ServerCa::PerInstance, &credential).await {
        quiet(&error.to_string());
    }
}

async fn plain() {
    const LIMIT: usize = 4096;
    let url = LOCAL.with_borrow(Clone::clone);
    let call = Call::get(url).bearer(&Secret::new(HUSH.to_owned())).limit(LIMIT);
    match Http::new().send(call.timeout(Duration::from_secs(5))).await {
        Ok(answer) => {
            assert!(answer.body.len() <= LIMIT);
            quiet(&answer.complaint().to_string());
        }
        Err(error) => quiet(&error.to_string()),
    }
}

/// An HTTP answer, or what may be one.
pub fn run(data: &[u8]) {
    let [kind, answer @ ..] = data else {
        return;
    };
    let text = String::from_utf8_lossy(answer);
    // A fuzzer that splits the secret over what is cleaned away makes no leak of ours.
    let user = format!(
        "{{\"type\":\"authorized_user\",\"client_id\":\"i\",\"client_secret\":\"{HUSH}\",\
         \"refresh_token\":\"{HUSH}\",\"token_uri\":\"http://localhost:1/t\"}}"
    );
    let impersonated = format!(
        "{{\"type\":\"impersonated_service_account\",\"service_account_impersonation_url\":\
         \"http://localhost:1/v1/projects/-/serviceAccounts/a@b.iam.gserviceaccount.com:generateAccessToken\",\
         \"source_credentials\":{user}}}"
    );
    answer_with(answer);
    within((8 << 20) + 64 * text.len(), || {
        RUNTIME.with(|runtime| {
            runtime.block_on(async {
                match kind % 5 {
                    0 => from_metadata().await,
                    1 => from_file(&user).await,
                    2 => from_file(&impersonated).await,
                    3 => from_api().await,
                    _ => plain().await,
                }
            });
        });
    });
}
