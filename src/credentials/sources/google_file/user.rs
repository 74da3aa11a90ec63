//! A user's login (`authorized_user`): a refresh token, exchanged for an access token.
//!
//! gcp_auth does this for one fixed path and one fixed endpoint only, hence the plain call.

use std::sync::Arc;

use serde::Deserialize;

use super::read;
use super::reply::{self, Issued};
use crate::credentials::Secret;
use crate::credentials::sources::{Context, Minted, SourceKind};
use crate::google::http::{Call, Url};

const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";

#[derive(Deserialize)]
struct User {
    client_id: String,
    client_secret: Secret,
    refresh_token: Secret,
    token_uri: Option<String>,
    /// Newer versions of gcloud write it.
    account: Option<String>,
}

pub(super) async fn token(json: &[u8], context: &Context) -> Result<Minted, String> {
    let user: User = read(json, "user credentials (client_id, client_secret, refresh_token)")?;
    let uri = user.token_uri.as_deref().unwrap_or(TOKEN_URI);
    let url = Url::for_secrets(uri).map_err(|says| format!("its token_uri {says}"))?;
    let fields = [
        ("grant_type", "refresh_token"),
        ("client_id", &user.client_id),
        ("client_secret", user.client_secret.expose()),
        ("refresh_token", user.refresh_token.expose()),
    ];
    let secrets = [user.client_secret.expose(), user.refresh_token.expose()];
    let call = Call::post_form(url.clone(), &fields);
    let issued = reply::exchange(&context.http, &url, call, &secrets, hint).await?;
    let Issued { secret, expires_at } = issued;
    let principal = user.account.filter(|account| account.contains('@')).map(Arc::from);
    let kind = SourceKind::UserCredentials;
    Ok(Minted { secret, expires_at: Some(expires_at), kind, principal })
}

fn hint(error: &str) -> &'static str {
    match error {
        "invalid_grant" => {
            "; the login has ended or was revoked, run 'gcloud auth application-default login'"
        }
        "invalid_client" | "deleted_client" => "; the file's client is not valid (any more)",
        _ => "",
    }
}
