//! Impersonation by flag against a fake of iamcredentials.

use super::*;
use crate::credentials::sources::impersonation::{Chain, OnBehalf};
use crate::google::http::Url;

const TARGET: &str = "target@p.iam.gserviceaccount.com";

pub(super) fn made(token: &str) -> Reply {
    let at = SystemTime::now() + Duration::from_secs(3600);
    let at = humantime::format_rfc3339_seconds(at).to_string();
    Reply::Http(200, serde_json::json!({ "accessToken": token, "expireTime": at }).to_string())
}

fn source(port: u16, chain: &str) -> CredentialSource {
    CredentialSource::Impersonated(Box::new(OnBehalf {
        source: CredentialSource::Token(Secret::new("hush-base".to_owned())),
        chain: Chain::parse(chain).unwrap(),
        endpoint: Url::parse(&format!("http://127.0.0.1:{port}")).unwrap(),
    }))
}

#[tokio::test]
async fn a_chain_is_given_in_the_order_of_the_api() {
    let fake = Fake::start(vec![made("ya29.target")]).await;
    let chain = format!("{TARGET},near@p.iam.gserviceaccount.com,far@p.iam.gserviceaccount.com");
    let source = CredentialSource::Billed {
        source: Box::new(source(fake.port, &chain)),
        project: "billed".into(),
    };
    assert!(!format!("{source:?}").contains("hush"));
    let minted = source.build(&env(&[])).unwrap().mint().await.unwrap();
    assert_eq!(minted.secret.expose(), "ya29.target");
    assert_eq!(minted.principal.as_deref(), Some(TARGET));
    assert_eq!(minted.kind, SourceKind::Impersonated);
    let life = minted.expires_at.unwrap().duration_since(SystemTime::now()).unwrap();
    assert!(life > Duration::from_secs(3000), "{life:?}");
    let request = &fake.requests()[0];
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let want = format!("POST /v1/projects/-/serviceAccounts/{TARGET}:generateAccessToken HTTP/1.1");
    assert!(head.starts_with(&want), "{head}");
    assert!(head.contains("authorization: Bearer hush-base"), "{head}");
    assert!(head.contains("x-goog-user-project: billed"), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    let want = serde_json::json!({
        "scope": ["https://www.googleapis.com/auth/cloud-platform"],
        "lifetime": "3600s",
        "delegates": [
            "projects/-/serviceAccounts/far@p.iam.gserviceaccount.com",
            "projects/-/serviceAccounts/near@p.iam.gserviceaccount.com",
        ],
    });
    assert_eq!(body, want);
}

#[tokio::test]
async fn each_refusal_has_its_sentence() {
    let google = |code: u16, status: &str, more: &str| {
        let body = format!(
            r#"{{"error":{{"code":{code},"message":"no hush-base","status":"{status}"{more}}}}}"#
        );
        Reply::Http(code, body)
    };
    let off = r#","details":[{"reason":"SERVICE_DISABLED","metadata":{"consumer":"projects/7"}}]"#;
    for (reply, says) in [
        (
            google(403, "PERMISSION_DENIED", ""),
            "the account of the --token may not make tokens for target@p.iam.gserviceaccount.com; \
             grant roles/iam.serviceAccountTokenCreator on d@p.iam.gserviceaccount.com to the \
             account of the --token and grant roles/iam.serviceAccountTokenCreator on target@p.iam.gserviceaccount.com to \
             d@p.iam.gserviceaccount.com",
        ),
        (google(403, "PERMISSION_DENIED", off), "iamcredentials.googleapis.com --project=7"),
        (google(404, "NOT_FOUND", ""), "there is no service account target@p."),
        (google(401, "UNAUTHENTICATED", ""), "token of the account of the --token was not"),
        (google(429, "RESOURCE_EXHAUSTED", ""), "too many requests"),
        (google(400, "INVALID_ARGUMENT", ""), "check the chain"),
        (Reply::Http(503, "hush".into()), "the API is in trouble"),
        (Reply::Http(200, r#"{"accessToken":"hush"}"#.into()), "the reply is not a token"),
        (
            Reply::Http(200, r#"{"accessToken":"hush","expireTime":"soon"}"#.into()),
            "the reply is not a token",
        ),
        (Reply::Raw(b""), "check that it can be reached"),
    ] {
        let fake = Fake::start(vec![reply]).await;
        let source = source(fake.port, &format!("{TARGET},d@p.iam.gserviceaccount.com"));
        let error = source.build(&env(&[])).unwrap().mint().await.unwrap_err();
        assert_eq!(error.attempts[0].failed, Some(SourceKind::Impersonated));
        let text = error.to_string();
        assert!(text.contains(says), "{says}: {text}");
        assert!(text.contains(&format!("impersonation of {TARGET}: ")), "{text}");
        assert!(!text.contains("hush"), "{text}");
    }
}

#[tokio::test]
async fn the_source_behind_it_says_what_it_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let source = CredentialSource::Impersonated(Box::new(OnBehalf {
        source: CredentialSource::TokenFile(dir.path().join("none")),
        chain: Chain::parse(TARGET).unwrap(),
        endpoint: Url::parse("http://127.0.0.1:9").unwrap(),
    }));
    let text = source.build(&env(&[])).unwrap().mint().await.unwrap_err().to_string();
    assert!(text.contains("--token-file") && text.contains("not found"), "{text}");
}

#[test]
fn chains() {
    let chain = Chain::parse(" a@b.c , d@e.f,g@h.i").unwrap();
    assert_eq!((&*chain.target, chain.delegates.len()), ("a@b.c", 2));
    for text in ["", "a", "a@b.c,", "a@b.c/../x", "a@b.c d@e.f", "@b.c"] {
        let error = Chain::parse(text).unwrap_err();
        assert!(error.contains("no service account"), "{text}: {error}");
    }
}
