//! The program as users start it: exit codes, messages, and which place of a setting wins.
//!
//! Every case ends by itself: it asks for help or has something wrong.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::process::{Command, Output};

fn proxy(args: &[&str], vars: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_memorystore-auth-proxy"));
    command.args(args).env_clear().envs(vars.iter().copied());
    command.output().unwrap()
}

/// The one line on stderr of a start that is refused with code 2.
fn refused(args: &[&str], vars: &[(&str, &str)]) -> String {
    let output = proxy(args, vars);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{args:?} wrote to stdout");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.starts_with("memorystore-auth-proxy: "), "{stderr}");
    stderr
}

#[test]
fn help_and_version_go_to_stdout() {
    let output = proxy(&["--help"], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty());
    let help = String::from_utf8(output.stdout).unwrap();
    for word in ["--token-file", "MEMORYSTORE_PROXY_PORT", "Where clients connect", "Examples:"] {
        assert!(help.contains(word), "{word} is missing in\n{help}");
    }
    let output = proxy(&["--version"], &[]);
    assert_eq!(output.status.code(), Some(0));
    let version = String::from_utf8(output.stdout).unwrap();
    assert_eq!(version, format!("memorystore-auth-proxy {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_configuration_ends_with_2_and_one_line() {
    for (args, says) in [
        (&[][..], "endpoint is missing"),
        (&["--prot=1", "h:1"], "did you mean '--port'"),
        (&["--address=0.0.0.0", "h:1"], "--allow-non-loopback"),
        (&["--token=hush", "--token-file=/t", "h:1"], "--token-file"),
        (&["--no-iam-auth", "--token=hush", "h:1"], "--no-iam-auth"),
        (&["h"], "has no port"),
        (&["projects/p/locations/-/clusters/c"], "leaves the region open"),
        (&["--config-file=/nonexistent.toml"], "/nonexistent.toml"),
    ] {
        let stderr = refused(args, &[]);
        assert!(stderr.contains(says), "{args:?}: {stderr}");
        assert!(!stderr.contains("hush"), "{stderr}");
    }
}

#[test]
fn precedence() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "port = 70000\n").unwrap();
    let path = file.path().to_str().unwrap();
    let named = ("MEMORYSTORE_PROXY_CONFIG_FILE", path);
    // Each stronger place mends the port, and only then the missing endpoint is noticed.
    assert!(refused(&[], &[named]).contains("70000"));
    let good = ("MEMORYSTORE_PROXY_PORT", "6380");
    assert!(refused(&[], &[named, good]).contains("endpoint is missing"));
    let bad = ("MEMORYSTORE_PROXY_PORT", "70001");
    assert!(refused(&[], &[named, bad]).contains("MEMORYSTORE_PROXY_PORT '70001'"));
    assert!(refused(&["--port=6380"], &[named, bad]).contains("endpoint is missing"));
    assert!(refused(&["--port=70002"], &[named, good]).contains("--port '70002'"));
}

#[test]
fn unknown_keys_are_refused_and_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "prot = 1\n").unwrap();
    let path = file.path().to_str().unwrap();
    let stderr = refused(&["--config-file", path, "h:1"], &[]);
    assert!(stderr.contains("unknown key 'prot'") && stderr.contains(path), "{stderr}");
}
