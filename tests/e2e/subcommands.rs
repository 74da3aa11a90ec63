//! `check`, `token`, `wait`, `shutdown`, `completion`: what they print, and their exit codes.

use std::process::Output;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::bed::{Bed, BedOptions};
use crate::support::cluster::{Cluster, ClusterOptions};
use crate::support::faults::AuthFault;
use crate::support::google::{ApiFault, FakeApi, redis_cluster};
use crate::support::metadata::{FakeMetadata, MetadataFault};
use crate::support::ports::free_port;
use crate::support::proxy::command;
use crate::support::tls::Authority;

const HOUR: Duration = Duration::from_secs(3600);
const LONG: Duration = Duration::from_secs(30);

async fn run(metadata: Option<&FakeMetadata>, args: &[&str]) -> (Output, String) {
    let home = TempDir::new().unwrap();
    let mut command = command(&home);
    command.args(args);
    // Nobody listens there.
    let host = metadata.map_or_else(|| format!("127.0.0.1:{}", free_port()), FakeMetadata::host);
    command.env("GCE_METADATA_HOST", host);
    let output = tokio::process::Command::from(command).output().await.unwrap();
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (output, String::from_utf8_lossy(&text).into_owned())
}

/// The line of a step.
fn line<'a>(report: &'a str, step: &str) -> &'a str {
    let of_step = |l: &&str| l.split_whitespace().nth(1) == Some(step);
    report.lines().find(of_step).unwrap_or_else(|| panic!("no line about {step}:\n{report}"))
}

#[tokio::test]
async fn wait_and_shutdown_drive_a_proxy_without_a_shell() {
    let admin = free_port().to_string();
    let args = vec!["--quitquitquit".to_owned(), format!("--admin-port={admin}")];
    let mut bed = Bed::with(BedOptions { args, ..BedOptions::default() }).await;
    let http = bed.proxy.http_addr().port().to_string();
    let (output, text) = run(None, &["wait", "--http-port", &http]).await;
    assert_eq!((output.status.code(), text.as_str()), (Some(0), ""));
    let (output, text) = run(None, &["shutdown", "--admin-port", &admin]).await;
    assert_eq!((output.status.code(), text.as_str()), (Some(0), ""));
    assert_eq!(bed.proxy.wait(LONG).await.unwrap().code(), Some(0));
    let (output, text) = run(None, &["shutdown", "--admin-port", &admin]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("--quitquitquit"), "{text}");
    let (output, text) = run(None, &["wait", "--max=300ms", "--http-port", &http]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("is not up after 300ms (--max)"), "{text}");
}

#[tokio::test]
async fn wait_tells_what_is_awaited() {
    let metadata = FakeMetadata::start(HOUR).await;
    metadata.set_fault(Some(MetadataFault::InternalError));
    let nobody = format!("127.0.0.1:{}", free_port());
    let options = crate::support::proxy::ProxyOptions::new(nobody).metadata(metadata.host());
    let proxy = crate::support::proxy::Proxy::spawn(options).await;
    let http = proxy.http_addr().port().to_string();
    let (output, text) = run(None, &["wait", "--max=2s", "--http-port", &http]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("metadata server"), "{text}");
}

#[tokio::test]
async fn token_prints_what_redis_cli_wants() {
    let metadata = FakeMetadata::start(HOUR).await;
    let (output, text) = run(Some(&metadata), &["token"]).await;
    assert_eq!(output.status.code(), Some(0));
    let token = text.strip_suffix('\n').expect("one line");
    assert!(metadata.tokens().is_live(token), "{token}");
    let (output, text) = run(None, &["token"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("cannot get a token"), "{text}");
    assert_eq!(run(None, &["token", "--no-iam-auth"]).await.0.status.code(), Some(2));
}

#[tokio::test]
async fn completion_is_a_script_of_the_shell() {
    for (shell, part) in
        [("bash", "_memorystore__auth__proxy()"), ("zsh", "#compdef"), ("fish", "complete -c")]
    {
        let (output, text) = run(None, &["completion", shell]).await;
        assert_eq!(output.status.code(), Some(0));
        assert!(text.contains(part) && text.contains("op-timeout"), "{shell}");
    }
    let (output, text) = run(None, &["completion", "csh"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(text.contains("bash, elvish, fish"), "{text}");
}

#[tokio::test]
async fn check_is_green_when_all_is_well() {
    let metadata = FakeMetadata::start(HOUR).await;
    let api = FakeApi::start(metadata.tokens()).await;
    let cluster = Cluster::start(ClusterOptions::default(), metadata.tokens()).await;
    let name = "projects/p/locations/r/clusters/c";
    let discovery = cluster.seed().parse().unwrap();
    api.put(name, redis_cluster(name, discovery, "IAM_AUTH", "DISABLED"));
    let [redis, memorystore] = api.args();
    let (output, text) = run(Some(&metadata), &["check", &redis, &memorystore, name]).await;
    assert_eq!(output.status.code(), Some(0), "{text}");
    for step in
        ["settings", "credentials", "API", "DNS", "dial", "AUTH", "topology", "nodes", "clock"]
    {
        assert!(line(&text, step).starts_with("ok"), "{text}");
    }
    assert!(line(&text, "topology").contains("3 shards"), "{text}");
    assert!(!text.contains('\x1b'), "colours are for terminals");
    for token in metadata.tokens().all() {
        assert!(!text.contains(&token));
    }
}

#[tokio::test]
async fn check_names_each_kind_of_trouble_and_skips_what_depends_on_it() {
    let metadata = FakeMetadata::start(HOUR).await;
    let cluster = Cluster::start(ClusterOptions::default(), metadata.tokens()).await;
    let seed = cluster.seed();
    let broken = async |args: &[&str], metadata: Option<&FakeMetadata>, step: &str, says: &str| {
        let args: Vec<&str> =
            ["check", "--connect-timeout=1s"].iter().chain(args).copied().collect();
        let (output, text) = run(metadata, &args).await;
        assert_eq!(output.status.code(), Some(1), "{text}");
        let line = line(&text, step);
        assert!(line.starts_with("FAIL") && line.contains(says), "{step}, {says}:\n{text}");
        text
    };
    let text = broken(&[&seed], None, "credentials", "metadata server").await;
    assert!(line(&text, "dial").starts_with("ok"), "the network is fine:\n{text}");
    assert!(line(&text, "AUTH").starts_with("skip"), "{text}");

    let known = Some(&metadata);
    broken(&["no-such-host.invalid:6379"], known, "DNS", "does not resolve").await;
    let nobody = format!("127.0.0.1:{}", free_port());
    let text = broken(&[&nobody], known, "dial", "refused: nothing listens there").await;
    assert!(line(&text, "topology").starts_with("skip"), "{text}");

    let front = cluster.member(0).front();
    front.faults().fail_auth(AuthFault::WrongPass, u32::MAX);
    broken(&[&seed], known, "AUTH", "lacks roles/redis.dbConnectionUser").await;
    front.faults().heal_auth();
    cluster.member(2).front().faults().set_refused(true);
    broken(&[&seed], known, "nodes", "refused: nothing listens there").await;
    cluster.member(2).front().faults().set_refused(false);

    let api = FakeApi::start(metadata.tokens()).await;
    api.set_fault(Some(ApiFault::Forbidden));
    let [redis, memorystore] = api.args();
    let name = "projects/p/locations/r/clusters/c";
    let text = broken(&[&redis, &memorystore, name], known, "API", "lacks the permission").await;
    assert!(line(&text, "DNS").starts_with("skip"), "{text}");

    let long_ago = b"*2\r\n$10\r\n1000000000\r\n$1\r\n0\r\n";
    front.faults().answer("TIME", long_ago, 1);
    broken(&[&seed], known, "clock", "run NTP").await;
}

#[tokio::test]
async fn check_tells_whom_it_does_not_trust() {
    let [right, wrong] = ["right", "wrong"].map(Authority::new);
    let metadata = FakeMetadata::start(HOUR).await;
    let options =
        ClusterOptions { tls: Some(right.leaf(&["127.0.0.1"])), ..ClusterOptions::default() };
    let cluster = Cluster::start(options, metadata.tokens()).await;
    let folder = TempDir::new().unwrap();
    let file = |authority: &Authority| {
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, &authority.pem).unwrap();
        format!("--server-ca-file={}", path.display())
    };
    let known = Some(&metadata);
    let (output, text) = run(known, &["check", &file(&right), &cluster.seed()]).await;
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(line(&text, "TLS").starts_with("ok"), "{text}");
    let (output, text) = run(known, &["check", &file(&wrong), &cluster.seed()]).await;
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(line(&text, "dial").starts_with("ok"), "{text}");
    assert!(line(&text, "TLS").starts_with("FAIL"), "{text}");
    assert!(line(&text, "AUTH").starts_with("skip"), "{text}");
}
