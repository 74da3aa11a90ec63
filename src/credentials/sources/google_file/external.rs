//! Workload identity federation (`external_account`): a token of another identity provider,
//! exchanged at the security token service, and then as a rule for one of a service account.
//!
//! It does not speak AWS's request signatures: such a file gets an error that says what to use
//! instead.

use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::read;
use super::reply::{self, Issued};
use super::subject::{self, SubjectSource};
use crate::credentials::Secret;
use crate::credentials::sources::impersonation::Impersonation;
use crate::credentials::sources::{Context, Minted, SCOPE, SourceKind};
use crate::google::http::{Call, Url};

/// The warning below was given: once is enough for a process.
static TOLD: AtomicBool = AtomicBool::new(false);

#[derive(Deserialize)]
pub(super) struct External {
    pub(super) audience: String,
    pub(super) subject_token_type: String,
    token_url: String,
    credential_source: SubjectSource,
    pub(super) service_account_impersonation_url: Option<String>,
    service_account_impersonation: Option<Options>,
    client_id: Option<String>,
    client_secret: Option<Secret>,
    workforce_pool_user_project: Option<String>,
}

#[derive(Deserialize)]
struct Options {
    token_lifetime_seconds: Option<u64>,
}

pub(super) async fn token(json: &[u8], context: &Context) -> Result<Minted, String> {
    let what = "federated credentials (audience, subject_token_type, token_url, credential_source)";
    let external: External = read(json, what)?;
    let impersonation = match &external.service_account_impersonation_url {
        Some(url) => {
            let lifetime = external.service_account_impersonation.as_ref();
            let lifetime = lifetime.and_then(|options| options.token_lifetime_seconds);
            Some(Impersonation::from_file(url, &[], lifetime, context.clone())?)
        }
        None => None,
    };
    let subject = subject::token(&external.credential_source, &external, context).await?;
    let Issued { secret, expires_at } = exchange(&external, &subject, context).await?;
    let kind = SourceKind::ExternalAccount;
    let federated = Minted { secret, expires_at: Some(expires_at), kind, principal: None };
    match impersonation {
        Some(target) => Ok(Minted { kind, ..target.token(&federated).await? }),
        None => {
            if !context.is_base && !TOLD.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "the external account file names no service account to impersonate, and \
                     Memorystore takes AUTH only from users and service accounts; give \
                     --impersonate-service-account"
                );
            }
            Ok(federated)
        }
    }
}

async fn exchange(
    external: &External,
    subject: &Secret,
    context: &Context,
) -> Result<Issued, String> {
    let url = Url::for_secrets(&external.token_url);
    let url = url.map_err(|says| format!("its token_url {says}"))?;
    let mut fields = vec![
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("audience", &external.audience),
        ("scope", SCOPE),
        ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
        ("subject_token", subject.expose()),
        ("subject_token_type", &external.subject_token_type),
    ];
    // A client has a project of its own; without one, a workforce pool's calls need one.
    let project = external.workforce_pool_user_project.as_ref();
    let options = project.filter(|_| external.client_id.is_none());
    let options = options.map(|p| serde_json::json!({ "userProject": p }).to_string());
    if let Some(options) = &options {
        fields.push(("options", options));
    }
    let mut call = Call::post_form(url.clone(), &fields);
    let client_secret = external.client_secret.as_ref().map_or("", Secret::expose);
    if let Some(id) = &external.client_id {
        let pair = BASE64_STANDARD.encode(format!("{id}:{client_secret}"));
        call = call.header("authorization", &format!("Basic {pair}"));
    }
    let secrets = [subject.expose(), client_secret];
    reply::exchange(&context.http, &url, call, &secrets, hint).await
}

fn hint(error: &str) -> &'static str {
    match error {
        "invalid_grant" => {
            "; the pool's provider does not take the subject token: check its issuer, audience, \
             attribute condition and life"
        }
        "invalid_target" | "invalid_request" => {
            "; check the file's audience and that the pool and its provider are enabled"
        }
        _ => "",
    }
}
