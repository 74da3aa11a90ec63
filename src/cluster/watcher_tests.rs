use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;
use crate::credentials::Secret;
use crate::resp::value::Decoder;

const LIMIT: Duration = Duration::from_secs(20);

/// A node that answers AUTH and CLUSTER by script, on a real socket.
#[derive(Clone)]
struct FakeNode {
    addr: NodeAddr,
    script: Arc<Mutex<Script>>,
}

#[derive(Default)]
struct Script {
    shards: String,
    slots: String,
    /// The only password taken; without one no AUTH is demanded.
    token: Option<String>,
    /// Answer to every AUTH instead of checking it.
    auth_fault: Option<String>,
    /// Accepts and reads, answers nothing.
    stalled: bool,
    /// Connections older than this stand unauthenticated again.
    forget_auth: usize,
    /// Closes a connection instead of answering CLUSTER, this many times.
    close: usize,
    dials: usize,
    auths: usize,
    asked: usize,
}

impl FakeNode {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let node =
            Self { addr: NodeAddr { host: "127.0.0.1".into(), port }, script: Arc::default() };
        let script = node.script.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                script.lock().unwrap().dials += 1;
                tokio::spawn(serve(stream, script.clone()));
            }
        });
        node
    }

    fn set(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }

    fn read<T>(&self, what: impl FnOnce(&Script) -> T) -> T {
        what(&self.script.lock().unwrap())
    }

    fn owns(&self, ranges: &[(&FakeNode, u16, u16)]) {
        let shards: String = ranges
            .iter()
            .map(|(node, start, end)| {
                format!(
                    "*4\r\n+slots\r\n*2\r\n:{start}\r\n:{end}\r\n+nodes\r\n*1\r\n*6\r\n+endpoint\r\n\
                     +127.0.0.1\r\n+port\r\n:{}\r\n+role\r\n+master\r\n",
                    node.addr.port
                )
            })
            .collect();
        self.set(|s| s.shards = format!("*{}\r\n{shards}", ranges.len()));
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Mutex<Script>>) {
    let (mut buf, mut decoder) = (Vec::new(), Decoder::default());
    let mut authenticated = false;
    let mut forgotten = 0;
    loop {
        let args: Vec<String> = loop {
            if let Some((value, len)) = decoder.decode(&buf).unwrap() {
                buf.drain(..len);
                let args = value.as_array().unwrap().iter();
                break args.map(|a| a.as_str().unwrap().to_owned()).collect();
            }
            if stream.read_buf(&mut buf).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let reply = {
            let mut s = script.lock().unwrap();
            if s.stalled {
                continue;
            }
            if forgotten < s.forget_auth {
                forgotten = s.forget_auth;
                authenticated = false;
            }
            match (args[0].as_str(), args.get(1).map(String::as_str)) {
                ("AUTH", _) => {
                    s.auths += 1;
                    if let Some(fault) = &s.auth_fault {
                        format!("{fault}\r\n")
                    } else if s.token.as_ref() == args.last() {
                        authenticated = true;
                        "+OK\r\n".to_owned()
                    } else {
                        "-WRONGPASS invalid username-password pair\r\n".to_owned()
                    }
                }
                _ if s.token.is_some() && !authenticated => "-NOAUTH Authentication\r\n".to_owned(),
                ("CLUSTER", _) if s.close > 0 => {
                    s.close -= 1;
                    return;
                }
                ("CLUSTER", Some("SHARDS")) => {
                    s.asked += 1;
                    s.shards.clone()
                }
                ("CLUSTER", Some("SLOTS")) => s.slots.clone(),
                ("HELLO", None) => "-ERR unknown command 'HELLO'\r\n".to_owned(),
                other => panic!("unexpected {other:?}"),
            }
        };
        if stream.write_all(reply.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn settings() -> Settings {
    Settings {
        topology_refresh: Duration::from_secs(3600),
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(5),
        auth_backoff: (Duration::from_millis(5), Duration::from_millis(50)),
        trust: crate::upstream::tls::Trust::plain(),
        activity: None,
        on_rejected: None,
    }
}

fn ready(token: &str, generation: u64) -> CredentialState {
    CredentialState::Ready {
        credential: Arc::new(Credential {
            username: "default".into(),
            secret: Secret::new(token.to_owned()),
            expires_at: None,
            obtained_at: SystemTime::now(),
            generation,
            source: "test",
            principal: None,
        }),
        refresh_error: None,
    }
}

/// Watcher without authentication; the sender keeps the channel open.
fn watch_plain(
    seeds: &[&FakeNode],
    settings: Settings,
) -> (WatcherHandle, watch::Sender<CredentialState>) {
    watch_with(seeds, CredentialState::NotNeeded, settings)
}

fn watch_with(
    seeds: &[&FakeNode],
    state: CredentialState,
    settings: Settings,
) -> (WatcherHandle, watch::Sender<CredentialState>) {
    let (sender, credentials) = watch::channel(state);
    let seeds: Vec<NodeAddr> = seeds.iter().map(|n| n.addr.clone()).collect();
    (spawn(watch::channel(seeds.into()).1, credentials, settings), sender)
}

async fn epoch(handle: &WatcherHandle, epoch: u64) -> Arc<Topology> {
    let mut topology = handle.topology.clone();
    let found = topology.wait_for(|t| t.as_ref().is_some_and(|t| t.epoch >= epoch));
    timeout(LIMIT, found).await.unwrap().unwrap().clone().unwrap()
}

async fn status(
    handle: &WatcherHandle,
    reached: impl FnMut(&WatcherStatus) -> bool,
) -> WatcherStatus {
    let mut status = handle.status.clone();
    timeout(LIMIT, status.wait_for(reached)).await.unwrap().unwrap().clone()
}

fn ports(topology: &Topology) -> Vec<u16> {
    topology.shards.iter().map(|s| s.primary.port).collect()
}

#[tokio::test]
async fn only_changes_are_published() {
    let (a, b) = (FakeNode::start().await, FakeNode::start().await);
    a.owns(&[(&a, 0, 16383)]);
    let (handle, _sender) = watch_plain(&[&a], settings());
    let first = epoch(&handle, 1).await;
    assert_eq!((first.epoch, first.mode, ports(&first)), (1, Mode::Cluster, vec![a.addr.port]));

    handle.request_refresh(Reason::NodeLost);
    status(&handle, |s| s.refreshes == 2).await;
    assert!(Arc::ptr_eq(&first, &epoch(&handle, 1).await), "an equal map was published again");

    a.owns(&[(&b, 100, 16383), (&a, 0, 99)]);
    handle.request_refresh(Reason::ClusterDown);
    let second = epoch(&handle, 2).await;
    assert_eq!((second.epoch, ports(&second)), (2, vec![a.addr.port, b.addr.port]));
    assert_eq!(a.read(|s| s.dials), 1, "the connection is kept");
}

#[tokio::test]
async fn a_stalled_seed_does_not_block_the_next() {
    let (stalled, good) = (FakeNode::start().await, FakeNode::start().await);
    stalled.set(|s| s.stalled = true);
    good.owns(&[(&good, 0, 16383)]);
    let settings = Settings { request_timeout: Duration::from_millis(200), ..settings() };
    let (handle, _sender) = watch_plain(&[&stalled, &good], settings);
    epoch(&handle, 1).await;
    assert_eq!(handle.status.borrow().answered_by.as_ref(), Some(&good.addr));

    // A requested refresh does not wait for it again.
    handle.request_refresh(Reason::NodeLost);
    status(&handle, |s| s.refreshes == 2).await;
    assert_eq!(stalled.read(|s| s.dials), 1);
}

#[tokio::test]
async fn known_nodes_answer_when_the_seeds_do_not() {
    let (seed, node) = (FakeNode::start().await, FakeNode::start().await);
    seed.owns(&[(&node, 0, 16383)]);
    let (handle, _sender) = watch_plain(&[&seed], settings());
    epoch(&handle, 1).await;
    seed.set(|s| s.shards = "-LOADING Redis is loading\r\n".to_owned());
    node.owns(&[(&node, 0, 99), (&seed, 100, 16383)]);
    handle.request_refresh(Reason::NodeLost);
    let second = epoch(&handle, 2).await;
    assert_eq!(ports(&second), [node.addr.port, seed.addr.port]);
    assert_eq!(handle.status.borrow().answered_by.as_ref(), Some(&node.addr));
}

#[tokio::test]
async fn a_moved_target_the_seed_does_not_know_is_asked_itself() {
    let (seed, new) = (FakeNode::start().await, FakeNode::start().await);
    seed.owns(&[(&seed, 0, 16383)]);
    new.owns(&[(&new, 0, 99), (&seed, 100, 16383)]);
    let (handle, _sender) = watch_plain(&[&seed], settings());
    epoch(&handle, 1).await;
    handle.request_refresh(Reason::Moved { slot: Some(50), addr: new.addr.clone() });
    let second = epoch(&handle, 2).await;
    assert_eq!(ports(&second), [new.addr.port, seed.addr.port]);

    // A target that cannot be asked costs nothing but the try.
    let nowhere = NodeAddr { host: "127.0.0.1".into(), port: 1 };
    seed.owns(&[(&seed, 0, 9), (&new, 10, 16383)]);
    handle.request_refresh(Reason::Moved { slot: Some(50), addr: nowhere });
    assert_eq!(ports(epoch(&handle, 3).await.as_ref()), [seed.addr.port, new.addr.port]);
}

#[tokio::test]
async fn servers_without_shards_or_without_cluster_are_used() {
    let old = FakeNode::start().await;
    old.set(|s| {
        s.shards = "-ERR Unknown subcommand or wrong number of arguments for 'SHARDS'\r\n".into();
        s.slots = "*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$0\r\n\r\n:7000\r\n".into();
    });
    let (handle, _sender) = watch_plain(&[&old], settings());
    let topology = epoch(&handle, 1).await;
    assert_eq!(topology.shards[0].primary.to_string(), "127.0.0.1:7000");

    let single = FakeNode::start().await;
    for error in ["-ERR This instance has cluster support disabled\r\n", "-NOPERM no\r\n"] {
        single.set(|s| (s.shards, s.slots) = (error.into(), error.into()));
        let (handle, _sender) = watch_plain(&[&single], settings());
        let topology = epoch(&handle, 1).await;
        assert_eq!((topology.mode, ports(&topology)), (Mode::Standalone, vec![single.addr.port]));
    }
}

#[tokio::test]
async fn a_closed_idle_connection_is_replaced_without_a_failure() {
    let a = FakeNode::start().await;
    a.owns(&[(&a, 0, 16383)]);
    let (handle, _sender) = watch_plain(&[&a], settings());
    epoch(&handle, 1).await;
    a.set(|s| s.close = 1);
    handle.request_refresh(Reason::NodeLost);
    let now = status(&handle, |s| s.refreshes == 2).await;
    assert_eq!((now.failures, a.read(|s| s.dials)), (0, 2));
}

#[tokio::test]
async fn a_new_credential_reauthenticates_the_open_connection() {
    let a = FakeNode::start().await;
    a.owns(&[(&a, 0, 16383)]);
    a.set(|s| s.token = Some("t1".into()));
    let (handle, sender) = watch_with(&[&a], CredentialState::Pending, settings());
    status(&handle, |s| s.error.as_deref().is_some_and(|e| e.contains("first token"))).await;
    assert_eq!(a.read(|s| s.dials), 0, "nothing is dialled before there is a credential");
    sender.send_replace(ready("t1", 1));
    epoch(&handle, 1).await;

    a.set(|s| s.token = Some("t2".into()));
    sender.send_replace(ready("t2", 2));
    handle.request_refresh(Reason::NodeLost);
    status(&handle, |s| s.refreshes == 2).await;
    // NOAUTH at any moment: AUTH again and go on.
    a.set(|s| s.forget_auth = 1);
    handle.request_refresh(Reason::NodeLost);
    let now = status(&handle, |s| s.refreshes == 3).await;
    assert_eq!((now.failures, a.read(|s| (s.dials, s.auths))), (0, (1, 3)));
}

#[tokio::test]
async fn a_refused_reauthentication_leaves_the_connection_in_use() {
    let a = FakeNode::start().await;
    a.owns(&[(&a, 0, 16383)]);
    a.set(|s| s.token = Some("t1".into()));
    let (handle, sender) = watch_with(&[&a], ready("t1", 1), settings());
    epoch(&handle, 1).await;
    a.set(|s| s.auth_fault = Some("-ERR (ERR_IAM_OTHER) backend error.".into()));
    sender.send_replace(ready("t2", 2));
    handle.request_refresh(Reason::NodeLost);
    let now = status(&handle, |s| s.refreshes == 2).await;
    assert_eq!((now.failures, a.read(|s| (s.dials, s.auths))), (0, (1, 2)));
}

#[tokio::test]
async fn a_rejected_credential_is_reported_and_the_next_one_used_at_once() {
    let a = FakeNode::start().await;
    a.owns(&[(&a, 0, 16383)]);
    a.set(|s| s.token = Some("good".into()));
    let rejected = Arc::new(Mutex::new(Vec::new()));
    let log = rejected.clone();
    let settings = Settings {
        // Too long to wait for: only the new credential can end it.
        auth_backoff: (Duration::from_secs(600), Duration::from_secs(600)),
        on_rejected: Some(Arc::new(move |generation| log.lock().unwrap().push(generation))),
        ..settings()
    };
    let (handle, sender) = watch_with(&[&a], ready("bad-token", 4), settings);
    let now = status(&handle, |s| s.failures == 1).await;
    let error = now.error.unwrap();
    assert!(error.contains("WRONGPASS") && error.contains(&a.addr.to_string()), "{error}");
    assert!(!error.contains("bad-token"), "{error}");
    assert_eq!(*rejected.lock().unwrap(), [4]);

    sender.send_replace(ready("good", 5));
    epoch(&handle, 1).await;
    assert_eq!(handle.status.borrow().error, None);
    assert_eq!(a.read(|s| s.auths), 2, "no AUTH was sent while backing off");
}

#[tokio::test]
async fn a_failing_iam_backend_is_retried_until_it_answers() {
    let a = FakeNode::start().await;
    a.owns(&[(&a, 0, 16383)]);
    a.set(|s| {
        s.token = Some("t".into());
        s.auth_fault = Some("-ERR (ERR_IAM_EXHAUSTED) quota".into());
    });
    let (handle, _sender) = watch_with(&[&a], ready("t", 1), settings());
    status(&handle, |s| s.failures >= 2).await;
    a.set(|s| s.auth_fault = None);
    epoch(&handle, 1).await;
}

#[tokio::test]
async fn the_task_ends_with_its_last_handle() {
    let a = FakeNode::start().await;
    a.owns(&[(&a, 0, 16383)]);
    let (handle, _sender) = watch_plain(&[&a], settings());
    epoch(&handle, 1).await;
    let mut topology = handle.topology.clone();
    topology.mark_unchanged();
    drop(handle);
    assert!(timeout(LIMIT, topology.changed()).await.unwrap().is_err());
}

/// Log lines at info and above of this thread, while the guards live.
fn capture_logs() -> (impl Drop, tracing::Dispatch, Arc<Mutex<Vec<u8>>>) {
    #[derive(Clone)]
    struct Sink(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Sink(lines.clone());
    let subscriber = tracing_subscriber::fmt().with_writer(move || sink.clone()).finish();
    // With a single subscriber alive, tracing lets the thread that first reaches a log line decide
    // whether it is wanted, and that may be a test without one. A second subscriber ends that.
    let other = tracing::Dispatch::new(tracing_subscriber::registry());
    (tracing::subscriber::set_default(subscriber), other, lines)
}

#[tokio::test]
async fn each_change_of_state_is_one_log_line() {
    let (_guard, _other, log) = capture_logs();
    let a = FakeNode::start().await;
    a.set(|s| {
        s.token = Some("ya29.t".into());
        s.shards = "-LOADING Redis is loading\r\n".into();
    });
    let (handle, sender) = watch_with(&[&a], CredentialState::Pending, settings());
    status(&handle, |s| s.error.is_some()).await;
    sender.send_replace(ready("ya29.t", 1));
    status(&handle, |s| s.failures == 3).await;
    a.owns(&[(&a, 0, 16383)]);
    epoch(&handle, 1).await;
    handle.request_refresh(Reason::NodeLost);
    status(&handle, |s| s.refreshes == 2).await;

    let log = String::from_utf8(log.lock().unwrap().clone()).unwrap();
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(lines[0].contains("WARN") && lines[0].contains("LOADING"), "{log}");
    assert!(lines[1].contains("cluster map discovered: 1 shards"), "{log}");
    assert!(!log.contains("ya29"), "{log}");
}
