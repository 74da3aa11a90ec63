//! Application default credentials: the places Google's libraries look in, in their order.
//!
//! Invariant: the identity never changes by accident. A place that is set up but broken ends the
//! search instead of passing it on to the next one, and once a place has given a credential only
//! that place is asked again.

use std::path::PathBuf;

use super::gcloud::{self, Gcloud};
use super::google_file::{self, GoogleFile};
use super::metadata::{self, Metadata};
use super::{Attempt, BoxFuture, Context, Minted, Source, SourceError, SourceKind};
use crate::env::Environment;

const KEY_VARIABLE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
const MEND: &str = "Run 'gcloud auth application-default login', or set \
    GOOGLE_APPLICATION_CREDENTIALS to a credentials file, or give --token-file or \
    --no-iam-auth.";

/// The chain of places.
#[derive(Debug)]
pub struct Adc {
    context: Context,
    metadata: Metadata,
    chosen: Option<Place>,
}

/// One link of the chain.
#[derive(Debug, Clone)]
enum Place {
    KeyFile(GoogleFile),
    AdcFile(GoogleFile),
    Metadata(Metadata),
    Gcloud(Gcloud),
}

/// What a link said when it gave nothing.
struct Miss {
    attempt: Attempt,
    /// Set up but broken: the next link would mean another identity.
    stop: bool,
}

impl Adc {
    /// Looks at `env` for the variables that Google's libraries know.
    pub fn new(env: Environment) -> Self {
        Self::within(Context { env, ..Context::default() })
    }

    /// The same with more than the variables given.
    pub fn within(context: Context) -> Self {
        let metadata = Metadata::new(&context.env);
        Self { context, metadata, chosen: None }
    }

    /// The same with another metadata server.
    #[must_use]
    pub fn with_metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    async fn attempt(&mut self) -> Result<Minted, SourceError> {
        if let Some(place) = &self.chosen {
            return place.ask().await.map_err(|miss| SourceError {
                attempts: vec![miss.attempt],
                mend: format!(
                    "Only this place is asked, as it gave the credentials so far. {MEND}"
                ),
            });
        }
        let mut attempts = Vec::new();
        for place in self.places() {
            let place = match place {
                Ok(place) => place,
                Err(attempt) => {
                    attempts.push(attempt);
                    continue;
                }
            };
            match place.ask().await {
                Ok(minted) => {
                    self.chosen = Some(place);
                    return Ok(minted);
                }
                Err(miss) => {
                    attempts.push(miss.attempt);
                    if miss.stop {
                        let mend =
                            "Mend this place or remove it; the next one is not asked, as it \
                                    may mean another identity."
                                .to_owned();
                        return Err(SourceError { attempts, mend });
                    }
                }
            }
        }
        let mend = MEND.to_owned();
        Err(SourceError { attempts, mend })
    }

    /// The links in order; for one that is not set up, what to say about it.
    fn places(&self) -> [Result<Place, Attempt>; 4] {
        let unset = |place: &str, said: &str| Attempt {
            failed: None,
            place: place.to_owned(),
            said: said.to_owned(),
        };
        let key_file = self.context.env.var(KEY_VARIABLE);
        let adc_file = self.adc_file();
        [
            key_file
                .map(|path| Place::KeyFile(GoogleFile::new(path.into(), self.context.clone())))
                .ok_or_else(|| unset(KEY_VARIABLE, "not set")),
            adc_file
                .map(|path| Place::AdcFile(GoogleFile::new(path, self.context.clone())))
                .ok_or_else(|| unset("ADC file", "HOME is not set")),
            Ok(Place::Metadata(self.metadata.clone())),
            Ok(Place::Gcloud(Gcloud::new(self.context.env.clone()))),
        ]
    }

    fn adc_file(&self) -> Option<PathBuf> {
        let dir = match self.context.env.var("CLOUDSDK_CONFIG") {
            Some(dir) => PathBuf::from(dir),
            None => PathBuf::from(self.context.env.var("HOME")?).join(".config/gcloud"),
        };
        Some(dir.join("application_default_credentials.json"))
    }
}

impl Source for Adc {
    fn mint(&mut self) -> BoxFuture<'_, Result<Minted, SourceError>> {
        Box::pin(self.attempt())
    }
}

impl Place {
    async fn ask(&self) -> Result<Minted, Miss> {
        match self {
            Self::KeyFile(file) => file.token().await.map_err(|refusal| Miss {
                attempt: Attempt {
                    failed: Some(refusal.kind()),
                    place: format!("{KEY_VARIABLE} {}", file),
                    said: refusal.said(),
                },
                stop: true,
            }),
            Self::AdcFile(file) => file.token().await.map_err(|refusal| {
                // A home directory that belongs to someone else is as good as none.
                let present = matches!(refusal, google_file::Refusal::Failed(..));
                Miss {
                    attempt: Attempt {
                        failed: present.then(|| refusal.kind()),
                        place: format!("ADC file {}", file),
                        said: refusal.said(),
                    },
                    stop: present,
                }
            }),
            Self::Metadata(server) => server.token().await.map_err(|refusal| {
                let metadata::Refusal { said, present } = refusal;
                Miss {
                    attempt: Attempt {
                        failed: Some(SourceKind::Metadata),
                        place: server.place(),
                        said,
                    },
                    stop: present || server.named,
                }
            }),
            Self::Gcloud(gcloud) => gcloud.token().await.map_err(|refusal| {
                let gcloud::Refusal { said, installed } = refusal;
                Miss {
                    attempt: Attempt {
                        failed: installed.then_some(SourceKind::Gcloud),
                        place: "gcloud".to_owned(),
                        said,
                    },
                    stop: false,
                }
            }),
        }
    }
}
