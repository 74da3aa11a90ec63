use std::net::Ipv4Addr;
use std::path::Path;

use super::*;
use crate::args::flags::FLAGS;
use crate::args::{self, Request};
use crate::env::Environment;
use crate::worker::hub::ReadFrom;

pub(super) fn load(args: &[&str], vars: &[(&str, &str)]) -> Result<Config, String> {
    let argv = ["proxy"].iter().chain(args);
    let env: Environment = vars.iter().copied().collect();
    let request = args::parse(argv, &env).map_err(|e| e.to_string())?;
    let Request::Run(settings) = request else { panic!("shows help") };
    Config::from_settings(&settings).map_err(|error| {
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(!text.contains('\n') && !text.contains("hush"), "{text}");
        text
    })
}

fn sample_file() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/config/proxy.toml"))
}

#[test]
fn defaults() {
    let config = load(&["10.0.0.3:6379"], &[]).unwrap();
    assert_eq!(config.instances[0].listen.address, IpAddr::V4(Ipv4Addr::LOCALHOST));
    assert_eq!(config.instances[0].listen.port, 6379);
    assert_eq!(config.instances[0].listen.unix_socket, None);
    assert_eq!(config.threads.get(), 1);
    assert!(matches!(config.credential_source, CredentialSource::Adc));
    assert_eq!(&*config.upstream_username, "default");
    assert_eq!(config.auth_backoff.min, Duration::from_millis(100));
    assert_eq!(config.auth_backoff.max, Duration::from_secs(30));
    assert_eq!(config.op_timeout, Duration::from_secs(5));
    assert_eq!(config.connect_timeout, Duration::from_secs(5));
    assert_eq!(config.topology_refresh, Duration::from_secs(60));
    assert_eq!(config.max_redirects, 16);
    assert_eq!(config.instances[0].read_from, ReadFrom::Primary);
    assert!(!config.http.enabled());
    assert_eq!(config.http.address, IpAddr::V4(Ipv4Addr::LOCALHOST));
    assert_eq!(config.http.port, 9090);
    assert_eq!(config.logs, LogConfig::default());
}

#[test]
fn every_default_of_the_table_can_be_read() {
    // A flag without a reader would go unnoticed by the test above.
    let settings = Settings::default();
    let reader = Reader(&settings);
    for flag in FLAGS.iter().filter(|f| f.kind == Kind::Bool && f.default.is_some()) {
        assert!(!reader.switch(flag.name).unwrap(), "{}", flag.name);
    }
}

#[test]
fn the_sample_file_says_the_defaults_and_has_every_key() {
    let path = sample_file();
    let args = ["--config-file", path.to_str().unwrap(), "h:1"];
    let from_file = load(&args, &[]).unwrap();
    let without = load(&["h:1"], &[]).unwrap();
    assert_eq!(format!("{from_file:?}"), format!("{without:?}"));

    let text = std::fs::read_to_string(path).unwrap();
    let given: toml::Table = text.parse().unwrap();
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest)
                if (rest.contains(" = \"") || rest == "tls = true") && !rest.contains(';') =>
            {
                format!("{rest}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    let all: toml::Table = uncommented.parse().unwrap();
    for flag in FLAGS.iter().filter(|f| f.name != "config-file") {
        assert!(all.contains_key(flag.name), "{} is missing", flag.name);
        assert_eq!(given.contains_key(flag.name), flag.default.is_some(), "{}", flag.name);
        if let (Some(value), Some(default)) = (given.get(flag.name), flag.default) {
            assert_eq!(value.to_string().trim_matches('"'), default, "{}", flag.name);
        }
    }
    assert_eq!(all.len(), FLAGS.len() - 1, "a key that is no flag");
}

#[test]
fn everything_given() {
    let config = load(
        &[
            "--address=::1",
            "--port=0",
            "--unix-socket=/run/p.sock",
            "--unix-socket-mode=600",
            "--threads=4",
            "--upstream-username=sa@p.iam",
            "--op-timeout=250ms",
            "--connect-timeout=1s",
            "--topology-refresh=2m",
            "--max-redirects=3",
            "--read-from=prefer-replica",
            "--auth-backoff-min=1s",
            "--auth-backoff-max=1m",
            "--health-check",
            "--prometheus",
            "--http-address=0.0.0.0",
            "--http-port=8080",
            "--structured-logs",
            "--debug-logs",
            "--token=hush",
            "[fd00::1]:1,h:2",
        ],
        &[],
    )
    .unwrap();
    let Endpoint::Seeds(seeds) = &config.instances[0].endpoint else { panic!() };
    assert_eq!(seeds.len(), 2);
    let socket = config.instances[0].listen.unix_socket.as_ref().unwrap();
    assert_eq!((socket.path.as_path(), socket.mode), (Path::new("/run/p.sock"), 0o600));
    assert_eq!(config.instances[0].listen.address.to_string(), "::1");
    assert_eq!(config.op_timeout, Duration::from_millis(250));
    assert_eq!(config.topology_refresh, Duration::from_secs(120));
    assert_eq!(config.instances[0].read_from, ReadFrom::PreferReplica);
    assert_eq!(config.auth_backoff.max, Duration::from_secs(60));
    assert!(config.http.health_check && config.http.prometheus);
    assert_eq!(config.logs.format, Format::CloudLogging);
    assert_eq!(config.logs.verbosity, Verbosity::Debug);
    let CredentialSource::Token(token) = &config.credential_source else { panic!() };
    assert_eq!(token.expose(), "hush");
    assert!(!format!("{config:?}").contains("hush"));
}

#[test]
fn credential_sources() {
    let source = |args: &[&str], vars: &[(&str, &str)]| {
        let args: Vec<_> = args.iter().copied().chain(["h:1"]).collect();
        load(&args, vars).map(|config| format!("{:?}", config.credential_source))
    };
    for (args, want) in [
        (&["--token-file=/t"][..], "TokenFile(\"/t\")"),
        (&["--credentials-file=/c"], "CredentialsFile(\"/c\")"),
        (&["--gcloud-auth"], "Gcloud"),
        (&["--gcloud-auth=false"], "Adc"),
        (&["--no-iam-auth"], "None"),
        (&["--upstream-password-file=/p"], "Password { file: \"/p\" }"),
        (&["--no-iam-auth", "--upstream-password-file=/p"], "Password { file: \"/p\" }"),
    ] {
        assert_eq!(source(args, &[]).unwrap(), want, "{args:?}");
    }
    for args in [
        ["--token=hush", "--token-file=/t"],
        ["--token=hush", "--no-iam-auth"],
        ["--gcloud-auth", "--no-iam-auth"],
        ["--gcloud-auth", "--credentials-file=/c"],
        ["--upstream-password-file=/p", "--token-file=/t"],
        ["--upstream-password-file=/p", "--gcloud-auth"],
    ] {
        let error = source(&args, &[]).unwrap_err();
        for arg in args {
            let name = arg.split('=').next().unwrap();
            assert!(error.contains(name), "{error}");
        }
        assert!(error.contains("contradicts"), "{error}");
    }
    // A stronger place replaces what a weaker one chose.
    let env_token = [("MEMORYSTORE_PROXY_TOKEN", "hush")];
    assert_eq!(source(&["--gcloud-auth"], &env_token).unwrap(), "Gcloud");
    assert_eq!(source(&["--no-iam-auth"], &env_token).unwrap(), "None");
    assert_eq!(source(&[], &env_token).unwrap(), "Token(Secret(…))");
    let env_none = [("MEMORYSTORE_PROXY_NO_IAM_AUTH", "1")];
    assert_eq!(source(&["--gcloud-auth"], &env_none).unwrap(), "Gcloud");
    let both = [env_token[0], ("MEMORYSTORE_PROXY_TOKEN_FILE", "/t")];
    let error = source(&[], &both).unwrap_err();
    assert!(error.contains("MEMORYSTORE_PROXY_TOKEN_FILE"), "{error}");
}

#[test]
fn wrong_values_name_the_flag_and_the_mend() {
    for (args, says) in [
        (&[][..], "endpoint is missing; give its resource name"),
        (&["10.0.0.1"], "the endpoint argument '10.0.0.1' has no port"),
        (&["--address=0.0.0.0", "h:1"], "--address 0.0.0.0 is not a loopback address"),
        (&["--address=::ffff:10.0.0.1", "h:1"], "--allow-non-loopback"),
        (&["--address=example.com", "h:1"], "--address 'example.com' is not an IP address"),
        (&["--port=65536", "h:1"], "--port '65536' is not a number from 0 to 65535"),
        (&["--port=", "h:1"], "--port '' is not a number"),
        (&["--threads=0", "h:1"], "--threads '0'"),
        (&["--threads=257", "h:1"], "--threads '257'"),
        (&["--max-redirects=0", "h:1"], "--max-redirects '0'"),
        (&["--read-from=replicas", "h:1"], "--read-from 'replicas' is none of primary"),
        (
            &["--max-request-bytes=1B", "h:1"],
            "--max-request-bytes '1B' is out of range; give 1.0 KiB to",
        ),
        (&["--max-client-output-bytes=much", "h:1"], "'much' is not a size; give bytes, or"),
        (&["--max-pipeline=0", "h:1"], "--max-pipeline '0' is not a number from 1 to"),
        (&["--max-buffer-total=some", "h:1"], "or 'auto' for half of the memory there is"),
        (&["--client-idle-timeout=5", "h:1"], "--client-idle-timeout '5' is not a duration"),
        (&["--op-timeout=5", "h:1"], "--op-timeout '5' is not a duration"),
        (&["--op-timeout=0s", "h:1"], "out of range"),
        (&["--op-timeout=2d", "h:1"], "out of range"),
        (&["--auth-backoff-min=1m", "h:1"], "--auth-backoff-min (1m) is longer"),
        (&["--unix-socket-mode=0888", "h:1"], "--unix-socket-mode '0888' is not an octal"),
        (&["--unix-socket-mode=1777", "h:1"], "octal"),
        (&["--unix-socket=", "h:1"], "--unix-socket is empty"),
        (&["--quiet=maybe", "h:1"], "--quiet 'maybe' is not a yes or no"),
        (&["--quiet", "--debug-logs", "h:1"], "contradicts --debug-logs"),
        (&["--token=hush hush", "h:1"], "--token is empty or has spaces"),
        (&["--token-file=", "h:1"], "--token-file is empty"),
        (&["--upstream-username=a b", "h:1"], "--upstream-username"),
        (&["--health-check", "--http-port=6379", "h:1"], "--port and --http-port are both 6379"),
    ] {
        let error = load(args, &[]).unwrap_err();
        assert!(error.contains(says), "{args:?}: {error}");
    }
    let long = format!("--unix-socket=/{}", "x".repeat(107));
    let error = load(&[&long, "h:1"], &[]).unwrap_err();
    assert!(error.contains("107 bytes"), "{error}");
    let error = load(&["h:1"], &[("MEMORYSTORE_PROXY_PORT", "x")]).unwrap_err();
    assert!(error.starts_with("MEMORYSTORE_PROXY_PORT 'x'"), "{error}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "port = 70000").unwrap();
    let path = file.path().to_str().unwrap();
    let error = load(&["--config-file", path, "h:1"], &[]).unwrap_err();
    assert!(error.starts_with(&format!("key 'port' in {path} '70000'")), "{error}");
}

#[test]
fn non_loopback_with_permission() {
    let config = load(&["--address=0.0.0.0", "--allow-non-loopback", "h:1"], &[]).unwrap();
    assert!(config.instances[0].listen.address.is_unspecified());
}

#[test]
fn encryption_is_complete_or_refused() {
    use crate::upstream::tls::Verify;
    let tls = |args: &[&str]| load(&[args, &["h:1"]].concat(), &[]).map(|c| c.tls);
    assert_eq!(tls(&[]).unwrap().on, None);
    let on = tls(&["--server-ca-file", "/ca.pem"]).unwrap();
    assert_eq!((on.on, on.verify), (Some(true), Verify::Full));
    let trial = load(&["--tls", "--tls-verify=insecure", "h:1"], &[]).unwrap();
    assert_eq!((trial.tls.on, trial.warnings.len()), (Some(true), 1));
    for (args, says) in [
        (&["--tls"][..], "--tls needs --server-ca-file"),
        (&["--tls", "--tls-verify=none"], "is none of full, ca and insecure"),
        (&["--tls-verify=ca"], "does nothing without TLS"),
        (&["--tls=false", "--server-ca-file=/x"], "contradicts --tls=false"),
        (&["--tls=false", "--tls-verify=ca"], "contradicts --tls=false"),
        (&["--tls-cert=/x"], "needs --tls-key as well"),
        (&["--tls-key=/x"], "needs --tls-cert as well"),
    ] {
        let error = tls(args).unwrap_err().to_string();
        assert!(error.contains(says), "{args:?}: {error}");
    }
}
