//! Key files, gcloud, and application default credentials over all of them.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::credentials::sources::adc::Adc;
use crate::credentials::sources::gcloud::Gcloud;
use crate::credentials::sources::google_file::GoogleFile;

/// Writes an executable by a child process: were this process to hold the file open for writing
/// while another test forks, running it would fail with "text file busy".
fn script(dir: &Path, body: &str) {
    let mut child = Command::new("/bin/sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(dir.join("gcloud"))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let text = format!("#!/bin/sh\n{body}\n");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn gcloud_env(dir: &Path) -> Environment {
    env(&[("PATH", dir.to_str().unwrap()), ("HOME", dir.to_str().unwrap())])
}

fn key_file(dir: &Path, token_uri: &str) -> PathBuf {
    let key = serde_json::json!({
        "type": "service_account",
        "project_id": "p",
        "client_email": "sa@p.iam.gserviceaccount.com",
        "private_key": include_str!("../testdata/throwaway-key.pem"),
        "token_uri": token_uri,
    });
    let path = dir.join("key.json");
    std::fs::write(&path, key.to_string()).unwrap();
    path
}

#[tokio::test]
async fn service_account_key_is_exchanged_anew_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::start(vec![token_reply("first", 3600), token_reply("second", 3600)]).await;
    let path = key_file(dir.path(), &format!("http://127.0.0.1:{}/token", fake.port));
    let source = CredentialSource::CredentialsFile(path);
    let handle = task::start(&source, options(), &env(&[]));
    let CredentialState::Ready { credential, .. } = until(&handle, has_secret("first")).await
    else {
        panic!()
    };
    assert_eq!(credential.source, "service account file");
    assert!(credential.expires_at.is_some());
    // gcp_auth alone would give "first" for an hour.
    handle.force_refresh(credential.generation);
    until(&handle, has_secret("second")).await;
    let request = &fake.requests()[0];
    assert!(request.starts_with("POST /token "), "{request}");
    assert!(request.contains("assertion="), "{request}");
}

#[tokio::test]
async fn broken_credential_files() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::start(vec![Reply::Http(400, r#"{"error":"invalid_grant"}"#.into())]).await;
    let refused = key_file(dir.path(), &format!("http://127.0.0.1:{}/token", fake.port));
    let written = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    for (path, says) in [
        (dir.path().join("none"), "not found"),
        (dir.path().to_owned(), "directory"),
        (written("empty", ""), "not a credentials file"),
        (written("other", r#"{"type":"gdch","x":"hush"}"#), "'gdch'"),
        (written("user", r#"{"type":"authorized_user","refresh_token":"hush"}"#), "column"),
        (written("keyless", r#"{"type":"service_account","client_email":["hush"]}"#), "line 1"),
        (
            written(
                "badkey",
                r#"{"type":"service_account","private_key":"hush","client_email":"a","token_uri":"b"}"#,
            ),
            "key",
        ),
        (refused, "token endpoint refused"),
    ] {
        let error = GoogleFile::new(path.clone(), Context::default()).mint().await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains(says) && text.contains(path.to_str().unwrap()), "{says}: {text}");
        assert!(!text.contains("hush"), "{text}");
    }
}

#[tokio::test]
async fn gcloud_prints_a_token() {
    let dir = tempfile::tempdir().unwrap();
    script(
        dir.path(),
        r#"test "$*" = "auth print-access-token --quiet" && test -n "$HOME" && echo ya29.gcloud"#,
    );
    let before = SystemTime::now();
    let minted = Gcloud::new(gcloud_env(dir.path())).token().await.unwrap();
    assert_eq!(minted.secret.expose(), "ya29.gcloud");
    let life = minted.expires_at.unwrap().duration_since(before).unwrap();
    assert!(life <= Duration::from_secs(601), "{life:?}");
}

#[tokio::test]
async fn gcloud_in_trouble() {
    for (body, says) in [
        ("echo banner >&2; echo 'ERROR: not logged in' >&2; exit 1", "ERROR: not logged in"),
        ("exit 3", "exit status: 3"),
        ("echo two words", "printed no token"),
        ("exit 0", "printed no token"),
        ("exec /bin/sleep 60", "no answer within 300ms"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        script(dir.path(), body);
        let mut gcloud =
            Gcloud::new(gcloud_env(dir.path())).with_timeout(Duration::from_millis(300));
        let mut text = gcloud.mint().await.unwrap_err().to_string();
        // A loaded machine may not get a shell to its end in time; only the last case must not.
        if text.contains("no answer") && !says.contains("no answer") {
            gcloud = gcloud.with_timeout(DEADLINE);
            text = gcloud.mint().await.unwrap_err().to_string();
        }
        assert!(text.contains(says), "{body}: {text}");
    }
    let dir = tempfile::tempdir().unwrap();
    let mut gcloud = Gcloud::new(gcloud_env(dir.path()));
    let text = gcloud.mint().await.unwrap_err().to_string();
    assert!(text.contains("gcloud: not installed"), "{text}");
}

#[tokio::test]
async fn the_whole_chain_says_what_each_place_said() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().to_str().unwrap();
    let (_held, port) = closed_port();
    let mut adc = Adc::new(gcloud_env(dir.path())).with_metadata(Metadata::at("127.0.0.1", port));
    let error = adc.mint().await.unwrap_err();
    let text = error.to_string();
    let want = format!(
        "no credentials: GOOGLE_APPLICATION_CREDENTIALS: not set; ADC file \
         {home}/.config/gcloud/application_default_credentials.json: not found; metadata server \
         127.0.0.1:{port}: connection refused; gcloud: not installed (no such command in PATH). \
         Run 'gcloud auth application-default login', or "
    );
    assert!(text.starts_with(&want), "{text}");
    let failed: Vec<_> = error.attempts.iter().filter_map(|a| a.failed).collect();
    assert_eq!(failed, [SourceKind::Metadata], "what is not set up did not fail");
}

#[tokio::test]
async fn the_chain_goes_on_only_past_places_that_are_not_there() {
    let dir = tempfile::tempdir().unwrap();
    script(dir.path(), "echo ya29.gcloud");
    let (held, port) = closed_port();
    let absent = Metadata::at("127.0.0.1", port);
    let mut adc = Adc::new(gcloud_env(dir.path())).with_metadata(absent);
    assert_eq!(adc.mint().await.unwrap().secret.expose(), "ya29.gcloud");
    // The identity stays, though a metadata server has come up and gcloud fails.
    let server = Fake::serve(held.listen(16).unwrap(), vec![token_reply("ya29.meta", 60)]);
    script(dir.path(), "exit 1");
    let error = adc.mint().await.unwrap_err();
    assert_eq!(error.attempts.len(), 1, "{error}");
    assert_eq!(error.attempts[0].place, "gcloud");
    assert!(server.requests().is_empty());

    // A server that is there but in trouble ends the chain.
    script(dir.path(), "echo ya29.gcloud");
    let sick = Fake::start(vec![Reply::Http(503, String::new())]).await;
    let present = Metadata::at("127.0.0.1", sick.port);
    let mut adc = Adc::new(gcloud_env(dir.path())).with_metadata(present);
    let text = adc.mint().await.unwrap_err().to_string();
    assert!(text.contains("HTTP 503") && !text.contains("gcloud:"), "{text}");

    // One without a service account does not.
    let bare = Fake::start(vec![Reply::Http(404, String::new())]).await;
    let mut adc =
        Adc::new(gcloud_env(dir.path())).with_metadata(Metadata::at("127.0.0.1", bare.port));
    assert_eq!(adc.mint().await.unwrap().kind, SourceKind::Gcloud);
}

#[tokio::test]
async fn a_key_file_that_is_named_is_used_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    script(dir.path(), "echo ya29.gcloud");
    let fake = Fake::start(vec![token_reply("ya29.key", 3600)]).await;
    let path = key_file(dir.path(), &format!("http://127.0.0.1:{}/token", fake.port));
    let path = path.to_str().unwrap();
    let home = dir.path().to_str().unwrap();
    let vars =
        |path| env(&[("GOOGLE_APPLICATION_CREDENTIALS", path), ("PATH", home), ("HOME", home)]);
    let minted = Adc::new(vars(path)).mint().await.unwrap();
    assert_eq!(minted.secret.expose(), "ya29.key");
    let text = Adc::new(vars("/nonexistent.json")).mint().await.unwrap_err().to_string();
    let place = "GOOGLE_APPLICATION_CREDENTIALS /nonexistent.json: not found";
    assert!(text.contains(place) && !text.contains("gcloud"), "{text}");
}

#[tokio::test]
async fn a_service_account_may_stand_in_the_adc_file() {
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::start(vec![token_reply("ya29.adc", 3600)]).await;
    let path = key_file(dir.path(), &format!("http://127.0.0.1:{}/token", fake.port));
    std::fs::rename(path, dir.path().join("application_default_credentials.json")).unwrap();
    let config = env(&[("CLOUDSDK_CONFIG", dir.path().to_str().unwrap())]);
    let minted = Adc::new(config).mint().await.unwrap();
    assert_eq!(minted.secret.expose(), "ya29.adc");
}
