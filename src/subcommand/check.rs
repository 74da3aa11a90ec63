//! `check`, the doctor: each step a line, good or bad with the mend.
//!
//! Steps depend on those before them: what cannot be tried any more is said to be skipped. Invariant:
//! it changes nothing, takes the very ways the proxy takes (credential task, lookup, trust, dial), and
//! ends in bounded time. No secret is printed.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, stdout};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, timeout};

use super::print;
use crate::app::access;
use crate::app::upstream::{Credentials, Upstream, for_whom};
use crate::cluster::discovery::SlotMap;
use crate::cluster::query::ask_map;
use crate::cluster::topology::{Mode, NodeAddr, SLOTS};
use crate::config::{Config, Endpoint, Instance};
use crate::credentials::task::{self, Options};
use crate::credentials::{Credential, CredentialState};
use crate::env::Environment;
use crate::error::Error;
use crate::resp::value::Value;
use crate::upstream::client::{Client, ClientError, Timeouts};
use crate::upstream::tls::ConnectError;

/// Longest wait for a credential, and for the API.
const WITHIN: Duration = Duration::from_secs(30);

/// A clock that is off by more makes good tokens look expired.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// Does all steps for all instances.
pub(super) async fn check(config: Config, env: &Environment) -> Result<(), Error> {
    let colours = stdout().is_terminal() && env.var("NO_COLOR").is_none();
    let mut report = Report { colours, bad: 0 };
    report.good("settings", "they can be read")?;
    match access::examine(&config).await {
        Ok(Some(says)) => report.good("users", &says)?,
        Ok(None) => {}
        Err(error) => report.bad("users", &error.to_string())?,
    }
    let options = Options::new(config.upstream_username.clone(), config.auth_backoff);
    let handle = task::start(&config.credential_source, options, env);
    let credentials = for_whom(&config, &handle, env);
    let usable = credential(&mut report, &credentials).await?;
    for instance in &config.instances {
        if config.instances.len() > 1 {
            print(&format!("\n{}\n", instance.name))?;
        }
        let upstream = Upstream::of(&config, instance, &credentials).await?;
        Doctor { config: &config, instance, report: &mut report }.examine(upstream, usable).await?;
    }
    match report.bad {
        0 => Ok(()),
        1 => Err(Error::runtime("one step failed", "its line says what to do")),
        n => Err(Error::runtime(format!("{n} steps failed"), "their lines say what to do")),
    }
}

struct Report {
    colours: bool,
    bad: usize,
}

impl Report {
    fn line(&self, colour: &str, mark: &str, step: &str, says: &str) -> Result<(), Error> {
        let (on, off) = if self.colours { (colour, "\x1b[0m") } else { ("", "") };
        print(&format!("{on}{mark:<4}{off}  {step:<11}  {says}\n"))
    }

    fn good(&self, step: &str, says: &str) -> Result<(), Error> {
        self.line("\x1b[32m", "ok", step, says)
    }

    fn bad(&mut self, step: &str, says: &str) -> Result<(), Error> {
        self.bad += 1;
        self.line("\x1b[31m", "FAIL", step, says)
    }

    fn skipped(&self, step: &str) -> Result<(), Error> {
        self.line("\x1b[33m", "skip", step, "needs a step above")
    }
}

/// Whether there is a credential, or none is needed.
async fn credential(report: &mut Report, credentials: &Credentials) -> Result<bool, Error> {
    const STEP: &str = "credentials";
    let mut state = credentials.nodes.clone();
    let known = state.wait_for(|state| !matches!(state, CredentialState::Pending));
    let state = match timeout(WITHIN, known).await {
        Ok(Ok(state)) => state.clone(),
        _ => CredentialState::Pending,
    };
    match state {
        CredentialState::Ready { credential, .. } => {
            report.good(STEP, &shown(&credential))?;
            Ok(true)
        }
        CredentialState::NotNeeded => {
            report.good(STEP, "none wanted (--no-iam-auth)")?;
            Ok(true)
        }
        CredentialState::Failed { error } => report.bad(STEP, &error).map(|()| false),
        CredentialState::Pending => {
            let says = format!("no answer within {}", humantime::format_duration(WITHIN));
            report.bad(STEP, &says).map(|()| false)
        }
    }
}

fn shown(credential: &Credential) -> String {
    let mut text = format!("from {}", credential.source);
    // Writing to a String cannot fail.
    if let Some(principal) = &credential.principal {
        let _ = write!(text, ", for {principal}");
    }
    if let Some(left) =
        credential.expires_at.and_then(|at| at.duration_since(SystemTime::now()).ok())
    {
        let left = Duration::from_secs(left.as_secs());
        let _ = write!(text, ", valid for {}", humantime::format_duration(left));
    }
    text
}

struct Doctor<'a> {
    config: &'a Config,
    instance: &'a Instance,
    report: &'a mut Report,
}

impl Doctor<'_> {
    /// All steps of one instance, until one fails that the rest needs.
    async fn examine(mut self, upstream: Upstream, usable: bool) -> Result<(), Error> {
        let steps = ["API", "DNS", "dial", "TLS", "AUTH", "topology", "nodes", "clock"];
        let by_name = matches!(self.instance.endpoint, Endpoint::Resource(_));
        let steps = if by_name { &steps[..] } else { &steps[1..] };
        let mut done = 0;
        let outcome = self.steps(&upstream, usable, &mut done).await;
        if let Err(Some(broken)) = outcome {
            return Err(broken);
        }
        for step in &steps[done.min(steps.len())..] {
            if *step != "TLS" || upstream.trust.encrypts() {
                self.report.skipped(step)?;
            }
        }
        Ok(())
    }

    /// `Err(None)`: a step failed, and was reported; `done` counts the steps that were.
    async fn steps(
        &mut self,
        upstream: &Upstream,
        usable: bool,
        done: &mut usize,
    ) -> Result<(), Option<Error>> {
        let seeds = self.api(upstream, usable, done).await?;
        let seed = self.dns(&seeds).await?;
        *done += 1;
        let mut client = self.dial(upstream, &seed, done).await?;
        self.auth(upstream, usable, &mut client).await?;
        *done += 1;
        let map = self.topology(upstream, &mut client).await?;
        *done += 1;
        self.nodes(upstream, &map).await?;
        *done += 1;
        self.clock(&mut client).await?;
        *done += 1;
        Ok(())
    }

    fn timeouts(&self) -> Timeouts {
        Timeouts { connect: self.config.connect_timeout, auth: self.config.connect_timeout }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.config.connect_timeout
    }

    fn good(&self, step: &str, says: &str) -> Result<(), Option<Error>> {
        self.report.good(step, says).map_err(Some)
    }

    /// Reports; the steps that need this one cannot be tried.
    fn bad<T>(&mut self, step: &str, says: &str) -> Result<T, Option<Error>> {
        Err(self.report.bad(step, says).err())
    }

    async fn api(
        &mut self,
        upstream: &Upstream,
        usable: bool,
        done: &mut usize,
    ) -> Result<Vec<NodeAddr>, Option<Error>> {
        let mut seeds = upstream.seeds.clone();
        if !matches!(self.instance.endpoint, Endpoint::Resource(_)) {
            return Ok(seeds.borrow().nodes.clone());
        }
        // Without a credential the API cannot be asked; the reason was told already.
        let longest = if usable { WITHIN } else { Duration::from_millis(100) };
        let awaited = |why: &str| why.contains("awaited");
        let told = seeds.wait_for(|seeds| {
            !seeds.nodes.is_empty() || seeds.missing.as_deref().is_some_and(|why| !awaited(why))
        });
        let known = match timeout(longest, told).await {
            Ok(Ok(seeds)) => seeds.clone(),
            _ => upstream.seeds.borrow().clone(),
        };
        *done += 1;
        if known.nodes.is_empty() {
            let why = known.missing.as_deref().unwrap_or("no answer in time").to_owned();
            return self.bad("API", &why);
        }
        let list: Vec<String> = known.nodes.iter().map(ToString::to_string).collect();
        self.good("API", &format!("the instance is at {}", list.join(", ")))?;
        Ok(known.nodes)
    }

    /// The first seed whose name resolves.
    async fn dns(&mut self, seeds: &[NodeAddr]) -> Result<NodeAddr, Option<Error>> {
        let mut said = String::from("there is no endpoint to look up");
        for seed in seeds {
            let look = tokio::net::lookup_host((&*seed.host, seed.port));
            match timeout(self.config.connect_timeout, look).await {
                Ok(Ok(found)) => {
                    let found: Vec<String> = found.map(|a| a.ip().to_string()).collect();
                    self.good("DNS", &format!("{} is {}", seed.host, found.join(", ")))?;
                    return Ok(seed.clone());
                }
                Ok(Err(e)) => {
                    said = format!(
                        "{} does not resolve: {e}; check the name, and the DNS of this machine",
                        seed.host
                    );
                }
                Err(_) => said = format!("no answer about {} in time; check the DNS", seed.host),
            }
        }
        self.bad("DNS", &said)
    }

    async fn dial(
        &mut self,
        upstream: &Upstream,
        seed: &NodeAddr,
        done: &mut usize,
    ) -> Result<Client, Option<Error>> {
        let begun = Instant::now();
        let outcome = Client::connect(seed, None, self.timeouts(), &upstream.trust).await;
        let took = begun.elapsed().as_millis();
        *done += 1;
        let tls = upstream.trust.encrypts();
        match outcome {
            Ok(client) => {
                self.good("dial", &format!("{seed} took the connection in {took} ms"))?;
                *done += 1;
                if tls {
                    self.good("TLS", "the node proved who it is, as far as --tls-verify asks")?;
                }
                Ok(client)
            }
            Err(ClientError::Dial(ConnectError::Tls(error))) => {
                self.good("dial", &format!("{seed} takes connections"))?;
                *done += 1;
                self.bad("TLS", &error.to_string())
            }
            Err(error) => self.bad("dial", &error.to_string()),
        }
    }

    async fn auth(
        &mut self,
        upstream: &Upstream,
        usable: bool,
        client: &mut Client,
    ) -> Result<(), Option<Error>> {
        if !usable {
            return Err(None);
        }
        let state = upstream.credential.borrow().clone();
        match state {
            CredentialState::Ready { credential, .. } => {
                let deadline = self.deadline();
                match client.authenticate(&credential, deadline).await {
                    Ok(()) => self.good("AUTH", &format!("as {}", credential.username)),
                    Err(error) => self.bad("AUTH", &error.to_string()),
                }
            }
            _ => match client.call(&[b"PING"], self.deadline()).await {
                Ok(_) => self.good("AUTH", "none wanted, and the node answers"),
                Err(error) => self.bad("AUTH", &error.to_string()),
            },
        }
    }

    async fn topology(
        &mut self,
        upstream: &Upstream,
        client: &mut Client,
    ) -> Result<SlotMap, Option<Error>> {
        let limit = self.config.connect_timeout;
        match ask_map(client, upstream.trust.encrypts(), limit).await {
            Err(error) => self.bad("topology", &error),
            Ok(map) if map.mode == Mode::Standalone => {
                self.good("topology", "a single server without cluster mode")?;
                Ok(map)
            }
            Ok(map) => {
                let replicas: usize = map.shards.iter().map(|s| s.replicas.len()).sum();
                let (shards, covered) = (map.shards.len(), map.slots_covered());
                if covered < SLOTS {
                    let says = format!(
                        "{shards} shards own only {covered} of {SLOTS} slots: the cluster is down in \
                         part; look at its state in the console"
                    );
                    self.report.bad("topology", &says).map_err(Some)?;
                } else {
                    self.good("topology", &format!("{shards} shards, {replicas} replicas"))?;
                }
                Ok(map)
            }
        }
    }

    async fn nodes(&mut self, upstream: &Upstream, map: &SlotMap) -> Result<(), Option<Error>> {
        let state = upstream.credential.borrow().clone();
        let credential = match &state {
            CredentialState::Ready { credential, .. } => Some(&**credential),
            _ => None,
        };
        let mut good = 0;
        for shard in &map.shards {
            let node = &shard.primary;
            let connected =
                Client::connect(node, credential, self.timeouts(), &upstream.trust).await;
            let answered = match connected {
                Ok(mut client) => client.call(&[b"PING"], self.deadline()).await.map(drop),
                Err(error) => Err(error),
            };
            match answered {
                Ok(()) => good += 1,
                Err(error) => self.report.bad("nodes", &error.to_string()).map_err(Some)?,
            }
        }
        match good == map.shards.len() {
            true => self.good("nodes", &format!("{good} primaries were reached, and answer")),
            false => Ok(()),
        }
    }

    async fn clock(&mut self, client: &mut Client) -> Result<(), Option<Error>> {
        let time = match client.call(&[b"TIME"], self.deadline()).await {
            Ok(Value::Array(parts)) => parts.first().and_then(|v| v.as_str()?.parse::<u64>().ok()),
            Ok(_) => None,
            Err(error) => return self.bad("clock", &error.to_string()),
        };
        let Some(theirs) = time.map(|secs| UNIX_EPOCH + Duration::from_secs(secs)) else {
            return self.bad("clock", "the node's answer to TIME is not understood");
        };
        let ours = SystemTime::now();
        let off = ours.duration_since(theirs).unwrap_or_else(|ahead| ahead.duration());
        let off = Duration::from_secs(off.as_secs());
        let shown = humantime::format_duration(off);
        if off > CLOCK_TOLERANCE {
            let says = format!(
                "this machine's clock differs from the node's by {shown}, so tokens may look expired; \
                 run NTP"
            );
            return self.bad("clock", &says);
        }
        self.good(
            "clock",
            &format!(
                "as the node's, within {}",
                match off.is_zero() {
                    true => "1s".to_owned(),
                    false => shown.to_string(),
                }
            ),
        )
    }
}
