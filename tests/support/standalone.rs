//! A plain single redis-server without cluster support: the oracle of differential tests, and an
//! upstream the proxy uses as a single node.

use std::net::SocketAddr;
use std::time::Duration;

use tempfile::TempDir;

use super::client::Client;
use super::node::Node;
use super::ports::free_port;
use super::process::require;
use super::wait::holds;

/// The running server.
#[derive(Debug)]
pub struct Standalone {
    node: Node,
    _dir: TempDir,
}

impl Standalone {
    /// Starts it with a random password and waits until it answers.
    pub async fn start() -> Self {
        require("redis-server", "redis-server");
        require("setpriv", "util-linux");
        for _ in 0..5 {
            let dir = TempDir::with_prefix("bed-").expect("a temporary directory");
            let password = format!("node-password-{:016x}", fastrand::u64(..));
            let node = Node::start(dir.path(), free_port(), &password, &[]);
            let up = holds(Duration::from_secs(15), async || {
                node.has_exited() || node.try_run(&["PING"]).await.is_ok()
            })
            .await;
            if up && !node.has_exited() {
                return Self { node, _dir: dir };
            }
        }
        panic!("redis-server did not come up in five attempts");
    }

    /// The server process.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        self.node.addr()
    }

    /// Its password.
    pub fn password(&self) -> &str {
        self.node.password()
    }

    /// A new authenticated connection.
    pub async fn connect(&self) -> Client {
        self.node.admin().await
    }

    /// Lets clients in without a password, as a server on a developer's machine does.
    pub async fn open_to_all(&self) {
        // A user without a password accepts any, so that [`Self::connect`] goes on working.
        let reply = self.connect().await.cmd(&["ACL", "SETUSER", "default", "nopass"]).await;
        assert_eq!(reply, super::resp::Value::ok());
    }
}
