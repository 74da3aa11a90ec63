//! A scripted node: speaks real bytes on a real socket, but says only what the test tells it.
//!
//! Commands the script leaves alone are answered like a lonely, friendly primary would: handshakes
//! succeed, CLUSTER SHARDS and CLUSTER SLOTS tell the layout set by [`FakeNode::set_layout`] (by
//! default: this node owns everything), anything else is an unknown command. Everything a
//! connection sends is logged in order.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::resp::{self, Request};

/// What the node does with one request.
#[derive(Debug, Clone)]
pub enum Act {
    /// Sends these bytes.
    Reply(Vec<u8>),
    /// Sends these bytes after a while; later requests of the connection wait too.
    Delayed(Duration, Vec<u8>),
    /// Sends these bytes, then closes.
    ReplyThenClose(Vec<u8>),
    /// Closes.
    Close,
    /// Says nothing and goes on reading.
    Silence,
}

impl Act {
    /// A reply from text, e.g. `"+OK\r\n"`.
    pub fn reply(text: &str) -> Self {
        Self::Reply(text.as_bytes().to_vec())
    }

    /// An error reply; `text` has neither dash nor line end.
    pub fn error(text: &str) -> Self {
        Self::Reply(format!("-{text}\r\n").into_bytes())
    }

    /// A bulk string.
    pub fn bulk(text: &str) -> Self {
        Self::Reply(format!("${}\r\n{text}\r\n", text.len()).into_bytes())
    }
}

/// One node as CLUSTER SHARDS and CLUSTER SLOTS describe it.
#[derive(Debug, Clone)]
pub struct Described {
    /// First and last slot.
    pub slots: (u16, u16),
    /// `ip` of SHARDS.
    pub ip: String,
    /// `endpoint` of SHARDS and the address of SLOTS; `None` is a null (unknown endpoint).
    pub endpoint: Option<String>,
    /// `hostname` of SHARDS and in the metadata of SLOTS; left out when `None`.
    pub hostname: Option<String>,
    /// Plain port; left out of SHARDS when `None`.
    pub port: Option<u16>,
    /// `tls-port` of SHARDS.
    pub tls_port: Option<u16>,
}

impl Described {
    /// An ordinary description.
    pub fn new(slots: (u16, u16), addr: SocketAddr) -> Self {
        Self {
            slots,
            ip: addr.ip().to_string(),
            endpoint: Some(addr.ip().to_string()),
            hostname: None,
            port: Some(addr.port()),
            tls_port: None,
        }
    }
}

type Script = Box<dyn FnMut(&Request) -> Option<Act> + Send>;

struct Shared {
    addr: SocketAddr,
    script: Mutex<Script>,
    layout: Mutex<Vec<Described>>,
    log: Mutex<Vec<Vec<Request>>>,
    cuts: watch::Sender<u64>,
}

/// The running node; closes everything on drop.
pub struct FakeNode {
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl FakeNode {
    /// Starts it on 127.0.0.1.
    pub async fn start(script: impl FnMut(&Request) -> Option<Act> + Send + 'static) -> Self {
        Self::start_on("127.0.0.1:0", script).await
    }

    /// Starts it on an address of the test's choice, e.g. `[::1]:0`.
    pub async fn start_on(
        bind: &str,
        script: impl FnMut(&Request) -> Option<Act> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(bind).await.expect("bind the fake node");
        let addr = listener.local_addr().expect("local address");
        let shared = Arc::new(Shared {
            addr,
            script: Mutex::new(Box::new(script)),
            layout: Mutex::new(vec![Described::new((0, 16383), addr)]),
            log: Mutex::default(),
            cuts: watch::Sender::new(0),
        });
        let task = tokio::spawn(accept(listener, shared.clone())).abort_handle();
        Self { shared, task }
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        self.shared.addr
    }

    /// What it says about the cluster from now on.
    pub fn set_layout(&self, layout: Vec<Described>) {
        *lock(&self.shared.layout) = layout;
    }

    /// Puts another script in place of the first.
    pub fn set_script(&self, script: impl FnMut(&Request) -> Option<Act> + Send + 'static) {
        *lock(&self.shared.script) = Box::new(script);
    }

    /// Closes all connections that are open now.
    pub fn close_all(&self) {
        self.shared.cuts.send_modify(|n| *n += 1);
    }

    /// All requests so far, by connection.
    pub fn connections(&self) -> Vec<Vec<Request>> {
        lock(&self.shared.log).clone()
    }

    /// How many requests with this upper-case name came so far.
    pub fn count(&self, name: &str) -> usize {
        lock(&self.shared.log).iter().flatten().filter(|r| r.name() == name).count()
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.task.abort();
        self.close_all();
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        let index = {
            let mut log = lock(&shared.log);
            log.push(Vec::new());
            log.len() - 1
        };
        tokio::spawn(async move {
            let mut cuts = shared.cuts.subscribe();
            tokio::select! {
                _ = connection(stream, index, &shared) => {}
                _ = cuts.changed() => {}
            }
        });
    }
}

async fn connection(mut stream: TcpStream, index: usize, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buf = BytesMut::new();
    let mut resp3 = false;
    loop {
        while let Some((request, len)) =
            resp::parse_request(&buf).map_err(|e| std::io::Error::other(e.0))?
        {
            let _ = buf.split_to(len);
            if request.args.is_empty() {
                continue;
            }
            lock(&shared.log)[index].push(request.clone());
            if request.name() == "HELLO" {
                resp3 = request.arg(1) == "3";
            }
            let scripted = (lock(&shared.script))(&request);
            match scripted.unwrap_or_else(|| friendly(&request, shared, resp3)) {
                Act::Reply(bytes) => stream.write_all(&bytes).await?,
                Act::Delayed(delay, bytes) => {
                    tokio::time::sleep(delay).await;
                    stream.write_all(&bytes).await?;
                }
                Act::ReplyThenClose(bytes) => {
                    stream.write_all(&bytes).await?;
                    return stream.shutdown().await;
                }
                Act::Close => return Ok(()),
                Act::Silence => {}
            }
        }
        if stream.read_buf(&mut buf).await? == 0 {
            return Ok(());
        }
    }
}

fn friendly(request: &Request, shared: &Shared, resp3: bool) -> Act {
    let layout = lock(&shared.layout);
    match (request.name().as_str(), request.arg(1).to_ascii_uppercase().as_str()) {
        ("AUTH" | "READONLY" | "READWRITE" | "ASKING" | "CLIENT" | "SELECT", _) => {
            Act::reply("+OK\r\n")
        }
        ("PING", _) => Act::reply("+PONG\r\n"),
        ("HELLO", _) => Act::Reply(hello(resp3)),
        ("CLUSTER", "SHARDS") => Act::Reply(shards(&layout, resp3)),
        ("CLUSTER", "SLOTS") => Act::Reply(slots(&layout)),
        (name, _) => {
            Act::error(&format!("ERR unknown command '{name}', with args beginning with: "))
        }
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn map(pairs: usize, resp3: bool) -> String {
    if resp3 { format!("%{pairs}\r\n") } else { format!("*{}\r\n", pairs * 2) }
}

fn hello(resp3: bool) -> Vec<u8> {
    let proto = if resp3 { 3 } else { 2 };
    let mut out = map(7, resp3);
    for (key, value) in
        [("server", "redis"), ("version", "7.0.15"), ("mode", "cluster"), ("role", "master")]
    {
        out += &(bulk(key) + &bulk(value));
    }
    out += &(bulk("proto")
        + &format!(":{proto}\r\n")
        + &bulk("id")
        + ":1\r\n"
        + &bulk("modules")
        + "*0\r\n");
    out.into_bytes()
}

fn node_id(node: &Described) -> String {
    format!("{:040x}", u64::from(node.slots.0) + 1)
}

/// CLUSTER SHARDS, a shard of one node per description.
pub fn shards(layout: &[Described], resp3: bool) -> Vec<u8> {
    let mut out = format!("*{}\r\n", layout.len());
    for node in layout {
        out += &map(2, resp3);
        out += &bulk("slots");
        out += &format!("*2\r\n:{}\r\n:{}\r\n", node.slots.0, node.slots.1);
        out += &bulk("nodes");
        out += "*1\r\n";
        let mut fields = vec![("id", bulk(&node_id(node)))];
        if let Some(port) = node.port {
            fields.push(("port", format!(":{port}\r\n")));
        }
        if let Some(port) = node.tls_port {
            fields.push(("tls-port", format!(":{port}\r\n")));
        }
        fields.push(("ip", bulk(&node.ip)));
        let null = if resp3 { "_\r\n" } else { "$-1\r\n" };
        fields.push(("endpoint", node.endpoint.as_deref().map_or(null.to_owned(), bulk)));
        if let Some(name) = &node.hostname {
            fields.push(("hostname", bulk(name)));
        }
        fields.push(("role", bulk("master")));
        fields.push(("replication-offset", ":0\r\n".to_owned()));
        fields.push(("health", bulk("online")));
        out += &map(fields.len(), resp3);
        for (name, value) in fields {
            out += &(bulk(name) + &value);
        }
    }
    out.into_bytes()
}

/// CLUSTER SLOTS, one range per description.
pub fn slots(layout: &[Described]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", layout.len());
    for node in layout {
        out += &format!("*3\r\n:{}\r\n:{}\r\n*4\r\n", node.slots.0, node.slots.1);
        out += &node.endpoint.as_deref().map_or("$-1\r\n".to_owned(), bulk);
        out += &format!(":{}\r\n", node.port.or(node.tls_port).unwrap_or(0));
        out += &bulk(&node_id(node));
        match &node.hostname {
            Some(name) => out += &format!("*2\r\n{}{}", bulk("hostname"), bulk(name)),
            None => out += "*0\r\n",
        }
    }
    out.into_bytes()
}
