//! What a real cluster says rarely or never on command: odd layouts, endless redirects, replies cut
//! at a chosen byte. A scripted node says it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::both_protocols;
use crate::support::client::{Client, Proto};
use crate::support::fake_node::{Act, Described, FakeNode};
use crate::support::proxy::{Proxy, ProxyOptions};
use crate::support::resp::{Request, Value};
use crate::support::slots::{key_in_slot, slot_of};

both_protocols!(
    a_move_to_an_unknown_node_works_at_once,
    a_moved_without_a_host_means_the_node_that_said_it,
    ask_sends_asking_next_to_the_command_on_one_connection,
    loading_is_waited_out,
    a_cluster_that_stays_down_gives_an_error_at_the_deadline,
    a_reply_may_be_cut_at_any_byte,
    endless_redirects_end_in_an_error,
    shards_in_either_shape_and_slots_as_fallback,
);

async fn proxy_before(node: &FakeNode) -> Proxy {
    proxy_at(&node.addr().to_string(), Duration::from_secs(5)).await
}

async fn proxy_at(upstream: &str, op_timeout: Duration) -> Proxy {
    let options = ProxyOptions::new(upstream).args(["--no-iam-auth"]).op_timeout(op_timeout);
    Proxy::start(options).await
}

fn named(request: &Request, name: &str) -> bool {
    request.name() == name
}

/// A script that answers GET with `text` and leaves all else alone.
fn get_says(text: &'static str) -> impl FnMut(&Request) -> Option<Act> + Send + 'static {
    move |request| named(request, "GET").then(|| Act::bulk(text))
}

async fn a_move_to_an_unknown_node_works_at_once(proto: Proto) {
    let unknown = FakeNode::start(get_says("from the unknown node")).await;
    let target = unknown.addr();
    let known = FakeNode::start(move |request: &Request| {
        named(request, "GET").then(|| Act::error(&format!("MOVED {} {target}", slot_of(b"k"))))
    })
    .await;
    let proxy = proxy_before(&known).await;
    let mut client = proxy.client(proto).await;
    let start = Instant::now();
    assert_eq!(client.cmd(&["GET", "k"]).await, Value::bulk("from the unknown node"));
    assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
}

async fn a_moved_without_a_host_means_the_node_that_said_it(proto: Proto) {
    let target = FakeNode::start(get_says("same host, other port")).await;
    let port = target.addr().port();
    let known = FakeNode::start(move |request: &Request| {
        named(request, "GET").then(|| Act::error(&format!("MOVED {} :{port}", slot_of(b"k"))))
    })
    .await;
    let proxy = proxy_before(&known).await;
    let mut client = proxy.client(proto).await;
    assert_eq!(client.cmd(&["GET", "k"]).await, Value::bulk("same host, other port"));
}

async fn ask_sends_asking_next_to_the_command_on_one_connection(proto: Proto) {
    let target = FakeNode::start(get_says("asked")).await;
    let addr = target.addr();
    let source = FakeNode::start(move |request: &Request| {
        named(request, "GET").then(|| Act::error(&format!("ASK {} {addr}", slot_of(b"k"))))
    })
    .await;
    let proxy = proxy_before(&source).await;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(proxy.client(proto).await);
    }
    for _ in 0..10 {
        for client in &mut clients {
            client.send(&["GET", "k"]).await;
        }
        for client in &mut clients {
            assert_eq!(client.read().await, Value::bulk("asked"));
        }
    }
    let mut gets = 0;
    for connection in target.connections() {
        for (i, request) in connection.iter().enumerate() {
            if request.name() == "GET" {
                gets += 1;
                assert!(
                    i > 0 && connection[i - 1].name() == "ASKING",
                    "a GET without ASKING before it"
                );
            }
        }
    }
    assert_eq!(gets, 40);
    // ASK is for one command: the next one goes to the source again.
    assert_eq!(source.count("GET"), 40);
}

async fn loading_is_waited_out(proto: Proto) {
    for refusal in [
        "LOADING Redis is loading the dataset in memory",
        "CLUSTERDOWN The cluster is down",
        "CLUSTERDOWN Hash slot not served",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    ] {
        let left = Arc::new(AtomicUsize::new(3));
        let node = FakeNode::start(move |request: &Request| {
            if !named(request, "INCR") {
                return None;
            }
            let refuse =
                left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            Some(if refuse.is_ok() { Act::error(refusal) } else { Act::reply(":1\r\n") })
        })
        .await;
        let proxy = proxy_before(&node).await;
        let mut client = proxy.client(proto).await;
        assert_eq!(client.cmd(&["INCR", "k"]).await, Value::Int(1), "{refusal}");
        assert_eq!(node.count("INCR"), 4, "{refusal}");
    }
}

async fn a_cluster_that_stays_down_gives_an_error_at_the_deadline(proto: Proto) {
    let node = FakeNode::start(|request: &Request| {
        named(request, "GET").then(|| Act::error("CLUSTERDOWN The cluster is down"))
    })
    .await;
    let proxy = proxy_at(&node.addr().to_string(), Duration::from_secs(1)).await;
    let mut client = proxy.client(proto).await;
    let start = Instant::now();
    let reply = client.cmd(&["GET", "k"]).await;
    let took = start.elapsed();
    let Value::Error(text) = reply else {
        panic!("expected an error, got {reply:?}");
    };
    assert!(text.contains("CLUSTERDOWN"), "the error names its cause: {text}");
    assert!(took >= Duration::from_millis(800), "gave up after {took:?} of one second");
    assert!(took < Duration::from_secs(3), "took {took:?} with a deadline of one second");
    let attempts = node.count("GET");
    assert!((2..=100).contains(&attempts), "{attempts} attempts in one second: no backoff?");
}

async fn a_reply_may_be_cut_at_any_byte(proto: Proto) {
    let whole = b"*2\r\n$5\r\nhello\r\n$-1\r\n";
    for cut in [0, 1, 3, 4, 7, 8, 11, 13, 14, 18, whole.len() - 1] {
        let first = Arc::new(AtomicUsize::new(0));
        let node = FakeNode::start(move |request: &Request| {
            if !named(request, "MGET") {
                return None;
            }
            Some(match first.fetch_add(1, Ordering::SeqCst) {
                0 => Act::ReplyThenClose(whole[..cut].to_vec()),
                _ => Act::Reply(whole.to_vec()),
            })
        })
        .await;
        let proxy = proxy_before(&node).await;
        let mut client = proxy.client(proto).await;
        let wanted = Value::Array(vec![Value::bulk("hello"), Value::Null]);
        assert_eq!(client.cmd(&["MGET", "k", "k"]).await, wanted, "cut at byte {cut}");
        assert_eq!(node.count("MGET"), 2);
    }
}

async fn endless_redirects_end_in_an_error(proto: Proto) {
    let node = FakeNode::start(|_: &Request| None).await;
    let itself = node.addr();
    for redirect in ["MOVED", "ASK"] {
        node.set_script(move |request: &Request| {
            named(request, "GET")
                .then(|| Act::error(&format!("{redirect} {} {itself}", slot_of(b"k"))))
        });
        let before = node.count("GET");
        let proxy = proxy_at(&itself.to_string(), Duration::from_secs(3)).await;
        let mut client = proxy.client(proto).await;
        let start = Instant::now();
        let reply = client.cmd(&["GET", "k"]).await;
        assert!(matches!(reply, Value::Error(_)), "{redirect}: {reply:?}");
        assert!(
            !reply.is_error("MOVED") && !reply.is_error("ASK"),
            "a client must not see {reply:?}"
        );
        assert!(start.elapsed() < Duration::from_secs(6), "{redirect} took {:?}", start.elapsed());
        // Paced, so that nodes which agree again in time answer it.
        assert!(start.elapsed() > Duration::from_secs(2), "{redirect} took {:?}", start.elapsed());
        let hops = node.count("GET") - before;
        assert!((2..=64).contains(&hops), "{redirect}: {hops} hops");
        assert_eq!(client.cmd(&["ECHO", "alive"]).await, Value::bulk("alive"));
    }
}

/// Makes a node's description odd.
type Describe = fn(Described) -> Described;

/// Two nodes that each own half, described as `describe` likes.
async fn two_halves(describe: impl Fn(Described) -> Described) -> (FakeNode, FakeNode) {
    let low = FakeNode::start(get_says("low")).await;
    let high = FakeNode::start(get_says("high")).await;
    let layout = vec![
        describe(Described::new((0, 8191), low.addr())),
        describe(Described::new((8192, 16383), high.addr())),
    ];
    low.set_layout(layout.clone());
    high.set_layout(layout);
    (low, high)
}

async fn expect_halves(upstream: &str, proto: Proto, what: &str) {
    let proxy = proxy_at(upstream, Duration::from_secs(5)).await;
    let mut client = proxy.client(proto).await;
    assert_eq!(client.cmd(&["GET", &key_in_slot(1)]).await, Value::bulk("low"), "{what}");
    assert_eq!(client.cmd(&["GET", &key_in_slot(16000)]).await, Value::bulk("high"), "{what}");
}

async fn shards_in_either_shape_and_slots_as_fallback(proto: Proto) {
    let (low, high) = two_halves(|node| node).await;
    expect_halves(&low.addr().to_string(), proto, "ordinary").await;
    assert_eq!(high.count("GET"), 1);
    for refusal in [
        "ERR unknown subcommand 'SHARDS'. Try CLUSTER HELP.",
        "ERR Unknown subcommand or wrong number of arguments for 'shards'. Try CLUSTER HELP.",
    ] {
        let script = move |request: &Request| {
            if request.arg(1).eq_ignore_ascii_case("SHARDS") {
                return Some(Act::error(refusal));
            }
            None
        };
        let (low, high) = two_halves(|node| node).await;
        let mut says = get_says("low");
        low.set_script(move |r: &Request| script(r).or_else(|| says(r)));
        let mut says = get_says("high");
        high.set_script(move |r: &Request| script(r).or_else(|| says(r)));
        expect_halves(&low.addr().to_string(), proto, refusal).await;
    }
}

#[tokio::test]
async fn odd_endpoints_are_understood() {
    let cases: [(&str, Describe); 7] = [
        ("tls-port beside port", |node| Described { tls_port: Some(1), ..node }),
        ("null endpoint, host of the asked node", |node| Described { endpoint: None, ..node }),
        ("'?' as endpoint", |node| Described { endpoint: Some("?".into()), ..node }),
        ("empty endpoint", |node| Described { endpoint: Some(String::new()), ..node }),
        ("host name as endpoint", |node| Described {
            endpoint: Some("localhost".into()),
            hostname: Some("localhost".into()),
            ..node
        }),
        ("empty ip beside a good endpoint", |node| Described { ip: String::new(), ..node }),
        ("empty hostname", |node| Described { hostname: Some(String::new()), ..node }),
    ];
    for (what, describe) in cases {
        let (low, high) = two_halves(describe).await;
        expect_halves(&low.addr().to_string(), Proto::Resp2, what).await;
        // The same through CLUSTER SLOTS.
        let refuse = |request: &Request| {
            request
                .arg(1)
                .eq_ignore_ascii_case("SHARDS")
                .then(|| Act::error("ERR unknown subcommand 'SHARDS'. Try CLUSTER HELP."))
        };
        let mut says = get_says("low");
        low.set_script(move |r: &Request| refuse(r).or_else(|| says(r)));
        let mut says = get_says("high");
        high.set_script(move |r: &Request| refuse(r).or_else(|| says(r)));
        expect_halves(&low.addr().to_string(), Proto::Resp2, &format!("{what}, by SLOTS")).await;
    }
}

#[tokio::test]
async fn ipv6_nodes_are_reached_by_layout_seed_and_redirect() {
    let low = FakeNode::start_on("[::1]:0", get_says("low")).await;
    let high = FakeNode::start_on("[::1]:0", get_says("high")).await;
    let layout =
        vec![Described::new((0, 8191), low.addr()), Described::new((8192, 16383), high.addr())];
    low.set_layout(layout.clone());
    high.set_layout(layout);
    assert_eq!(low.addr().to_string(), format!("[::1]:{}", low.addr().port()));
    expect_halves(&low.addr().to_string(), Proto::Resp2, "seed [::1]").await;
    // MOVED writes an IPv6 host without brackets.
    let port = high.addr().port();
    low.set_script(move |request: &Request| {
        named(request, "GET").then(|| Act::error(&format!("MOVED 1 ::1:{port}")))
    });
    let proxy = proxy_before(&low).await;
    let mut client = proxy.client(Proto::Resp2).await;
    assert_eq!(client.cmd(&["GET", &key_in_slot(1)]).await, Value::bulk("high"));
}

#[tokio::test]
async fn a_server_without_cluster_support_is_one_node() {
    let node = FakeNode::start(|request: &Request| match request.name().as_str() {
        "CLUSTER" => Some(Act::error("ERR This instance has cluster support disabled")),
        "GET" => Some(Act::bulk("single")),
        _ => None,
    })
    .await;
    let proxy = proxy_before(&node).await;
    let mut client = proxy.client(Proto::Resp3).await;
    for slot in [0, 8000, 16383] {
        assert_eq!(client.cmd(&["GET", &key_in_slot(slot)]).await, Value::bulk("single"));
    }
}

#[tokio::test]
async fn the_next_seed_is_asked_when_the_first_is_dead() {
    let node = FakeNode::start(get_says("alive")).await;
    let dead: SocketAddr = ([127, 0, 0, 1], crate::support::ports::free_port()).into();
    let proxy = proxy_at(&format!("{dead},{}", node.addr()), Duration::from_secs(5)).await;
    let mut client = proxy.client(Proto::Resp2).await;
    assert_eq!(client.cmd(&["GET", "k"]).await, Value::bulk("alive"));
    let localhost = format!("localhost:{}", node.addr().port());
    let proxy = proxy_at(&localhost, Duration::from_secs(5)).await;
    let mut client = proxy.client(Proto::Resp2).await;
    assert_eq!(client.cmd(&["GET", "k"]).await, Value::bulk("alive"), "a DNS name as seed");
}

#[tokio::test]
async fn a_silent_node_ends_in_an_error_and_a_late_reply_goes_to_nobody_else() {
    let node = FakeNode::start(|request: &Request| {
        (named(request, "GET") && request.arg(1) == "slow")
            .then(|| Act::Delayed(Duration::from_millis(2500), b"$4\r\nlate\r\n".to_vec()))
            .or_else(|| named(request, "GET").then(|| Act::bulk("fresh")))
    })
    .await;
    let proxy = proxy_at(&node.addr().to_string(), Duration::from_secs(1)).await;
    let mut client = proxy.client(Proto::Resp2).await;
    let start = Instant::now();
    let reply = client.cmd(&["GET", "slow"]).await;
    assert!(matches!(reply, Value::Error(_)), "{reply:?}");
    assert!(start.elapsed() < Duration::from_secs(3), "took {:?}", start.elapsed());
    for _ in 0..20 {
        let reply = client.cmd(&["GET", "quick"]).await;
        assert!(reply == Value::bulk("fresh") || matches!(reply, Value::Error(_)), "{reply:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(client.cmd(&["GET", "quick"]).await, Value::bulk("fresh"));
}

#[tokio::test]
async fn garbage_from_a_node_closes_that_link_only() {
    let garbled = Arc::new(AtomicUsize::new(0));
    let node = FakeNode::start(move |request: &Request| match request.name().as_str() {
        "GET" if garbled.fetch_add(1, Ordering::SeqCst) == 0 => Some(Act::reply("!!garbage\r\n")),
        "GET" => Some(Act::bulk("sane")),
        _ => None,
    })
    .await;
    let proxy = proxy_before(&node).await;
    let mut client = Client::connect(proxy.addr()).await;
    let reply = client.cmd(&["GET", "k"]).await;
    assert!(reply == Value::bulk("sane") || matches!(reply, Value::Error(_)), "{reply:?}");
    assert_eq!(client.cmd(&["GET", "k"]).await, Value::bulk("sane"));
}

#[tokio::test]
async fn a_failed_authentication_at_a_scripted_node_is_told() {
    let node = FakeNode::start(|request: &Request| match request.name().as_str() {
        "AUTH" => Some(Act::error(crate::support::faults::WRONGPASS)),
        "HELLO" if request.args.len() > 2 => Some(Act::error(crate::support::faults::WRONGPASS)),
        _ => None,
    })
    .await;
    let options = ProxyOptions::new(node.addr().to_string())
        .args(["--token", "ya29.test-scripted"])
        .op_timeout(Duration::from_secs(1));
    let proxy = Proxy::spawn(options).await;
    let mut client = proxy.client(Proto::Resp2).await;
    let reply = client.cmd(&["GET", "k"]).await;
    assert!(matches!(reply, Value::Error(_)), "{reply:?}");
    assert!(!reply.is_error("WRONGPASS"), "the client's own password is not at fault: {reply:?}");
    assert!(!reply.text().contains("ya29"), "{reply:?}");
    assert_eq!(proxy.get("/readiness").await.status, 503);
    assert!(node.count("AUTH") + node.count("HELLO") < 60, "a storm of AUTHs");
}
