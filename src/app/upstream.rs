//! Where the nodes of an instance are, whom to trust among them and what to say to them: from the
//! settings, or from Google's API when the instance is given by name.
//!
//! Invariant: what a flag says wins over the API; what the API said once stays in force while it fails.

use std::sync::Arc;

use tokio::sync::watch;

use super::tls;
use crate::cluster::topology::NodeAddr;
use crate::cluster::watcher::Seeds;
use crate::config::Config;
use crate::config::{Endpoint, Instance};
use crate::credentials::CredentialState;
use crate::credentials::sources::CredentialSource;
use crate::credentials::task::{self, CredentialHandle};
use crate::env::Environment;
use crate::error::Error;
use crate::google::api::Api;
use crate::google::describe::{Authorization, Endpoints, Facts, Transit};
use crate::google::http::Http;
use crate::google::lookup::{self, Found, Known, Wanted};
use crate::google::name::ResourceName;
use crate::upstream::tls::{Trust, Verify};

/// What an instance's connections are made with.
pub struct Upstream {
    /// Whom to ask first.
    pub seeds: watch::Receiver<Seeds>,
    /// Whether and how nodes prove who they are.
    pub trust: Trust,
    /// What to authenticate with.
    pub credential: watch::Receiver<CredentialState>,
}

/// Credentials for the nodes, and for the API.
#[derive(Clone)]
pub struct Credentials {
    /// What AUTH is said with.
    pub nodes: watch::Receiver<CredentialState>,
    /// What the API is asked with; differs when nodes want a password, or nothing.
    pub api: watch::Receiver<CredentialState>,
}

impl Upstream {
    /// Of an instance. Nothing is waited for: an instance given by name learns its nodes later.
    ///
    /// # Errors
    /// A file that cannot be used.
    pub async fn of(
        config: &Config,
        instance: &Instance,
        credentials: &Credentials,
    ) -> Result<Self, Error> {
        match &instance.endpoint {
            Endpoint::Seeds(seeds) => Ok(Self {
                trust: tls::trust(config, seeds).await?,
                seeds: watch::channel(seeds.clone().into()).1,
                credential: credentials.nodes.clone(),
            }),
            Endpoint::Resource(name) => Self::by_name(config, name, credentials).await,
        }
    }

    async fn by_name(
        config: &Config,
        name: &ResourceName,
        credentials: &Credentials,
    ) -> Result<Self, Error> {
        let trust = tls::trust_by_name(config).await?;
        let verified = config.tls.verify != Verify::Insecure && config.tls.on != Some(false);
        let wanted = match config.tls.authorities.is_none() && verified {
            true => Wanted::Authorities,
            false => Wanted::Nothing,
        };
        let api = Api::new(Http::new(), config.api_bases.clone(), config.quota_project.clone());
        let lookup = lookup::spawn(api, name.clone(), wanted, credentials.api.clone());
        if wanted == Wanted::Authorities {
            let bell = lookup.clone();
            trust.on_untrusted(Arc::new(move || bell.refresh_soon()));
        }
        let (seeds, seeds_told) = watch::channel(Seeds::default());
        let (credential, credential_told) = watch::channel(CredentialState::Pending);
        let follower = Follower {
            name: name.clone(),
            decided: config.tls.on,
            trust: trust.clone(),
            nodes: credentials.nodes.clone(),
            seeds,
            credential,
        };
        tokio::spawn(follower.run(lookup.known.clone()));
        Ok(Self { seeds: seeds_told, trust, credential: credential_told })
    }
}

/// Credentials for the nodes and for the API. They are the same unless the nodes want a password, or
/// nothing, and an instance is given by name.
pub fn for_whom(config: &Config, nodes: &CredentialHandle, env: &Environment) -> Credentials {
    let by_name = config.instances.iter().any(|i| matches!(i.endpoint, Endpoint::Resource(_)));
    let own = matches!(
        config.credential_source,
        CredentialSource::None | CredentialSource::Password { .. }
    );
    let api = if by_name && own {
        let options = task::Options::new(config.upstream_username.clone(), config.auth_backoff);
        task::start(&CredentialSource::Adc, options, env).watch
    } else {
        nodes.watch.clone()
    };
    Credentials { nodes: nodes.watch.clone(), api }
}

/// Passes on what the API says.
struct Follower {
    name: ResourceName,
    /// Whether the settings say that nodes encrypt.
    decided: Option<bool>,
    trust: Trust,
    nodes: watch::Receiver<CredentialState>,
    seeds: watch::Sender<Seeds>,
    credential: watch::Sender<CredentialState>,
}

impl Follower {
    async fn run(mut self, mut known: watch::Receiver<Known>) {
        let mut applied: Option<Arc<Found>> = None;
        let mut warned = false;
        loop {
            let now = known.borrow_and_update().clone();
            match (&now.found, &now.error) {
                (Some(found), _) => {
                    if applied.as_ref() != Some(found) {
                        self.apply(found);
                        applied = Some(found.clone());
                    }
                    warned |= self.pass_credential(&found.facts, warned);
                }
                (None, error) => self.seeds.send_modify(|seeds| seeds.missing = error.clone()),
            }
            tokio::select! {
                changed = known.changed() => if changed.is_err() { return },
                changed = self.nodes.changed() => if changed.is_err() { return },
                () = self.seeds.closed() => return,
            }
        }
    }

    fn apply(&self, found: &Found) {
        let seeds = seeds_of(&found.facts.endpoints);
        self.trust.set_seeds(&seeds.nodes);
        match (self.decided, &found.facts.transit, &found.authorities) {
            (None, Transit::Plain, _) => self.trust.set_plain(),
            (_, _, Some(pem)) => {
                if let Err(why) = self.trust.replace(pem.as_bytes()) {
                    tracing::error!("the CA certificates of {} cannot be used: {why}", self.name);
                }
            }
            // A file has the authorities, or nothing is verified, or the settings say plain.
            _ => {}
        }
        self.seeds.send_if_modified(|old| {
            let news = *old != seeds;
            *old = seeds;
            news
        });
    }

    /// Nodes without AUTH are not sent any. Returns whether something was said about a mode that does
    /// not fit the credentials.
    fn pass_credential(&mut self, facts: &Facts, warned: bool) -> bool {
        let state = self.nodes.borrow_and_update().clone();
        let mut says = None;
        let state = match (&facts.authorization, state) {
            (
                Authorization::Disabled,
                CredentialState::Ready { .. } | CredentialState::Failed { .. },
            ) => CredentialState::NotNeeded,
            (Authorization::Iam, CredentialState::NotNeeded) => {
                says = Some("wants IAM authentication: drop --no-iam-auth");
                CredentialState::NotNeeded
            }
            (Authorization::Token, state) => {
                says = Some(
                    "wants a token of its own (TOKEN_AUTH), not one of IAM's: give it by \
                     --upstream-password-file, and its user by --upstream-username",
                );
                state
            }
            (_, state) => state,
        };
        self.credential.send_replace(state);
        match says.filter(|_| !warned) {
            Some(says) => tracing::warn!("{} {says}", self.name),
            None => return false,
        }
        true
    }
}

fn seeds_of(endpoints: &Endpoints) -> Seeds {
    let (nodes, reader): (&Vec<NodeAddr>, Option<&NodeAddr>) = match endpoints {
        Endpoints::Cluster { discovery } => (discovery, None),
        Endpoints::Single { primary, reader } => (primary, reader.first()),
    };
    Seeds { nodes: nodes.clone(), reader: reader.cloned(), missing: None }
}
