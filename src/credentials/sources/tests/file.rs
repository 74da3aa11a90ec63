//! Tokens and passwords in files, and the fixed token.

use std::io::Write as _;
use std::path::Path;

use super::*;
use crate::credentials::sources::file::SecretFile;

/// Puts a file in place at once, as careful writers do.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn a_token_file_may_come_late_and_change() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let handle = task::start(&CredentialSource::TokenFile(path.clone()), options(), &env(&[]));
    let CredentialState::Failed { error } = until(&handle, is_failed).await else { panic!() };
    let place = format!("--token-file {}: not found", path.display());
    assert!(error.contains(&place), "{error}");

    replace(&path, "  one\n");
    until(&handle, has_secret("one")).await;
    replace(&path, "two");
    until(&handle, has_secret("two")).await;
    // In place, and of the same length.
    std::fs::write(&path, "six").unwrap();
    let CredentialState::Ready { credential, .. } = until(&handle, has_secret("six")).await else {
        panic!()
    };
    assert_eq!((credential.generation, credential.source), (3, "--token-file"));
    assert_eq!(credential.expires_at, None);
}

#[tokio::test]
async fn an_emptied_token_file_keeps_the_old_token() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    for (text, says) in [("", "empty"), (" \n", "empty"), ("half a\nfile", "more than one word")] {
        replace(&path, "good");
        let handle = task::start(&CredentialSource::TokenFile(path.clone()), options(), &env(&[]));
        until(&handle, has_secret("good")).await;
        std::fs::write(&path, text).unwrap();
        let state = until(&handle, |state| {
            matches!(state, CredentialState::Ready { refresh_error: Some(error), .. } if error.contains(says))
        })
        .await;
        assert!(has_secret("good")(&state));
        std::fs::write(&path, "better").unwrap();
        until(&handle, has_secret("better")).await;
    }
}

// In virtual time, so that the writer never pauses for longer than the reader waits.
#[tokio::test(start_paused = true)]
async fn a_file_that_is_being_written_is_not_taken_half() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let token = "ya29.0123456789";
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(&token.as_bytes()[..1]).unwrap();
    let handle = task::start(&CredentialSource::TokenFile(path.clone()), options(), &env(&[]));
    for byte in &token.as_bytes()[1..] {
        tokio::time::sleep(Duration::from_millis(10)).await;
        file.write_all(&[*byte]).unwrap();
    }
    let state = until(&handle, |s| matches!(s, CredentialState::Ready { .. })).await;
    assert!(has_secret(token)(&state), "{state:?}");
}

#[tokio::test]
async fn a_password_may_have_spaces() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    replace(&file, "pass wörd\r\n");
    let source = CredentialSource::Password { file: file.clone() };
    let handle = task::start(&source, options(), &env(&[]));
    let state = until(&handle, has_secret("pass wörd")).await;
    assert!(!format!("{state:?}").contains("wörd"), "{state:?}");
    let huge = "x".repeat(70_000);
    for (text, says) in [("two\nlines", "more than one line"), (&huge, "longer than")] {
        replace(&file, text);
        let mut source = SecretFile::password(file.clone());
        let error = source.mint().await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[tokio::test]
async fn a_fixed_token_is_ready_at_once() {
    let source = CredentialSource::Token(Secret::new("fixed".into()));
    let handle = task::start(&source, options(), &env(&[]));
    let CredentialState::Ready { credential, .. } = until(&handle, has_secret("fixed")).await
    else {
        panic!()
    };
    assert_eq!((credential.source, credential.expires_at), ("--token", None));
}
