//! The command line: what it refuses, with which exit code and in which words.

use std::process::Output;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::proxy::command;

async fn run(args: &[&str]) -> Output {
    let home = TempDir::new().expect("a directory");
    let mut command = tokio::process::Command::from(command(&home));
    command.args(args).kill_on_drop(true);
    tokio::time::timeout(Duration::from_secs(20), command.output())
        .await
        .unwrap_or_else(|_| panic!("{args:?} still runs after 20 s"))
        .expect("the proxy's binary starts")
}

#[tokio::test]
async fn version_and_help_go_to_stdout() {
    let version = run(&["--version"]).await;
    assert!(version.status.success());
    let text = String::from_utf8_lossy(&version.stdout).into_owned();
    assert!(text.contains(env!("CARGO_PKG_VERSION")), "{text}");
    let help = run(&["--help"]).await;
    assert!(help.status.success());
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    for flag in [
        "--address",
        "--port",
        "--unix-socket",
        "--unix-socket-mode",
        "--threads",
        "--token",
        "--token-file",
        "--credentials-file",
        "--gcloud-auth",
        "--no-iam-auth",
        "--upstream-username",
        "--upstream-password-file",
        "--http-address",
        "--http-port",
        "--health-check",
        "--prometheus",
        "--structured-logs",
        "--debug-logs",
        "--quiet",
        "--config-file",
        "--op-timeout",
        "--allow-non-loopback",
    ] {
        assert!(text.contains(flag), "--help names {flag}");
    }
}

#[tokio::test]
async fn mistakes_end_with_code_two_and_a_sentence_that_names_the_flag() {
    let dir = TempDir::new().expect("a directory");
    let unknown_key = dir.path().join("unknown.toml");
    std::fs::write(&unknown_key, "no-such-key = 1\n").expect("written");
    let unknown_key = unknown_key.display().to_string();
    let here = "127.0.0.1:6379";
    let cases: [(&[&str], &str); 12] = [
        (&[], "HOST:PORT"),
        (&["no-port-here"], "no-port-here"),
        (&["127.0.0.1:99999"], "127.0.0.1:99999"),
        (&[here, "--no-such-flag"], "--no-such-flag"),
        (&[here, "--port", "x"], "--port"),
        (&[here, "--address", "0.0.0.0"], "--allow-non-loopback"),
        (&[here, "--address", "not an address"], "--address"),
        (&[here, "--token", "a", "--gcloud-auth"], "--gcloud-auth"),
        (&[here, "--token", "a", "--token-file", "/x"], "--token"),
        (&[here, "--no-iam-auth", "--token", "a"], "--no-iam-auth"),
        (&[here, "--config-file", &unknown_key], "no-such-key"),
        (&[here, "--threads", "0"], "--threads"),
    ];
    for (args, named) in cases {
        let output = run(args).await;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains(named), "{args:?} does not name {named}: {text}");
    }
}

#[tokio::test]
async fn a_token_on_the_command_line_is_not_echoed_in_an_error() {
    let output = run(&["127.0.0.1:6379", "--token", "ya29.typed", "--gcloud-auth"]).await;
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(!text.contains("ya29.typed"), "{text}");
}
