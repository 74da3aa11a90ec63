//! The program: read the settings, start logging, run, map the outcome to an exit code.

use std::io::Write as _;
use std::process::ExitCode;

use memorystore_auth_proxy::args::{self, Request};
use memorystore_auth_proxy::config::Config;
use memorystore_auth_proxy::env::Environment;
use memorystore_auth_proxy::error::{self, Error};
use memorystore_auth_proxy::telemetry::logs;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        // Stopped as it should: the code alone tells by which signal.
        Err(error @ Error::Signal(_)) => ExitCode::from(&error),
        Err(error) => {
            // Not a log line: the user may have asked for none, or logging did not start yet.
            let _ = writeln!(std::io::stderr(), "memorystore-auth-proxy: {}", error::chain(&error));
            ExitCode::from(&error)
        }
    }
}

fn start() -> Result<(), Error> {
    let env = Environment::from_process();
    let settings = match args::parse(std::env::args_os(), &env)? {
        Request::Run(settings) => settings,
        Request::Do(what, settings) => {
            return memorystore_auth_proxy::subcommand::run(what, &settings, env);
        }
        Request::Show(text) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            return Ok(());
        }
    };
    let config = Config::from_settings(&settings)?;
    logs::init(config.logs)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    memorystore_auth_proxy::app::run(config, env)
}
