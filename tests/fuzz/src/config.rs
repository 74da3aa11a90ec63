//! Settings: whatever is typed becomes a valid configuration or one sentence, and no secret is ever
//! repeated; names, endpoints and URLs that are read can be written and read again.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use memorystore_auth_proxy::args::{self, Request};
use memorystore_auth_proxy::config::{Config, Endpoint};
use memorystore_auth_proxy::credentials::sources::command::CommandLine;
use memorystore_auth_proxy::credentials::sources::impersonation::Chain;
use memorystore_auth_proxy::env::Environment;
use memorystore_auth_proxy::google::http::{Url, clean};
use memorystore_auth_proxy::google::name::ResourceName;

use crate::support::Input;

/// Given as token and as credentials; seen nowhere.
const HUSH: &str = "hush-5f1d";

fn file() -> &'static PathBuf {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let shm = PathBuf::from("/dev/shm");
        let place = if shm.is_dir() { shm } else { std::env::temp_dir() };
        place.join(format!("memorystore-auth-proxy-fuzz-{}.toml", std::process::id()))
    })
}

fn sentence(error: &str, typed: &str) {
    assert!(!error.trim().is_empty() && !error.contains(HUSH), "{error}");
    // What the user typed is repeated as it is.
    assert!(typed.chars().any(char::is_control) || !error.contains('\n'), "{error:?}");
}

fn check(config: &Config) {
    assert!(!config.instances.is_empty() && (1..=256).contains(&config.threads.get()));
    for (i, instance) in config.instances.iter().enumerate() {
        let others = || config.instances.iter().take(i);
        assert!(others().all(|o| o.name != instance.name), "two of one name");
        let port = instance.listen.port;
        let same =
            |p: u16, a: std::net::IpAddr| p == port && p != 0 && a == instance.listen.address;
        assert!(others().all(|o| !same(o.listen.port, o.listen.address)), "two on one port");
        assert!(!config.http.enabled() || !same(config.http.port, config.http.address));
        if let Some(socket) = &instance.listen.unix_socket {
            assert!(socket.mode <= 0o777 && !socket.path.as_os_str().is_empty());
        }
        match &instance.endpoint {
            Endpoint::Seeds(seeds) => {
                assert!(!seeds.is_empty());
                for seed in seeds {
                    let again = Endpoint::parse(&seed.to_string());
                    assert_eq!(again, Ok(Endpoint::Seeds(vec![seed.clone()])));
                }
            }
            Endpoint::Resource(name) => {
                assert_eq!(ResourceName::parse(&name.to_string()).as_ref(), Ok(name));
            }
        }
    }
    let day = Duration::from_secs(24 * 3600);
    for time in [config.op_timeout, config.connect_timeout, config.topology_refresh] {
        assert!(!time.is_zero() && time <= day);
    }
    assert!((1..=1000).contains(&config.max_redirects) && config.max_connection_age <= day);
    assert!(!format!("{config:?}").contains(HUSH), "Debug shows a secret");
    assert!(config.warnings.iter().all(|warning| !warning.contains(HUSH)));
}

/// Lines: arguments, then variables, then the file, apart by lines of `--`.
fn settings(text: &str, input: u8) {
    let mut parts = text.splitn(3, "\n--\n");
    let mut argv = vec!["proxy"];
    argv.extend(parts.next().unwrap_or_default().lines().take(16));
    let variables = parts.next().unwrap_or_default();
    let mut env: Vec<(String, String)> = variables
        .lines()
        .filter_map(|l| l.split_once('='))
        .filter(|(name, _)| !name.is_empty() && !name.contains('\0'))
        .map(|(name, value)| (args::env_name(name), value.to_owned()))
        .collect();
    // They make errors of their own, in the company of which a token might be shown.
    let json = format!("{{\"type\":\"authorized_user\",\"refresh_token\":\"{HUSH}\"}}");
    match input % 4 {
        0 => env.push((args::env_name("token"), HUSH.to_owned())),
        1 => env.push((args::env_name("token"), format!("{HUSH} {HUSH}"))),
        2 => env.push((args::env_name("json-credentials"), json)),
        _ => env.push((args::env_name("json-credentials"), format!("{HUSH}{{"))),
    }
    // Files and programs of this machine are nobody's business.
    let names_a_file =
        |t: &str| t.contains("config-file") || t.to_ascii_lowercase().contains("config_file");
    if argv.iter().any(|a| names_a_file(a)) || env.iter().any(|(name, _)| names_a_file(name)) {
        return;
    }
    if let Some(toml) = parts.next() {
        std::fs::write(file(), toml).expect("a file to write");
        env.push((args::env_name("config-file"), file().display().to_string()));
    }
    let request = match args::parse(&argv, &Environment::from_iter(env)) {
        Ok(request) => request,
        Err(error) => return sentence(&error.to_string(), text),
    };
    let settings = match &request {
        Request::Run(settings) | Request::Do(_, settings) => settings,
        Request::Show(_) => return,
    };
    assert!(!format!("{request:?}").contains(HUSH), "Debug shows a secret");
    match Config::from_settings(settings) {
        Ok(config) => check(&config),
        Err(error) => sentence(&error.to_string(), text),
    }
}

fn names(text: &str) {
    match Endpoint::parse(text) {
        Ok(Endpoint::Resource(name)) => {
            assert_eq!(ResourceName::parse(&name.to_string()).as_ref(), Ok(&name));
            for path in [name.path(), name.ca_path(), name.shared_ca_path()] {
                // As it is, it stands in a request line.
                assert!(path.starts_with("/v1/projects/") && !path.contains("/."), "{path}");
                assert!(
                    path.bytes().all(|b| b.is_ascii_graphic() && !b"?#%\\".contains(&b)),
                    "{path}"
                );
            }
        }
        Ok(Endpoint::Seeds(seeds)) => {
            for seed in seeds {
                assert!(seed.port != 0 && !seed.host.is_empty());
                let again = Endpoint::parse(&seed.to_string());
                assert_eq!(again, Ok(Endpoint::Seeds(vec![seed])));
            }
        }
        Err(error) => assert!(!error.is_empty()),
    }
    if let Ok(url) = Url::parse(text) {
        let again = Url::parse(&url.to_string()).expect("a URL that was written");
        assert_eq!((again.to_string(), again.authority()), (url.to_string(), url.authority()));
        assert!(!url.authority().contains(['/', '@', ' ']), "{url}");
        if Url::for_secrets(text).is_ok() && url.to_string().starts_with("http://") {
            let host = url.authority();
            let local = ["127.", "localhost", "[::1]", "[::ffff:"];
            assert!(local.iter().any(|l| host.starts_with(l)), "{url} would be sent secrets");
        }
    }
    if let Ok(line) = CommandLine::parse(text) {
        assert!(!line.program().is_empty());
    }
    if let Ok(chain) = Chain::parse(text) {
        let _ = format!("{chain:?}");
    }
    let cleaned = clean(text);
    assert!(cleaned.chars().count() <= 301 && !cleaned.chars().any(char::is_control));
    assert!(!cleaned.contains("ya29.") && !cleaned.contains("eyJ"), "{cleaned}");
    assert_eq!(clean(&cleaned), cleaned, "not clean yet");
}

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.byte();
    let Ok(text) = std::str::from_utf8(input.rest()) else {
        return;
    };
    // A fuzzer that has found the secret by itself says nothing of leaks.
    if text.contains(HUSH) {
        return;
    }
    if kind % 3 == 0 { names(text) } else { settings(text, kind / 3) }
}
