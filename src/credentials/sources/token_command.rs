//! A program that prints an access token (`--token-command`).
//!
//! It prints the bare token, or JSON with `access_token` or `token` and, if it knows, `expires_in` or
//! `expiry`. Invariant: what it prints is never part of an error. When it tells no end, it is run
//! again every five minutes.

use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::command::{self, CommandLine};
use super::{BoxFuture, Minted, Source, SourceError, SourceKind, access_token};
use crate::credentials::Secret;
use crate::env::Environment;

const TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is run when it tells no end.
const RERUN: Duration = Duration::from_secs(300);

/// The program.
#[derive(Debug)]
pub struct TokenCommand {
    line: CommandLine,
    env: Environment,
    timeout: Duration,
}

#[derive(Deserialize)]
struct Printed {
    access_token: Option<Secret>,
    token: Option<Secret>,
    expires_in: Option<u64>,
    expiry: Option<String>,
}

impl TokenCommand {
    /// Runs with the variables of `env`.
    pub fn new(line: CommandLine, env: Environment) -> Self {
        Self { line, env, timeout: TIMEOUT }
    }

    /// The same with another time limit.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    async fn token(&self) -> Result<Minted, String> {
        // Before the run: an expiry that is early is safe.
        let asked_at = SystemTime::now();
        let ran = command::run(&self.line, &self.env, &[], self.timeout).await?;
        if let Some(why) = ran.failure() {
            return Err(why);
        }
        let text = std::str::from_utf8(&ran.stdout).map_err(|_| "it printed no text".to_owned())?;
        let (secret, expires_at) = match text.trim_start().starts_with('{') {
            true => from_json(text, asked_at)?,
            false => {
                let said = "it printed no token (one word, or JSON with access_token)";
                (access_token(text).ok_or(said)?, None)
            }
        };
        Ok(Minted { secret, expires_at, kind: SourceKind::TokenCommand, principal: None })
    }
}

fn from_json(text: &str, asked_at: SystemTime) -> Result<(Secret, Option<SystemTime>), String> {
    let printed: Printed = serde_json::from_str(text).map_err(|error| {
        format!(
            "it printed JSON that is not a token (access_token or token, expires_in in seconds or \
             expiry; line {}, column {})",
            error.line(),
            error.column()
        )
    })?;
    let token = printed.access_token.or(printed.token);
    let token = token.ok_or("it printed JSON without access_token and token")?;
    let secret = access_token(token.expose()).ok_or("it printed an empty or garbled token")?;
    let expires_at =
        match (printed.expires_in, &printed.expiry) {
            (Some(seconds), _) => {
                let at = asked_at.checked_add(Duration::from_secs(seconds));
                Some(at.ok_or("it printed an absurd expires_in")?)
            }
            (None, Some(expiry)) => Some(date(expiry).ok_or(
                "it printed an expiry that is no date and time such as 2026-01-31T12:00:00Z",
            )?),
            (None, None) => None,
        };
    Ok((secret, expires_at))
}

/// RFC 3339, also with an offset from UTC.
fn date(text: &str) -> Option<SystemTime> {
    let text = text.trim();
    if text.ends_with('Z') {
        return humantime::parse_rfc3339(text).ok();
    }
    let at = text.len().checked_sub(6)?;
    let (local, offset) = (text.get(..at)?, text.get(at..)?);
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let (hours, minutes): (u64, u64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let offset_by = Duration::from_secs(hours * 3600 + minutes * 60);
    match offset.get(..1)? {
        "+" => local.checked_sub(offset_by),
        "-" => local.checked_add(offset_by),
        _ => None,
    }
}

impl Source for TokenCommand {
    fn mint(&mut self) -> BoxFuture<'_, Result<Minted, SourceError>> {
        Box::pin(async {
            self.token().await.map_err(|said| {
                let place = format!("--token-command {}", self.line.program());
                let mend = "Run it by hand as the proxy's user to see what it lacks.";
                SourceError::one(SourceKind::TokenCommand, place, said, mend)
            })
        })
    }

    fn reread_every(&self) -> Option<Duration> {
        Some(RERUN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let want = humantime::parse_rfc3339("2026-01-31T12:00:00Z").ok();
        for text in [
            "2026-01-31T12:00:00Z",
            "2026-01-31T13:30:00+01:30",
            "2026-01-31T04:00:00-08:00",
            "2026-01-31T12:00:00.000+00:00",
        ] {
            assert_eq!(date(text), want, "{text}");
        }
        for text in ["", "soon", "2026-01-31", "2026-01-31T12:00:00", "2026-01-31T12:00:00+9"] {
            assert_eq!(date(text), None, "{text}");
        }
    }
}
