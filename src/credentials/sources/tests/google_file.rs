//! Users' logins, impersonated files and external accounts against fakes of all three endpoints.

use super::impersonation::made;
use super::*;
use crate::credentials::sources::google_file::GoogleFile;

const TARGET: &str = "sa@p.iam.gserviceaccount.com";

fn url(fake: &Fake, path: &str) -> String {
    format!("http://127.0.0.1:{}{path}", fake.port)
}

fn generate(fake: &Fake) -> String {
    url(fake, &format!("/v1/projects/-/serviceAccounts/{TARGET}:generateAccessToken"))
}

fn user(token_uri: &str) -> serde_json::Value {
    serde_json::json!({
        "type": "authorized_user", "client_id": "id", "client_secret": "hush-secret",
        "refresh_token": "hush-refresh", "token_uri": token_uri, "account": "me@example.com",
    })
}

fn external(fake: &Fake, source: serde_json::Value) -> serde_json::Value {
    serde_json::json!({
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": url(fake, "/v1/token"),
        "credential_source": source,
    })
}

async fn mint(json: &serde_json::Value, vars: &[(&str, &str)]) -> Result<Minted, String> {
    let context = Context { env: env(vars), ..Context::default() };
    let mut file = GoogleFile::inline(Secret::new(json.to_string()), context);
    assert!(!format!("{file:?}").contains("hush"), "{file:?}");
    file.mint().await.map_err(|error| {
        let text = error.to_string();
        assert!(!text.contains("hush"), "{text}");
        assert!(text.starts_with("no credentials: --json-credentials: "), "{text}");
        text
    })
}

/// The fields of a form, decoded.
fn form(request: &str) -> Vec<(String, String)> {
    let body = request.split_once("\r\n\r\n").unwrap().1;
    form_urlencoded::parse(body.as_bytes()).into_owned().collect()
}

fn field<'a>(form: &'a [(String, String)], name: &str) -> Option<&'a str> {
    form.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

#[tokio::test]
async fn a_users_login_works_anywhere() {
    let fake = Fake::start(vec![token_reply("ya29.user", 3600)]).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("login.json");
    std::fs::write(&path, user(&url(&fake, "/token")).to_string()).unwrap();
    let minted = GoogleFile::new(path, Context::default()).mint().await.unwrap();
    assert_eq!(minted.secret.expose(), "ya29.user");
    assert_eq!(minted.kind, SourceKind::UserCredentials);
    assert_eq!(minted.principal.as_deref(), Some("me@example.com"));
    assert!(minted.expires_at.is_some());
    let request = &fake.requests()[0];
    assert!(request.starts_with("POST /token "), "{request}");
    let form = form(request);
    assert_eq!(field(&form, "grant_type"), Some("refresh_token"));
    assert_eq!(field(&form, "refresh_token"), Some("hush-refresh"));
    assert_eq!(field(&form, "client_secret"), Some("hush-secret"));
}

#[tokio::test]
async fn a_login_in_trouble() {
    let told = r#"{"error":"invalid_grant","error_description":"hush-refresh was revoked"}"#;
    for (reply, says) in [
        (Reply::Http(400, told.into()), "gcloud auth application-default login"),
        (Reply::Http(401, r#"{"error":"invalid_client"}"#.into()), "client is not valid"),
        (Reply::Http(429, "hush".into()), "too many requests"),
        (Reply::Http(503, "hush".into()), "the endpoint is in trouble"),
        (Reply::Http(200, "hush".into()), "the reply is not a token"),
        (Reply::Http(200, r#"{"access_token":"a hush","expires_in":1}"#.into()), "garbled"),
        (Reply::Raw(b""), "check that it can be reached"),
    ] {
        let fake = Fake::start(vec![reply]).await;
        let text = mint(&user(&url(&fake, "/token")), &[]).await.unwrap_err();
        assert!(text.contains(says), "{says}: {text}");
    }
    let text = mint(&user("http://10.0.0.1/"), &[]).await.unwrap_err();
    assert!(text.contains("its token_uri would send secrets in clear text"), "{text}");
    let odd = serde_json::json!({"type": "authorized_user", "refresh_token": ["hush"]});
    let text = mint(&odd, &[]).await.unwrap_err();
    assert!(text.contains("not user credentials (client_id"), "{text}");
}

#[tokio::test]
async fn an_impersonated_file_holds_another_one() {
    let token = Fake::start(vec![token_reply("hush-user", 3600)]).await;
    let iam = Fake::start(vec![made("ya29.target"), Reply::Http(403, String::new())]).await;
    let file = serde_json::json!({
        "type": "impersonated_service_account",
        "service_account_impersonation_url": generate(&iam),
        "delegates": ["d@p.iam.gserviceaccount.com"],
        "quota_project_id": "billed",
        "source_credentials": user(&url(&token, "/token")),
    });
    let minted = mint(&file, &[]).await.unwrap();
    assert_eq!(minted.secret.expose(), "ya29.target");
    assert_eq!(minted.principal.as_deref(), Some(TARGET));
    assert_eq!(minted.kind, SourceKind::Impersonated);
    let request = &iam.requests()[0];
    assert!(request.contains("authorization: Bearer hush-user"), "{request}");
    assert!(request.contains("x-goog-user-project: billed"), "{request}");
    assert!(request.contains(r#"["projects/-/serviceAccounts/d@p.iam"#), "{request}");
    let text = mint(&file, &[]).await.unwrap_err();
    assert!(
        text.contains("me@example.com may not make tokens for sa@p.iam.gserviceaccount.com"),
        "{text}"
    );

    let mut broken = file.clone();
    broken["source_credentials"]["type"] = "odd".into();
    let text = mint(&broken, &[]).await.unwrap_err();
    assert!(text.contains("its source_credentials: credentials of type 'odd'"), "{text}");
    let mut broken = file;
    broken["service_account_impersonation_url"] = "https://iam.example.com/x".into();
    let text = mint(&broken, &[]).await.unwrap_err();
    assert!(text.contains("does not end with /serviceAccounts/"), "{text}");
}

#[tokio::test]
async fn an_external_account_by_file_and_by_url() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("subject");
    std::fs::write(&path, "hush.subject\n").unwrap();
    let sts = Fake::start(vec![token_reply("hush-federated", 3600)]).await;
    let iam = Fake::start(vec![made("ya29.target"), Reply::Http(403, String::new())]).await;
    let mut file = external(&sts, serde_json::json!({ "file": path }));
    file["service_account_impersonation_url"] = generate(&iam).into();
    file["service_account_impersonation"] = serde_json::json!({"token_lifetime_seconds": 600});
    file["client_id"] = "id".into();
    file["client_secret"] = "hush".into();
    let minted = mint(&file, &[]).await.unwrap();
    assert_eq!(minted.secret.expose(), "ya29.target");
    assert_eq!(minted.kind, SourceKind::ExternalAccount);
    assert_eq!(minted.principal.as_deref(), Some(TARGET));
    let request = &sts.requests()[0];
    assert!(request.contains("authorization: Basic aWQ6aHVzaA=="), "{request}");
    let sent = form(request);
    assert_eq!(field(&sent, "subject_token"), Some("hush.subject"));
    assert_eq!(field(&sent, "grant_type"), Some("urn:ietf:params:oauth:grant-type:token-exchange"));
    assert_eq!(field(&sent, "options"), None);
    let request = &iam.requests()[0];
    assert!(request.contains("Bearer hush-federated") && request.contains(r#""600s""#));
    let text = mint(&file, &[]).await.unwrap_err();
    assert!(text.contains("grant roles/iam.workloadIdentityUser on sa@p."), "{text}");

    // Without a service account, and with the subject in a field of JSON.
    let server = Fake::start(vec![Reply::Http(200, r#"{"tok":"hush.azure"}"#.into())]).await;
    let mut file = external(
        &sts,
        serde_json::json!({
            "url": url(&server, "/identity?hush"),
            "headers": {"Metadata": "True"},
            "format": {"type": "json", "subject_token_field_name": "tok"},
        }),
    );
    file["workforce_pool_user_project"] = "w".into();
    let minted = mint(&file, &[]).await.unwrap();
    assert_eq!((minted.secret.expose(), minted.principal), ("hush-federated", None));
    let request = &server.requests()[0];
    assert!(request.starts_with("GET /identity?hush "), "{request}");
    assert!(request.to_lowercase().contains("metadata: true"), "{request}");
    let sent = form(&sts.requests()[2]);
    assert_eq!(field(&sent, "options"), Some(r#"{"userProject":"w"}"#));
    assert_eq!(field(&sent, "subject_token"), Some("hush.azure"));
}

#[tokio::test]
async fn an_external_account_by_program() {
    let sts = Fake::start(vec![token_reply("ya29.federated", 3600)]).await;
    let by = |script: &str| {
        let command = format!("/bin/sh -c '{script}'");
        external(&sts, serde_json::json!({ "executable": { "command": command } }))
    };
    let works = by(
        r#"echo "{\"version\":1,\"success\":true,\"id_token\":\"$GOOGLE_EXTERNAL_ACCOUNT_INTERACTIVE.hush\"}""#,
    );
    let text = mint(&works, &[]).await.unwrap_err();
    assert!(text.contains("wants GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES=1"), "{text}");
    let allowed = [("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "1")];
    let minted = mint(&works, &allowed).await.unwrap();
    assert_eq!(minted.secret.expose(), "ya29.federated");
    assert_eq!(field(&form(&sts.requests()[0]), "subject_token"), Some("0.hush"));
    for (script, says) in [
        (
            r#"echo "{\"success\":false,\"code\":\"401\",\"message\":\"not logged in\"}"; exit 1"#,
            "executable /bin/sh: 401: not logged in",
        ),
        ("echo no luck >&2; exit 3", "failed (exit status: 3): no luck"),
        ("echo hush", "it printed no JSON with success"),
        (r#"echo "{\"success\":true}""#, "no id_token"),
    ] {
        let text = mint(&by(script), &allowed).await.unwrap_err();
        assert!(text.contains(says), "{says}: {text}");
    }
}

#[tokio::test]
async fn an_external_account_in_trouble() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("subject");
    std::fs::write(&path, "hush.subject").unwrap();
    let told = r#"{"error":"invalid_grant","error_description":"bad hush.subject"}"#;
    let sts = Fake::start(vec![Reply::Http(400, told.into())]).await;
    let json = serde_json::json!({"type": "json", "subject_token_field_name": "t"});
    for (source, says) in [
        (serde_json::json!({ "file": path }), "the pool's provider does not take"),
        (serde_json::json!({ "file": dir.path().join("none") }), "No such file"),
        (serde_json::json!({ "file": path, "format": json }), "not JSON"),
        (serde_json::json!({ "file": path, "format": {"type": "xml"} }), "neither text nor json"),
        (serde_json::json!({ "environment_id": "aws1" }), "from AWS, which is not supported"),
        (serde_json::json!({}), "none of file, url and executable"),
        (serde_json::json!({ "url": url(&sts, "/x?hush") }), "HTTP 400"),
    ] {
        let text = mint(&external(&sts, source), &[]).await.unwrap_err();
        assert!(text.contains(says), "{says}: {text}");
    }
}
