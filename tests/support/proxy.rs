//! The proxy under test, as a process of its own.
//!
//! Invariant: its environment holds no credentials but those a test gives it (`HOME` is empty, the
//! metadata host is the fake one). Its output is kept and shown when the test fails.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tempfile::TempDir;

use super::client::{Client, Proto};
use super::http::{self, Response};
use super::ports::free_port;
use super::process::{Process, guarded};
use super::wait::holds;

/// How the proxy is started.
#[derive(Debug, Clone)]
pub struct ProxyOptions {
    /// The positional argument.
    pub upstream: String,
    /// `GCE_METADATA_HOST`.
    pub metadata: Option<String>,
    /// `--op-timeout`.
    pub op_timeout: Option<Duration>,
    /// More flags.
    pub args: Vec<String>,
    /// More environment.
    pub env: Vec<(String, String)>,
    /// Wanted port; 0 lets the kernel choose.
    pub port: u16,
}

impl ProxyOptions {
    /// In front of `upstream`, everything else by default.
    pub fn new(upstream: impl Into<String>) -> Self {
        Self {
            upstream: upstream.into(),
            metadata: None,
            op_timeout: None,
            args: Vec::new(),
            env: Vec::new(),
            port: 0,
        }
    }

    /// Takes tokens from this metadata server.
    pub fn metadata(mut self, host: impl Into<String>) -> Self {
        self.metadata = Some(host.into());
        self
    }

    /// Deadline of a command.
    pub fn op_timeout(mut self, limit: Duration) -> Self {
        self.op_timeout = Some(limit);
        self
    }

    /// Adds flags.
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    process: Process,
    port: u16,
    http_port: u16,
    output: Arc<Mutex<Vec<String>>>,
    _home: TempDir,
}

static BINARY: OnceLock<PathBuf> = OnceLock::new();

/// Names the binary for this process; the first call counts.
pub fn set_binary(path: PathBuf) {
    // A second name is ignored, as said.
    let _ = BINARY.set(path);
}

/// The proxy's binary: the one given to [`set_binary`], else `MEMORYSTORE_PROXY_TEST_BIN`, else the
/// one cargo built for the tests, else the one beside the running example.
pub fn binary() -> PathBuf {
    BINARY.get_or_init(default_binary).clone()
}

fn default_binary() -> PathBuf {
    if let Some(path) = std::env::var_os("MEMORYSTORE_PROXY_TEST_BIN") {
        return path.into();
    }
    if let Some(path) = option_env!("CARGO_BIN_EXE_memorystore-auth-proxy") {
        return path.into();
    }
    let me = std::env::current_exe().expect("path of this program");
    let profile = me.parent().and_then(|examples| examples.parent()).expect("target/PROFILE");
    profile.join("memorystore-auth-proxy")
}

/// A command line for the binary with nothing in the environment that could give it credentials or
/// settings.
pub fn command(home: &TempDir) -> std::process::Command {
    let mut command = guarded(binary());
    let ours = std::env::vars().filter(|(name, _)| {
        name.starts_with("MEMORYSTORE_PROXY_")
            || name.starts_with("GOOGLE_")
            || name.starts_with("CLOUDSDK_")
            || name.starts_with("GCE_")
    });
    for (name, _) in ours {
        command.env_remove(name);
    }
    command.env("HOME", home.path()).env("NO_COLOR", "1");
    command
}

impl Proxy {
    /// Starts it and waits until it is ready to serve.
    pub async fn start(options: ProxyOptions) -> Self {
        let proxy = Self::spawn(options).await;
        proxy.wait_ready().await;
        proxy
    }

    /// Starts it and waits until it listens, ready or not.
    pub async fn spawn(options: ProxyOptions) -> Self {
        let http_port = free_port();
        let home = TempDir::with_prefix("proxy-home-").expect("a temporary directory");
        let mut command = command(&home);
        command
            .arg(&options.upstream)
            .args(["--port", &options.port.to_string()])
            .args(["--http-port", &http_port.to_string()])
            .args(["--http-address", "127.0.0.1", "--health-check", "--prometheus"])
            .args(&options.args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(limit) = options.op_timeout {
            command.args(["--op-timeout", &duration_flag(limit)]);
        }
        if let Some(host) = &options.metadata {
            command.env("GCE_METADATA_HOST", host);
        }
        command.envs(options.env.iter().map(|(k, v)| (k, v)));
        let mut process = Process::spawn(&mut command);
        let output = Arc::new(Mutex::new(Vec::new()));
        let (stdout, stderr) = process.take_output();
        collect(stdout, output.clone());
        collect(stderr, output.clone());
        let mut proxy = Self { process, port: 0, http_port, output, _home: home };
        let listening = holds(Duration::from_secs(20), async || {
            proxy.port = proxy.logged_port().unwrap_or(0);
            proxy.port != 0 || proxy.process.exited().is_some()
        })
        .await;
        assert!(
            listening && proxy.port != 0,
            "the proxy did not say within 20 s on which port it listens; it wrote:\n{}",
            proxy.logs()
        );
        proxy
    }

    /// Waits until `/readiness` says 200.
    pub async fn wait_ready(&self) {
        let mut last = String::new();
        let ready = holds(Duration::from_secs(20), async || {
            match http::try_get(self.http_addr(), "/readiness").await {
                Ok(response) => {
                    last = format!("{} {}", response.status, response.body);
                    response.status == 200
                }
                Err(e) => {
                    last = e.to_string();
                    false
                }
            }
        })
        .await;
        assert!(ready, "the proxy did not become ready in 20 s; /readiness: {last}");
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Where health, metrics and status are served.
    pub fn http_addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.http_port))
    }

    /// Asks the HTTP side.
    pub async fn get(&self, path: &str) -> Response {
        http::try_get(self.http_addr(), path)
            .await
            .unwrap_or_else(|e| panic!("GET {path}: {e}\n{}", self.logs()))
    }

    /// A metric, summed over the samples whose labels have all these parts; `None` without any.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let text = self.get("/metrics").await.body;
        let values = text.lines().filter_map(|line| {
            let (key, value) = line.rsplit_once(' ')?;
            let (family, given) = key.split_once('{').unwrap_or((key, ""));
            let fits = family == name && labels.iter().all(|label| given.contains(label));
            fits.then(|| value.parse::<f64>().expect("a number"))
        });
        values.reduce(|a, b| a + b)
    }

    /// A client connection.
    pub async fn client(&self, proto: Proto) -> Client {
        Client::connect_proto(self.addr(), proto).await
    }

    /// Everything it wrote to stdout and stderr so far.
    pub fn logs(&self) -> String {
        self.lines().join("\n")
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.process.exited().is_none()
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most it has had resident so far, in bytes.
    pub fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    /// File descriptors it has open.
    pub fn open_files(&self) -> u64 {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.process.id()));
        open.expect("the proxy runs").count() as u64
    }

    /// Its threads.
    pub fn threads(&self) -> u64 {
        self.number("Threads:")
    }

    fn status(&self, field: &str) -> u64 {
        self.number(field) * 1024
    }

    fn number(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))
            .expect("the proxy runs");
        let line = status.lines().find(|l| l.starts_with(field)).expect(field);
        let number = line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
        number.expect("a number")
    }

    /// Sends SIGTERM and waits for the end.
    pub async fn terminate(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.process.signal("TERM");
        self.process.wait(limit).await
    }

    /// Waits for the end.
    pub async fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.process.wait(limit).await
    }

    /// Sends any signal.
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    fn lines(&self) -> Vec<String> {
        self.output.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn logged_port(&self) -> Option<u16> {
        let http = format!("127.0.0.1:{}", self.http_port);
        self.lines()
            .iter()
            .filter(|line| line.to_lowercase().contains("listening") && !line.contains(&http))
            .find_map(|line| {
                // The instance's own endpoint stands behind the address.
                let line = line.split("instance").next()?;
                let host = ["127.0.0.1:", "0.0.0.0:"].iter().find(|host| line.contains(**host))?;
                let digits: String =
                    line.split_once(*host)?.1.chars().take_while(char::is_ascii_digit).collect();
                digits.parse().ok().filter(|&port| port != 0)
            })
    }
}

/// What no proxy says, whatever happens to it: a token of ours, or that something panicked.
const UNSPEAKABLE: [&str; 3] = ["ya29.", "panicked", "this is a bug"];

impl Drop for Proxy {
    fn drop(&mut self) {
        let lines = self.lines();
        let said = |line: &&String| UNSPEAKABLE.iter().any(|it| line.contains(it));
        if let Some(line) = lines.iter().find(said).filter(|_| !std::thread::panicking()) {
            panic!("the proxy wrote what it must not: {line}");
        }
        if std::thread::panicking() {
            let from = lines.len().saturating_sub(60);
            eprintln!("--- the proxy wrote ---\n{}\n---", lines[from..].join("\n"));
        }
    }
}

/// How a duration is written on the command line.
fn duration_flag(limit: Duration) -> String {
    format!("{}ms", limit.as_millis())
}

fn collect(pipe: Option<impl Read + Send + 'static>, into: Arc<Mutex<Vec<String>>>) {
    let Some(pipe) = pipe else {
        return;
    };
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            into.lock().unwrap_or_else(|e| e.into_inner()).push(line);
        }
    });
}
