//! Programs that print tokens.

use super::*;
use crate::credentials::sources::command::CommandLine;
use crate::credentials::sources::token_command::TokenCommand;

fn command(script: &str) -> TokenCommand {
    let line = CommandLine::parse(&format!("/bin/sh -c '{script}'")).unwrap();
    TokenCommand::new(line, env(&[("PATH", "/usr/bin:/bin"), ("WORD", "ya29.env")]))
}

#[tokio::test]
async fn tokens_bare_and_in_json() {
    for (script, secret, lives) in [
        ("echo \"$WORD\"", "ya29.env", None),
        (r#"echo "{\"access_token\":\"a\",\"expires_in\":600}""#, "a", Some(600)),
        (r#"echo " {\"token\":\"b\"}""#, "b", None),
        (
            r#"echo "{\"access_token\":\"c\",\"token\":\"d\",\"expiry\":\"2199-01-01T00:00:00Z\"}""#,
            "c",
            Some(1_000_000),
        ),
    ] {
        let before = SystemTime::now();
        let mut source = command(script).with_timeout(DEADLINE);
        assert!(source.reread_every().is_some());
        let minted = source.mint().await.unwrap();
        assert_eq!((minted.secret.expose(), minted.kind), (secret, SourceKind::TokenCommand));
        let life = minted.expires_at.map(|at| at.duration_since(before).unwrap().as_secs());
        assert_eq!(life.is_some(), lives.is_some(), "{script}");
        assert!(life >= lives, "{script}: {life:?}");
    }
}

#[tokio::test]
async fn programs_in_trouble() {
    for (script, says) in [
        ("echo hush; echo >&2; echo no ya29.hush left >&2; exit 4", "(exit status: 4): no … left"),
        ("exit 0", "it printed no token"),
        ("echo two hush", "it printed no token"),
        ("echo {hush", "JSON that is not a token"),
        ("echo {}", "without access_token and token"),
        (r#"echo "{\"token\":\"hush\",\"expiry\":\"soon\"}""#, "an expiry that is no date"),
        (r#"echo "{\"token\":\"a hush\"}""#, "garbled"),
        ("while :; do echo hushhushhushhush; done", "more than 65536 bytes"),
    ] {
        let text = command(script).with_timeout(DEADLINE).mint().await.unwrap_err().to_string();
        assert!(text.contains(says), "{script}: {text}");
        assert!(text.contains("--token-command /bin/sh: ") && !text.contains("hush"), "{text}");
    }
    let line = CommandLine::parse("/nonexistent/program --key hush").unwrap();
    let error = TokenCommand::new(line, env(&[])).mint().await.unwrap_err().to_string();
    assert!(error.contains("it cannot be run") && !error.contains("hush"), "{error}");
}

#[tokio::test]
async fn what_a_program_started_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let script = format!("sleep 1000 & echo $! > {}; wait", pids.display());
    let mut limit = Duration::from_millis(300);
    // A loaded machine may not get a shell that far in time.
    let text = loop {
        let outcome = command(&script).with_timeout(limit).mint().await;
        if std::fs::read_to_string(&pids).is_ok_and(|text| text.ends_with('\n')) {
            break outcome.unwrap_err().to_string();
        }
        limit *= 2;
    };
    assert!(text.contains("no answer within"), "{text}");
    let pid = std::fs::read_to_string(&pids).unwrap();
    let stat = format!("/proc/{}/stat", pid.trim());
    let gone = async {
        // Whoever inherits it may not have taken note yet, then it is a zombie.
        while std::fs::read_to_string(&stat).is_ok_and(|text| !text.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(DEADLINE, gone).await.expect("the grandchild lives on");
}
