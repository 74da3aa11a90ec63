//! Where the AUTH password comes from: one source, and what stands on top of it.
//!
//! Invariant: of the settings that exclude each other one is left, the one given in the strongest
//! place, and a service account is impersonated only with an access token.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use std::sync::Arc;

use super::Reader;
use super::values::{path, token};
use crate::args::Origin;
use crate::credentials::Secret;
use crate::credentials::sources::CredentialSource;
use crate::credentials::sources::command::CommandLine;
use crate::credentials::sources::google_file::is_credentials;
use crate::credentials::sources::impersonation::{Chain, OnBehalf};
use crate::error::Error;
use crate::google::http::Url;

/// Sources of access tokens.
const IAM: [&str; 6] =
    ["token", "token-file", "token-command", "credentials-file", "json-credentials", "gcloud-auth"];
const PASSWORD: &str = "upstream-password-file";
const NO_IAM: &str = "no-iam-auth";
const IMPERSONATE: &str = "impersonate-service-account";

impl Reader<'_> {
    pub(super) fn credential_source(&self) -> Result<CredentialSource, Error> {
        let mut choice = self.exclusive(&[&IAM[..], &[PASSWORD]].concat())?;
        // --no-iam-auth goes with a password file, and against everything else.
        if let Some(no_iam) = self.chosen(NO_IAM)? {
            let rival = choice.filter(|&name| name != PASSWORD);
            if let Some(rival) = rival
                && let Some(origin) = self.chosen(rival)?
            {
                if origin == no_iam {
                    return self.contradiction(NO_IAM, rival, origin);
                }
                if origin < no_iam {
                    choice = self.chosen(PASSWORD)?.map(|_| PASSWORD);
                }
            }
            choice = choice.or(Some(NO_IAM));
        }
        let mut impersonate = self.chosen(IMPERSONATE)?;
        if let Some(origin) = impersonate
            && let Some(name @ (PASSWORD | NO_IAM)) = choice
        {
            // A password file that goes with --no-iam-auth is as strong as the stronger of the two.
            let rival = self.chosen(name)?.max(self.chosen(NO_IAM)?);
            if rival == Some(origin) {
                return self.contradiction(IMPERSONATE, name, origin);
            }
            if rival > Some(origin) {
                impersonate = None;
            } else {
                choice = self.exclusive(&IAM)?;
            }
        }
        let mut source = self.single(choice)?;
        if impersonate.is_some()
            && let Some(chain) = self.given(IMPERSONATE, Chain::parse)?
        {
            let endpoint = self.typed("iamcredentials-api-endpoint", Url::for_secrets)?;
            source = CredentialSource::Impersonated(Box::new(OnBehalf { source, chain, endpoint }));
        }
        Ok(match self.quota_project()? {
            // Nobody is asked for a token, so there is nothing to bill.
            _ if matches!(source, CredentialSource::None | CredentialSource::Password { .. }) => {
                source
            }
            Some(project) => CredentialSource::Billed { source: Box::new(source), project },
            None => source,
        })
    }

    fn single(&self, choice: Option<&'static str>) -> Result<CredentialSource, Error> {
        let path = |name| self.given(name, path).map(Option::unwrap_or_default);
        Ok(match choice {
            None => CredentialSource::Adc,
            Some("token") => {
                let token = self.given("token", token)?;
                token.map_or(CredentialSource::Adc, CredentialSource::Token)
            }
            Some("token-file") => CredentialSource::TokenFile(path("token-file")?),
            Some("credentials-file") => {
                CredentialSource::CredentialsFile(path("credentials-file")?)
            }
            Some("token-command") => {
                let line = self.given("token-command", CommandLine::parse)?;
                line.map_or(CredentialSource::Adc, CredentialSource::TokenCommand)
            }
            Some("json-credentials") => {
                let json = self.given("json-credentials", json)?;
                json.map_or(CredentialSource::Adc, CredentialSource::JsonCredentials)
            }
            Some("gcloud-auth") => CredentialSource::Gcloud,
            Some(PASSWORD) => CredentialSource::Password { file: path(PASSWORD)? },
            Some(_) => CredentialSource::None,
        })
    }

    fn contradiction<T>(&self, name: &str, rival: &str, origin: Origin) -> Result<T, Error> {
        let rival = self.0.spelling(rival, origin);
        self.fail(name, origin, format_args!("contradicts {rival}; keep only one of the two"))
    }

    pub(super) fn quota_project(&self) -> Result<Option<Arc<str>>, Error> {
        self.given("quota-project", project)
    }
}

/// A project's id or number, also with a domain in front.
fn project(text: &str) -> Result<Arc<str>, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-.:".contains(c);
    if text.is_empty() || !text.chars().all(fits) {
        return Err(format!("'{text}' is not a project; give its id, such as my-project-123"));
    }
    Ok(text.into())
}

/// Never repeats the text.
fn json(text: &str) -> Result<Secret, String> {
    if !is_credentials(text) {
        return Err("is not the content of a credentials file (JSON with a \"type\"); give the \
                    file's path to --credentials-file instead"
            .to_owned());
    }
    Ok(Secret::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use crate::config::tests::load;

    fn source(args: &[&str], vars: &[(&str, &str)]) -> Result<String, String> {
        let args: Vec<_> = args.iter().copied().chain(["h:1"]).collect();
        load(&args, vars).map(|config| format!("{:?}", config.credential_source))
    }

    #[test]
    fn impersonation_stands_on_any_access_token() {
        const FLAG: &str = "--impersonate-service-account=a@b.c,d@e.f";
        let plain = source(&[FLAG], &[]).unwrap();
        for part in ["source: Adc", "a@b.c", "[\"d@e.f\"]", "https://iamcredentials.googleapis.com"]
        {
            assert!(plain.contains(part), "{part}: {plain}");
        }
        let args = [FLAG, "--gcloud-auth", "--iamcredentials-api-endpoint=http://127.0.0.1:1"];
        let other = source(&args, &[]).unwrap();
        assert!(other.contains("Gcloud") && other.contains("http://127.0.0.1:1"), "{other}");
        for rival in ["--no-iam-auth", "--upstream-password-file=/p"] {
            let error = source(&[FLAG, rival], &[]).unwrap_err();
            let name = rival.split('=').next().unwrap();
            assert!(error.contains("contradicts") && error.contains(name), "{error}");
        }
        // The stronger place wins.
        let no_iam = [("MEMORYSTORE_PROXY_NO_IAM_AUTH", "1")];
        assert!(source(&[FLAG], &no_iam).unwrap().contains("source: Adc"));
        let flag = [("MEMORYSTORE_PROXY_IMPERSONATE_SERVICE_ACCOUNT", "a@b.c")];
        assert_eq!(source(&["--no-iam-auth"], &flag).unwrap(), "None");
    }

    #[test]
    fn contents_and_commands() {
        let json = r#"--json-credentials={"type":"authorized_user","refresh_token":"hush"}"#;
        assert_eq!(source(&[json], &[]).unwrap(), "JsonCredentials(Secret(…))");
        assert_eq!(source(&["-j", &json[19..]], &[]).unwrap(), "JsonCredentials(Secret(…))");
        let command = "--token-command='/my bin/mint' --key hush";
        let want = "TokenCommand(CommandLine(\"/my bin/mint\" …))";
        assert_eq!(source(&[command], &[]).unwrap(), want);
        for args in [[json, "--credentials-file=/c"], [command, "--token=hush"], [command, json]] {
            let error = source(&args, &[]).unwrap_err();
            assert!(error.contains("contradicts"), "{error}");
        }
    }

    #[test]
    fn wrong_values() {
        for (args, says) in [
            (&["--json-credentials=hush"][..], "--json-credentials is not the content"),
            (&["--token-command='hush"], "--token-command has a quote that does not end"),
            (&["--token-command= "], "--token-command is empty"),
            (&["--impersonate-service-account=hush me"], "account has an entry that is no"),
            (&["--quota-project=a/b"], "--quota-project 'a/b' is not a project"),
            (
                &["--impersonate-service-account=a@b.c", "--iamcredentials-api-endpoint=http://x"],
                "--iamcredentials-api-endpoint would send secrets in clear text",
            ),
        ] {
            let error = source(args, &[]).unwrap_err();
            assert!(error.contains(says), "{args:?}: {error}");
        }
        let config = load(&["--quota-project=p", "h:1"], &[]).unwrap();
        assert_eq!(config.quota_project.as_deref(), Some("p"));
    }
}
