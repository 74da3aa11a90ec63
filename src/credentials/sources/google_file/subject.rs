//! Where an external account's subject token comes from: a file, a URL or a program.
//!
//! Invariant: a program is run only with `GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES=1`, as Google's
//! libraries want it, for the file may come from somebody else. Its `output_file` is not read: the
//! program runs once per token, and there is one cache only.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use hyper::StatusCode;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::external::External;
use crate::credentials::Secret;
use crate::credentials::sources::command::{self, CommandLine};
use crate::credentials::sources::{Context, access_token};
use crate::google::http::{Call, Url, clean};

const ALLOW: &str = "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES";
const MAX_BYTES: usize = 64 * 1024;
/// Of a program, by default and at most: the whole attempt has 60 s.
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
pub(super) struct SubjectSource {
    file: Option<PathBuf>,
    url: Option<String>,
    headers: Option<BTreeMap<String, String>>,
    executable: Option<Executable>,
    environment_id: Option<String>,
    format: Option<Format>,
}

#[derive(Deserialize)]
struct Executable {
    command: String,
    timeout_millis: Option<u64>,
    output_file: Option<String>,
}

#[derive(Deserialize)]
struct Format {
    r#type: Option<String>,
    subject_token_field_name: Option<String>,
}

pub(super) async fn token(
    source: &SubjectSource,
    external: &External,
    context: &Context,
) -> Result<Secret, String> {
    if source.environment_id.as_ref().is_some_and(|id| id.starts_with("aws")) {
        return Err(
            "it takes its token from AWS, which is not supported; use a credential_source \
                    with file, url or executable (such as an OIDC token of EKS in a file), or \
                    --token-command"
                .to_owned(),
        );
    }
    if let Some(path) = &source.file {
        let place = format!("subject token file {}", path.display());
        let content = tokio::fs::read(path).await.map_err(|error| format!("{place}: {error}"))?;
        return source.subject(&Zeroizing::new(content), &place);
    }
    if let Some(url) = &source.url {
        return source.fetched(url, context).await;
    }
    match &source.executable {
        Some(executable) => from_executable(executable, external, context).await,
        None => Err("its credential_source has none of file, url and executable".to_owned()),
    }
}

impl SubjectSource {
    async fn fetched(&self, url: &str, context: &Context) -> Result<Secret, String> {
        // Without TLS as well: the metadata servers of other clouds have none.
        let url = Url::parse(url).map_err(|says| format!("its credential_source url {says}"))?;
        let place = format!("subject token url {url}");
        let mut call = Call::get(url).limit(MAX_BYTES);
        for (name, value) in self.headers.iter().flatten() {
            call = call.header(name, value);
        }
        let answer = context.http.send(call).await;
        let answer = answer.map_err(|error| format!("{place}: {error}"))?;
        if answer.status != StatusCode::OK {
            return Err(format!("{place}: HTTP {}", answer.status.as_u16()));
        }
        self.subject(&answer.body, &place)
    }

    /// The token in a text, or in a field of JSON.
    fn subject(&self, content: &[u8], place: &str) -> Result<Secret, String> {
        let format = self.format.as_ref();
        let kind = format.and_then(|format| format.r#type.as_deref()).unwrap_or("text");
        let token = match kind {
            "text" => std::str::from_utf8(content).ok().and_then(access_token),
            "json" => {
                let name = format.and_then(|format| format.subject_token_field_name.as_deref());
                let name =
                    name.ok_or("its format json has no subject_token_field_name".to_owned())?;
                let json: serde_json::Value = serde_json::from_slice(content)
                    .map_err(|_| format!("{place}: not JSON, which the file's format says"))?;
                json[name].as_str().and_then(access_token)
            }
            _ => return Err("its format is neither text nor json".to_owned()),
        };
        token.ok_or_else(|| format!("{place}: holds no token"))
    }
}

/// What a program prints.
#[derive(Deserialize)]
struct Printed {
    success: bool,
    id_token: Option<Secret>,
    saml_response: Option<Secret>,
    code: Option<String>,
    message: Option<String>,
}

async fn from_executable(
    executable: &Executable,
    external: &External,
    context: &Context,
) -> Result<Secret, String> {
    if context.env.var(ALLOW).is_none_or(|value| value != "1") {
        return Err(format!("it runs a program, which wants {ALLOW}=1 in the environment"));
    }
    let line = CommandLine::parse(&executable.command)
        .map_err(|says| format!("its executable command {says}"))?;
    let mut extra = vec![
        ("GOOGLE_EXTERNAL_ACCOUNT_AUDIENCE", external.audience.clone()),
        ("GOOGLE_EXTERNAL_ACCOUNT_TOKEN_TYPE", external.subject_token_type.clone()),
        ("GOOGLE_EXTERNAL_ACCOUNT_INTERACTIVE", "0".to_owned()),
    ];
    let url = external.service_account_impersonation_url.as_deref();
    let email = url.and_then(|url| url.rsplit('/').next()?.split(':').next());
    extra.extend(email.map(|email| ("GOOGLE_EXTERNAL_ACCOUNT_IMPERSONATED_EMAIL", email.into())));
    let output = executable.output_file.clone();
    extra.extend(output.map(|path| ("GOOGLE_EXTERNAL_ACCOUNT_OUTPUT_FILE", path)));
    let timeout = executable.timeout_millis.map_or(TIMEOUT, Duration::from_millis).min(TIMEOUT);
    let place = format!("executable {}", line.program());
    let ran = command::run(&line, &context.env, &extra, timeout).await;
    let ran = ran.map_err(|said| format!("{place}: {said}"))?;
    let Ok(printed) = serde_json::from_slice::<Printed>(&ran.stdout) else {
        let why = ran.failure().unwrap_or_else(|| "it printed no JSON with success".to_owned());
        return Err(format!("{place}: {why}"));
    };
    if !printed.success {
        let code = clean(printed.code.as_deref().unwrap_or("no code"));
        let message = clean(printed.message.as_deref().unwrap_or("no message"));
        return Err(format!("{place}: {code}: {message}"));
    }
    if let Some(why) = ran.failure() {
        return Err(format!("{place}: {why}"));
    }
    let token = printed.id_token.or(printed.saml_response);
    let token = token.and_then(|token| access_token(token.expose()));
    token.ok_or_else(|| format!("{place}: it printed no id_token and no saml_response"))
}
