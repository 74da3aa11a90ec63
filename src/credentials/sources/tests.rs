//! Sources against fakes on loopback, scripts and files of their own; the process environment is
//! never touched. Here are the fakes and the metadata server.

mod chain;
mod file;
mod google_file;
mod impersonation;
mod token_command;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket};

use super::metadata::Metadata;
use super::*;
use crate::credentials::CredentialState;
use crate::credentials::schedule::BackoffRange;
use crate::credentials::task::{self, CredentialHandle, Options};

const DEADLINE: Duration = Duration::from_secs(20);

/// A server of fixed replies on loopback; the last one repeats. Ends with the test's runtime.
struct Fake {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
}

enum Reply {
    Http(u16, String),
    Raw(&'static [u8]),
    Hang,
}

fn token_reply(token: &str, expires_in: u64) -> Reply {
    let body = serde_json::json!({
        "access_token": token, "expires_in": expires_in, "token_type": "Bearer"
    });
    Reply::Http(200, body.to_string())
}

impl Fake {
    async fn start(replies: Vec<Reply>) -> Self {
        Self::serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), replies)
    }

    fn serve(listener: TcpListener, replies: Vec<Reply>) -> Self {
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let next = AtomicUsize::new(0);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !is_whole(&request) {
                    match stream.read_buf(&mut request).await {
                        Ok(n) if n > 0 => {}
                        _ => break,
                    }
                }
                let request = String::from_utf8(request).unwrap();
                if request.lines().next().is_some_and(|line| line.contains("/email ")) {
                    // Whose tokens they are is asked beside the token, and may stay unknown.
                    let _ = stream
                        .write_all(
                            b"HTTP/1.1 404 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
                        )
                        .await;
                    continue;
                }
                seen.lock().unwrap().push(request);
                let index = next.fetch_add(1, Ordering::SeqCst).min(replies.len() - 1);
                match &replies[index] {
                    Reply::Http(status, body) => {
                        let head = format!(
                            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n\
                             content-length: {}\r\nconnection: close\r\n\r\n",
                            body.len()
                        );
                        let _ = stream.write_all((head + body).as_bytes()).await;
                    }
                    Reply::Raw(bytes) => {
                        let _ = stream.write_all(bytes).await;
                    }
                    Reply::Hang => {
                        tokio::spawn(async move {
                            let _ = stream.read(&mut [0]).await;
                        });
                    }
                }
            }
        });
        Self { port, requests }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// Head and body of a request are in.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.split("content-length: ").nth(1);
    let length = length.and_then(|t| t.lines().next()?.trim().parse().ok());
    body.len() >= length.unwrap_or(0)
}

fn env(vars: &[(&str, &str)]) -> Environment {
    vars.iter().copied().collect()
}

fn named(port: u16) -> Environment {
    env(&[("GCE_METADATA_HOST", &format!("127.0.0.1:{port}"))])
}

/// A port of loopback where nobody listens, held so that nobody else gets it.
fn closed_port() -> (TcpSocket, u16) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

fn options() -> Options {
    Options::new(
        "default".into(),
        BackoffRange { min: Duration::from_millis(20), max: Duration::from_millis(200) },
    )
}

async fn until(
    handle: &CredentialHandle,
    want: impl Fn(&CredentialState) -> bool,
) -> CredentialState {
    let mut watch = handle.watch.clone();
    tokio::time::timeout(DEADLINE, watch.wait_for(|state| want(state)))
        .await
        .expect("the state never came")
        .unwrap()
        .clone()
}

fn has_secret(want: &str) -> impl Fn(&CredentialState) -> bool {
    move |state| matches!(state, CredentialState::Ready { credential, .. } if credential.secret.expose() == want)
}

fn is_failed(state: &CredentialState) -> bool {
    matches!(state, CredentialState::Failed { .. })
}

#[test]
fn kinds_are_in_the_order_of_their_discriminants() {
    for (index, kind) in SourceKind::ALL.into_iter().enumerate() {
        assert_eq!(kind as usize, index);
    }
}

#[tokio::test]
async fn metadata_server_gives_a_token() {
    let fake = Fake::start(vec![token_reply("ya29.meta", 300)]).await;
    let before = SystemTime::now();
    let minted = Metadata::new(&named(fake.port)).token().await.unwrap();
    assert_eq!(minted.secret.expose(), "ya29.meta");
    let life = minted.expires_at.unwrap().duration_since(before).unwrap();
    assert!(life >= Duration::from_secs(300) && life < Duration::from_secs(310));
    let request = fake.requests()[0].to_lowercase();
    let path = "/computemetadata/v1/instance/service-accounts/default/token";
    assert!(request.starts_with(&format!("get {path} http/1.1\r\n")), "{request}");
    assert!(request.contains("\r\nmetadata-flavor: google\r\n"), "{request}");
    assert!(request.contains(&format!("\r\nhost: 127.0.0.1:{}\r\n", fake.port)), "{request}");
}

#[tokio::test]
async fn metadata_server_in_trouble() {
    let huge = "x".repeat(100_000);
    for (reply, says) in [
        (Reply::Http(500, "hush".into()), "HTTP 500"),
        (Reply::Http(404, "hush".into()), "no service account"),
        (Reply::Http(200, "<html>hush</html>".into()), "not a token"),
        (Reply::Http(200, r#"{"access_token":"hush"}"#.into()), "not a token"),
        (Reply::Http(200, r#"{"access_token":7,"expires_in":"hush"}"#.into()), "not a token"),
        (Reply::Http(200, r#"{"access_token":"","expires_in":9}"#.into()), "garbled"),
        (Reply::Http(200, r#"{"access_token":"a b","expires_in":9}"#.into()), "garbled"),
        (
            Reply::Http(200, r#"{"access_token":"hush","expires_in":18446744073709551615}"#.into()),
            "absurd",
        ),
        (Reply::Http(200, huge), "broken reply"),
        (Reply::Raw(b""), "closed"),
        (Reply::Raw(b"-NOAUTH hush\r\n"), "invalid HTTP"),
        (Reply::Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{"), "broken reply"),
        (Reply::Hang, "no answer within 300ms"),
    ] {
        let fake = Fake::start(vec![reply]).await;
        let hangs = says.contains("no answer");
        let limit = if hangs { Duration::from_millis(300) } else { DEADLINE };
        let server = Metadata::new(&named(fake.port)).with_timeout(limit);
        let refusal = server.token().await.unwrap_err();
        assert!(refusal.said.contains(says), "{says}: {refusal:?}");
        assert!(!refusal.said.contains("hush"), "{refusal:?}");
    }
    let (_held, port) = closed_port();
    let refusal = Metadata::new(&named(port)).token().await.unwrap_err();
    assert_eq!(refusal.said, "connection refused");
}

#[test]
fn metadata_host_forms() {
    for (text, place) in [
        ("10.0.0.1", "metadata server 10.0.0.1:80"),
        ("http://h:8080/", "metadata server h:8080"),
        ("[::1]:8080", "metadata server [::1]:8080"),
        ("fd00::1", "metadata server [fd00::1]:80"),
        ("", "metadata server metadata.google.internal:80"),
    ] {
        assert_eq!(Metadata::new(&env(&[("GCE_METADATA_HOST", text)])).place(), place);
    }
}

#[tokio::test]
async fn short_lived_tokens_are_renewed_from_a_metadata_server() {
    let fake =
        Fake::start(vec![token_reply("one", 2), token_reply("two", 2), token_reply("three", 3600)])
            .await;
    let handle = task::start(&CredentialSource::Adc, options(), &named(fake.port));
    until(&handle, has_secret("one")).await;
    let start = tokio::time::Instant::now();
    until(&handle, has_secret("two")).await;
    // Not sooner; that it is in time is shown in virtual time.
    let waited = start.elapsed();
    assert!(waited > Duration::from_secs(1), "{waited:?}");
    let CredentialState::Ready { credential, .. } = until(&handle, has_secret("three")).await
    else {
        panic!()
    };
    assert_eq!((credential.generation, credential.source), (3, "metadata server"));
}

#[tokio::test]
async fn a_late_metadata_server_is_found() {
    let (socket, port) = closed_port();
    let handle = task::start(&CredentialSource::Adc, options(), &named(port));
    let CredentialState::Failed { error } = until(&handle, is_failed).await else { panic!() };
    let place = format!("metadata server 127.0.0.1:{port}: connection refused");
    assert!(error.contains(&place), "{error}");
    let _fake = Fake::serve(socket.listen(16).unwrap(), vec![token_reply("late", 3600)]);
    until(&handle, has_secret("late")).await;
    assert!(handle.counters.failures(SourceKind::Metadata) >= 1);
}
