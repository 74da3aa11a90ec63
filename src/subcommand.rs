//! What the program does instead of serving: `check`, `token`, `wait`, `shutdown`, `completion`.
//!
//! Invariant: they read the same settings as the proxy, print what was asked for on stdout and nothing
//! else there, and end with 0 when it could be had, else with 1 and one sentence.

mod check;
mod probe;

use std::io::{self, Write as _};
use std::time::Duration;

use clap_complete::Shell;

use crate::args::flags::{self, Subcommand};
use crate::args::{self, Settings};
use crate::config::Config;
use crate::env::Environment;
use crate::error::Error;

/// Longest a token may take.
const TOKEN_WITHIN: Duration = Duration::from_secs(60);

/// Runs one of them.
///
/// # Errors
/// A wrong setting, or why it could not be had.
pub fn run(what: Subcommand, settings: &Settings, env: Environment) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::runtime("cannot start", e))?;
    match what {
        Subcommand::Wait => {
            let http = Config::http(settings)?;
            runtime.block_on(probe::wait(&http, Config::longest_wait(settings)?))
        }
        Subcommand::Shutdown => runtime.block_on(probe::shutdown(Config::admin_port(settings)?)),
        Subcommand::Token => runtime.block_on(token(settings, &env)),
        Subcommand::Check => runtime.block_on(check::check(Config::from_settings(settings)?, &env)),
        Subcommand::Completion => completion(settings),
    }
}

fn print(text: &str) -> Result<(), Error> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| Error::runtime("cannot write to stdout", e))
}

async fn token(settings: &Settings, env: &Environment) -> Result<(), Error> {
    let Some(mut source) = Config::credentials(settings)?.build(env) else {
        return Err(Error::config("--no-iam-auth asks for no token, so there is none to print"));
    };
    match tokio::time::timeout(TOKEN_WITHIN, source.mint()).await {
        Ok(Ok(minted)) => print(&format!("{}\n", minted.secret.expose())),
        Ok(Err(error)) => Err(Error::runtime("cannot get a token", error)),
        Err(_) => Err(Error::runtime("cannot get a token", "no answer within a minute")),
    }
}

fn completion(settings: &Settings) -> Result<(), Error> {
    let given = settings.get(flags::SHELL).map(|v| v.text.as_str()).unwrap_or_default();
    let shell: Shell = given.parse().map_err(|_| {
        Error::config("completion needs the shell; give bash, elvish, fish, powershell or zsh")
    })?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "memorystore-auth-proxy", &mut script);
    print(&String::from_utf8_lossy(&script))
}
