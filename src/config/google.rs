//! Where Google's APIs are.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use super::Reader;
use crate::error::Error;
use crate::google::api::Bases;
use crate::google::http::Url;

impl Reader<'_> {
    /// Reads the bases of the two admin APIs.
    pub(super) fn api_bases(&self) -> Result<Bases, Error> {
        Ok(Bases {
            redis: self.typed("redis-api-endpoint", Url::for_secrets)?,
            memorystore: self.typed("memorystore-api-endpoint", Url::for_secrets)?,
        })
    }
}
