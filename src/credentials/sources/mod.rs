//! The places a credential can come from.

use std::path::PathBuf;

use crate::credentials::Secret;

/// Which source the user chose.
#[derive(Debug, Clone)]
pub enum CredentialSource {
    /// Application default credentials: key file, user file, metadata server, gcloud.
    Adc,
    /// A fixed access token (`--token`).
    Token(Secret),
    /// A file with an access token (`--token-file`).
    TokenFile(PathBuf),
    /// A service account key file (`--credentials-file`).
    CredentialsFile(PathBuf),
    /// The gcloud command (`--gcloud-auth`).
    Gcloud,
    /// A file with a fixed password (`--upstream-password-file`).
    Password {
        /// Path of the file.
        file: PathBuf,
    },
    /// No AUTH at all (`--no-iam-auth`).
    None,
}
