//! Settings with their meaning: checked, typed, complete.
//!
//! Invariant: a [`Config`] that exists can be run as it is; nothing behind it checks again or reads
//! the environment for a setting. It opens no file and no socket, so a path in it may not exist.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod access;
mod credentials;
mod endpoint;
mod google;
mod instances;
mod lifecycle;
mod limits;
mod tls;
mod values;

use std::fmt::Display;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use access::{Access, UsersFile};
pub use endpoint::Endpoint;
pub use instances::Instance;
pub use lifecycle::Lifecycle;
pub use limits::{BufferTotal, Limits};
pub use tls::{LocalCertificate, Tls};

use crate::args::flags::{self, Kind};
use crate::args::{Origin, Settings, Value};
use crate::credentials::schedule::BackoffRange;
use crate::credentials::sources::CredentialSource;
use crate::error::Error;
use crate::google::api::Bases;
use crate::telemetry::logs::{Format, LogConfig, Verbosity};
use values::{
    boolean, duration, duration_or_zero, ip, octal, port, rate, redirects, socket_path, threads,
    username,
};

/// Everything the user decides.
#[derive(Debug, Clone)]
pub struct Config {
    /// What is served; one at least.
    pub instances: Vec<Instance>,
    /// Worker threads of each instance.
    pub threads: NonZeroUsize,
    /// Where the AUTH password comes from.
    pub credential_source: CredentialSource,
    /// The project that calls of Google's APIs are billed to (`--quota-project`).
    pub quota_project: Option<Arc<str>>,
    /// User name of AUTH.
    pub upstream_username: Arc<str>,
    /// Waits between failed authentications and token requests.
    pub auth_backoff: BackoffRange,
    /// Time a command has in all.
    pub op_timeout: Duration,
    /// Time a connection to a node has until it is authenticated.
    pub connect_timeout: Duration,
    /// Period of asking for the topology.
    pub topology_refresh: Duration,
    /// Redirects one command follows.
    pub max_redirects: u32,
    /// Age at which a connection is replaced; zero: never.
    pub max_connection_age: Duration,
    /// Dials and AUTHs a second, of all workers together; 0: no limit.
    pub dial_rate_limit: u32,
    /// How much clients may take.
    pub limits: Limits,
    /// How the process starts and stops.
    pub lifecycle: Lifecycle,
    /// Encryption, towards the cluster and towards clients.
    pub tls: Tls,
    /// Who clients have to be, and what they may do.
    pub access: Access,
    /// Where instances are looked up by name.
    pub api_bases: Bases,
    /// The HTTP server.
    pub http: Http,
    /// What is logged and how.
    pub logs: LogConfig,
    /// To be logged once logging works.
    pub warnings: Vec<String>,
}

/// Where clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Address of the TCP listener.
    pub address: IpAddr,
    /// Its port; 0 picks a free one.
    pub port: u16,
    /// A Unix socket to listen on as well.
    pub unix_socket: Option<UnixSocket>,
}

/// A Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixSocket {
    /// Its path.
    pub path: PathBuf,
    /// Its permission bits, such as 0o660.
    pub mode: u32,
}

impl Listen {
    fn tcp(&self) -> (IpAddr, u16) {
        (self.address, self.port)
    }

    /// Whether the two cannot be listened on at once.
    fn overlaps(&self, other: &Self) -> bool {
        let path = |listen: &Self| listen.unix_socket.as_ref().map(|u| u.path.clone());
        same_place(self.tcp(), other.tcp()) || path(self).is_some_and(|p| path(other) == Some(p))
    }
}

/// Whether two listeners would be in each other's way; port 0 is a free one each time.
fn same_place(a: (IpAddr, u16), b: (IpAddr, u16)) -> bool {
    a.1 == b.1 && a.1 != 0 && (a.0 == b.0 || a.0.is_unspecified() || b.0.is_unspecified())
}

/// The HTTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// Address to listen on.
    pub address: IpAddr,
    /// Port; 0 picks a free one.
    pub port: u16,
    /// Serve the health paths.
    pub health_check: bool,
    /// Probes ask the nodes too.
    pub with_backend_check: bool,
    /// Serve the metrics.
    pub prometheus: bool,
}

impl Http {
    /// Whether any path is to be served.
    pub fn enabled(&self) -> bool {
        self.health_check || self.prometheus
    }
}

impl Config {
    /// Checks the settings and fills in the defaults.
    ///
    /// # Errors
    /// [`Error::Config`]: one sentence that names the setting as the user wrote it, and the mend.
    pub fn from_settings(settings: &Settings) -> Result<Self, Error> {
        let reader = Reader(settings);
        let logs = reader.logs()?;
        let http = reader.http()?;
        let instances = reader.instances()?;
        let tls = reader.tls(&instances)?;
        let access = reader.access(&instances)?;
        let warnings = settings.warnings.iter().cloned().chain(tls.warning()).collect();
        let config = Self {
            threads: reader.typed("threads", threads)?,
            credential_source: reader.credential_source()?,
            quota_project: reader.quota_project()?,
            upstream_username: reader.typed("upstream-username", username)?,
            auth_backoff: reader.auth_backoff()?,
            op_timeout: reader.typed("op-timeout", duration)?,
            connect_timeout: reader.typed("connect-timeout", duration)?,
            topology_refresh: reader.typed("topology-refresh", duration)?,
            max_redirects: reader.typed("max-redirects", redirects)?,
            max_connection_age: reader.typed("max-connection-age", duration_or_zero)?,
            dial_rate_limit: reader.typed("dial-rate-limit", rate)?,
            limits: reader.limits()?,
            lifecycle: reader.lifecycle()?,
            http,
            logs,
            warnings,
            instances,
            tls,
            access,
            api_bases: reader.api_bases()?,
        };
        let http = &config.http;
        let at_http = |i: &Instance| same_place(i.listen.tcp(), (http.address, http.port));
        if http.enabled() && config.instances.iter().any(at_http) {
            return Err(Error::config(format_args!(
                "--port and --http-port are both {}; give them different numbers",
                http.port
            )));
        }
        Ok(config)
    }
}

/// Parts of the settings, for subcommands that need no endpoint.
impl Config {
    /// Where the HTTP server of a proxy with these settings is.
    ///
    /// # Errors
    /// As [`Self::from_settings`].
    pub fn http(settings: &Settings) -> Result<Http, Error> {
        Reader(settings).http()
    }

    /// How long `wait` waits.
    ///
    /// # Errors
    /// As [`Self::from_settings`].
    pub fn longest_wait(settings: &Settings) -> Result<Duration, Error> {
        Reader(settings).typed(flags::MAX, duration)
    }

    /// The port of `/quitquitquit`.
    ///
    /// # Errors
    /// As [`Self::from_settings`].
    pub fn admin_port(settings: &Settings) -> Result<u16, Error> {
        Reader(settings).typed("admin-port", port)
    }

    /// Where the AUTH password comes from.
    ///
    /// # Errors
    /// As [`Self::from_settings`].
    pub fn credentials(settings: &Settings) -> Result<CredentialSource, Error> {
        Reader(settings).credential_source()
    }

    /// What is logged.
    ///
    /// # Errors
    /// As [`Self::from_settings`].
    pub fn logs(settings: &Settings) -> Result<LogConfig, Error> {
        Reader(settings).logs()
    }
}

/// Reads settings by name; each method's errors begin with the name as the user wrote it.
struct Reader<'a>(&'a Settings);

impl Reader<'_> {
    fn fail<T>(&self, name: &str, origin: Origin, says: impl Display) -> Result<T, Error> {
        let name = self.0.spelling(name, origin);
        Err(Error::config(format_args!("{name} {says}")))
    }

    fn given<T>(
        &self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Error> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value { text, origin }) => match read(text) {
                Ok(value) => Ok(Some(value)),
                Err(says) => self.fail(name, *origin, says),
            },
        }
    }

    fn typed<T>(
        &self,
        name: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, Error> {
        if let Some(value) = self.given(name, &read)? {
            return Ok(value);
        }
        let default = flags::find(name).and_then(|f| f.default);
        match default.map(read) {
            Some(Ok(value)) => Ok(value),
            // Only a wrong row of the table leads here; a test reads every default.
            _ => self.fail(name, Origin::Flag, "has no usable default; give it"),
        }
    }

    fn switch(&self, name: &'static str) -> Result<bool, Error> {
        self.typed(name, boolean)
    }

    /// The place a switch is turned on in, or a path or text is given in.
    fn chosen(&self, name: &'static str) -> Result<Option<Origin>, Error> {
        let is_switch = flags::find(name).is_some_and(|f| f.kind == Kind::Bool);
        if is_switch && !self.switch(name)? {
            return Ok(None);
        }
        Ok(self.0.get(name).map(|value| value.origin))
    }

    /// Which of several settings that exclude each other counts: the one given in the strongest
    /// place. Two in the same place contradict each other.
    fn exclusive(&self, names: &[&'static str]) -> Result<Option<&'static str>, Error> {
        let mut best: Option<(&'static str, Origin)> = None;
        let mut rival = None;
        for &name in names {
            let Some(origin) = self.chosen(name)? else {
                continue;
            };
            match best {
                Some((_, strongest)) if origin < strongest => {}
                Some((_, strongest)) if origin == strongest => rival = Some(name),
                _ => {
                    best = Some((name, origin));
                    rival = None;
                }
            }
        }
        match (best, rival) {
            (Some((name, origin)), Some(rival)) => {
                let rival = self.0.spelling(rival, origin);
                self.fail(
                    name,
                    origin,
                    format_args!("contradicts {rival}; keep only one of the two"),
                )
            }
            (best, _) => Ok(best.map(|(name, _)| name)),
        }
    }

    /// Whether the user permits to listen there; `name` is the setting that says where.
    fn may_listen_on(&self, name: &'static str, address: IpAddr) -> Result<(), Error> {
        if !address.to_canonical().is_loopback() && !self.switch("allow-non-loopback")? {
            let origin = self.0.get(name).map_or(Origin::Flag, |v| v.origin);
            return self.fail(
                name,
                origin,
                format_args!(
                    "{address} is not a loopback address, so other machines could use the proxy's \
                     credentials; use 127.0.0.1, or permit it with --allow-non-loopback"
                ),
            );
        }
        Ok(())
    }

    fn unix_socket(&self) -> Result<Option<UnixSocket>, Error> {
        let mode = self.typed("unix-socket-mode", octal)?;
        Ok(self.given("unix-socket", socket_path)?.map(|path| UnixSocket { path, mode }))
    }

    fn http(&self) -> Result<Http, Error> {
        Ok(Http {
            address: self.typed("http-address", ip)?,
            port: self.typed("http-port", port)?,
            health_check: self.switch("health-check")?,
            with_backend_check: self.switch("with-backend-check")?,
            prometheus: self.switch("prometheus")?,
        })
    }

    fn auth_backoff(&self) -> Result<BackoffRange, Error> {
        let min = self.typed("auth-backoff-min", duration)?;
        let max = self.typed("auth-backoff-max", duration)?;
        if min > max {
            return Err(Error::config(format_args!(
                "--auth-backoff-min ({}) is longer than --auth-backoff-max ({}); raise the one or \
                 lower the other",
                humantime::format_duration(min),
                humantime::format_duration(max)
            )));
        }
        Ok(BackoffRange { min, max })
    }

    fn logs(&self) -> Result<LogConfig, Error> {
        let format = match self.switch("structured-logs")? {
            true => Format::CloudLogging,
            false => Format::Text,
        };
        let verbosity = match self.exclusive(&["quiet", "debug-logs"])? {
            Some("quiet") => Verbosity::Quiet,
            Some(_) => Verbosity::Debug,
            None => Verbosity::Normal,
        };
        Ok(LogConfig { format, verbosity })
    }
}

#[cfg(test)]
mod tests;
