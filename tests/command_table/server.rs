//! A redis-server to ask, and its replies.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::Value;

/// A redis-server of its own on a Unix socket in a temporary directory; killed when dropped.
pub(crate) struct Server {
    connection: RefCell<redis::Connection>,
    _process: Killed,
    _directory: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(&[]).expect("redis-server stays up")
    }

    /// A node that owns all slots. Its bus needs a TCP port, which another process may take between
    /// our look and its bind; then another is tried.
    pub(crate) fn start_cluster_node() -> Self {
        let server = (0..5)
            .find_map(|_| {
                let port = free_port().to_string();
                Self::start_with(&["--cluster-enabled", "yes", "--cluster-port", &port])
            })
            .expect("redis-server stays up");
        server.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).expect("all slots");
        let deadline = Instant::now() + Duration::from_secs(20);
        while server.ask(&["GET", "k"]).is_err() {
            assert!(Instant::now() < deadline, "the cluster did not form");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    /// `None` when the server ends at once.
    fn start_with(options: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let socket = directory.path().join("redis.sock");
        let process = Command::new("redis-server")
            .args(["--port", "0", "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(options)
            .arg("--dir")
            .arg(directory.path())
            .arg("--unixsocket")
            .arg(&socket)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let mut process = Killed(process);
        let connection = RefCell::new(connect(&socket, &mut process.0)?);
        Some(Self { connection, _process: process, _directory: directory })
    }

    pub(crate) fn ask(&self, args: &[&str]) -> Result<Value, String> {
        let mut command = redis::Cmd::new();
        for arg in args {
            command.arg(arg);
        }
        command.query(&mut self.connection.borrow_mut()).map_err(|error| error.to_string())
    }

    /// Whether it is the version that the table's flags are taken from.
    pub(crate) fn is_7_0(&self) -> bool {
        let info = text(&self.ask(&["INFO", "server"]).expect("INFO"));
        info.lines().any(|line| line.starts_with("redis_version:7.0."))
    }

    /// `COMMAND GETKEYS`, sorted; `None` when the server calls the line invalid.
    pub(crate) fn keys(&self, line: &[String]) -> Option<Vec<String>> {
        let asked: Vec<&str> =
            ["COMMAND", "GETKEYS"].into_iter().chain(line.iter().map(String::as_str)).collect();
        match self.ask(&asked) {
            Ok(keys) => {
                let mut keys: Vec<String> = items(&keys).iter().map(text).collect();
                keys.sort();
                Some(keys)
            }
            Err(error) if error.contains("no key arguments") => Some(Vec::new()),
            Err(error) if error.contains("Invalid") => None,
            Err(error) => panic!("COMMAND GETKEYS {line:?}: {error}"),
        }
    }
}

/// A process that ends with its owner.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn connect(socket: &Path, process: &mut Child) -> Option<redis::Connection> {
    let url = format!("redis+unix://{}", socket.display());
    let client = redis::Client::open(url).expect("a Unix socket address");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match client.get_connection() {
            Ok(connection) => return Some(connection),
            Err(error) => {
                if process.try_wait().expect("a child to ask").is_some() {
                    return None;
                }
                assert!(Instant::now() < deadline, "redis-server is not ready: {error}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

pub(crate) fn items(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) | Value::Set(items) => items,
        other => panic!("not an array: {other:?}"),
    }
}

pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::Okay => "OK".to_owned(),
        other => panic!("not a string: {other:?}"),
    }
}

pub(crate) fn int(value: &Value) -> i64 {
    match value {
        Value::Int(int) => *int,
        other => panic!("not an integer: {other:?}"),
    }
}

pub(crate) fn map(value: &Value) -> BTreeMap<String, &Value> {
    items(value).chunks(2).map(|pair| (text(&pair[0]), &pair[1])).collect()
}
