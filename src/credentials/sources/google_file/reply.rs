//! What token endpoints of OAuth answer, Google's own and the security token service alike.
//!
//! Invariant: no error text holds the secrets of the request, whatever the endpoint repeats.

use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use serde::Deserialize;

use crate::credentials::Secret;
use crate::credentials::sources::access_token;
use crate::google::http::{Call, Http, Url};

const MAX_BYTES: usize = 64 * 1024;

/// A token with its end.
pub(super) struct Issued {
    pub(super) secret: Secret,
    pub(super) expires_at: SystemTime,
}

#[derive(Deserialize)]
struct Body {
    access_token: String,
    expires_in: u64,
}

/// Posts a form; `hint` says what to do about an error in OAuth's words.
pub(super) async fn exchange(
    http: &Http,
    url: &Url,
    call: Call,
    secrets: &[&str],
    hint: impl Fn(&str) -> &'static str,
) -> Result<Issued, String> {
    let place = url.authority();
    // Before the request: an expiry that is early by the round trip is safe.
    let asked_at = SystemTime::now();
    let answer = http.send(call.limit(MAX_BYTES)).await;
    let answer = answer
        .map_err(|error| format!("{place}: {error}; check that it can be reached from here"))?;
    if answer.status != StatusCode::OK {
        let complaint = answer.complaint();
        let mut said = complaint.to_string();
        for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
            said = said.replace(secret, "…");
        }
        let hint = match answer.status {
            StatusCode::TOO_MANY_REQUESTS => "; too many requests",
            status if status.is_server_error() => "; the endpoint is in trouble",
            _ => hint(complaint.status.as_deref().unwrap_or_default()),
        };
        let status = answer.status.as_u16();
        return Err(format!("token endpoint refused: HTTP {status} from {place}{said}{hint}"));
    }
    let body: Body = answer
        .json()
        .ok_or_else(|| format!("{place}: the reply is not a token (access_token, expires_in)"))?;
    let secret = access_token(&body.access_token)
        .ok_or_else(|| format!("{place}: the reply has an empty or garbled token"))?;
    let expires_at = asked_at.checked_add(Duration::from_secs(body.expires_in));
    let expires_at = expires_at.ok_or_else(|| format!("{place}: absurd expires_in"))?;
    Ok(Issued { secret, expires_at })
}
