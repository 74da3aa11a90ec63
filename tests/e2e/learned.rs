//! Commands the table does not have: a node is asked once what they are, then they go where their keys
//! are; what no server knows is answered by the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::both_protocols;
use crate::support::bed::{Bed, BedOptions};
use crate::support::client::Proto;
use crate::support::cluster::ClusterOptions;
use crate::support::fake_node::{Act, Described, FakeNode};
use crate::support::proxy::{Proxy, ProxyOptions};
use crate::support::resp::{Request, Value};
use crate::support::slots::{key_in_slot, keys_in_slot, slot_of};
use crate::support::wait::wait_for;

both_protocols!(
    module_commands_go_where_their_keys_are,
    module_commands_in_transactions,
    a_blocking_module_command_keeps_nobody_else_waiting,
    unknown_names_get_the_servers_words,
    renamed_commands_of_a_real_cluster_are_found,
);

/// `COMMAND INFO` of the made-up module: name, arity, flags, key specification (begin, find), tips,
/// subcommands; as Redis 7 writes it in RESP2.
fn info(name: &str) -> Option<String> {
    let at = |i: u16| Some((begin_index(i), range(0, 1)));
    Some(match name {
        "json.get" => row(name, -2, &["readonly"], at(1), &[], &[]),
        "json.set" => row(name, -3, &["write"], at(1), &[], &[]),
        "mod.second" => row(name, -3, &["write"], at(2), &[], &[]),
        "mod.many" => row(name, -3, &["readonly"], Some((begin_index(1), keynum())), &[], &[]),
        "mod.after" => {
            row(name, -3, &["write"], Some((begin_keyword("KEYS"), range(-1, 1))), &[], &[])
        }
        "mod.block" => row(name, -2, &["write", "blocking"], at(1), &[], &[]),
        "mod.odd" => {
            row(name, -2, &["write", "movablekeys"], Some((unknown(), unknown())), &[], &[])
        }
        "mod.count" => row(
            name,
            1,
            &["readonly"],
            None,
            &["request_policy:all_shards", "response_policy:agg_sum"],
            &[],
        ),
        "mod.box" => {
            let open = row("mod.box|open", -3, &["write"], at(2), &[], &[]);
            row(name, -2, &[], None, &[], &[open])
        }
        // A subcommand that only a newer server has.
        "xinfo|newer" => row(name, -3, &["readonly"], at(2), &[], &[]),
        _ => return None,
    })
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn words(all: &[&str]) -> String {
    let each: String = all.iter().map(|w| format!("+{w}\r\n")).collect();
    format!("*{}\r\n{each}", all.len())
}

fn typed(kind: &str, fields: &[(&str, String)]) -> String {
    let each: String = fields.iter().map(|(name, value)| bulk(name) + value).collect();
    format!("*4\r\n{}{}{}*{}\r\n{each}", bulk("type"), bulk(kind), bulk("spec"), 2 * fields.len())
}

fn begin_index(at: u16) -> String {
    typed("index", &[("index", format!(":{at}\r\n"))])
}

fn begin_keyword(word: &str) -> String {
    typed("keyword", &[("keyword", bulk(word)), ("startfrom", ":1\r\n".into())])
}

fn unknown() -> String {
    typed("unknown", &[])
}

fn range(last: i32, step: u16) -> String {
    let fields = [("lastkey", last), ("keystep", i32::from(step)), ("limit", 0)];
    typed("range", &fields.map(|(name, n)| (name, format!(":{n}\r\n"))))
}

fn keynum() -> String {
    let fields = [("keynumidx", 0), ("firstkey", 1), ("keystep", 1)];
    typed("keynum", &fields.map(|(name, n)| (name, format!(":{n}\r\n"))))
}

fn row(
    name: &str,
    arity: i32,
    flags: &[&str],
    keys: Option<(String, String)>,
    tips: &[&str],
    subcommands: &[String],
) -> String {
    let spec = keys.map_or("*0\r\n".to_owned(), |(begin, find)| {
        let flags = bulk("flags") + &words(&["RW"]);
        format!("*1\r\n*6\r\n{flags}{}{begin}{}{find}", bulk("begin_search"), bulk("find_keys"))
    });
    let tips: String =
        format!("*{}\r\n", tips.len()) + &tips.iter().map(|t| bulk(t)).collect::<String>();
    let subs = format!("*{}\r\n", subcommands.len()) + &subcommands.concat();
    format!(
        "*10\r\n{}:{arity}\r\n{}:0\r\n:0\r\n:0\r\n{}{tips}{spec}{subs}",
        bulk(name),
        words(flags),
        words(&["@slow"])
    )
}

/// Where the keys of a request of the made-up module stand: the node's own knowledge.
fn keys(request: &Request) -> Vec<String> {
    let at = |i: usize| vec![request.arg(i)];
    match (request.name().as_str(), request.arg(1).to_ascii_lowercase().as_str()) {
        ("JSON.GET" | "JSON.SET" | "MOD.BLOCK" | "GET" | "SET", _) => at(1),
        ("MOD.SECOND", _) | ("MOD.BOX", "open") | ("XINFO", "newer") => at(2),
        ("MOD.MANY", n) => (0..n.parse().expect("a number")).map(|i| request.arg(2 + i)).collect(),
        ("MOD.AFTER", _) => {
            let word = (0..request.args.len()).find(|&i| request.arg(i) == "KEYS").expect("KEYS");
            (word + 1..request.args.len()).map(|i| request.arg(i)).collect()
        }
        ("MOD.ODD", _) => at(3),
        _ => Vec::new(),
    }
}

fn command_info(request: &Request) -> Option<Act> {
    let asks = request.name() == "COMMAND" && request.arg(1).eq_ignore_ascii_case("INFO");
    asks.then(|| {
        let row = info(&request.arg(2)).unwrap_or("*-1\r\n".to_owned());
        Act::Reply(format!("*1\r\n{row}").into_bytes())
    })
}

/// Two nodes with the module, half the slots each; a node answers with its name, or MOVED.
async fn two_nodes() -> [FakeNode; 2] {
    let nodes =
        [FakeNode::start(|_: &Request| None).await, FakeNode::start(|_: &Request| None).await];
    let addrs = [nodes[0].addr(), nodes[1].addr()];
    let layout = vec![Described::new((0, 8191), addrs[0]), Described::new((8192, 16383), addrs[1])];
    for (me, node) in nodes.iter().enumerate() {
        node.set_layout(layout.clone());
        node.set_script(move |request: &Request| {
            if let Some(act) = command_info(request) {
                return Some(act);
            }
            if request.name() == "MOD.COUNT" {
                return Some(Act::reply(&format!(":{}\r\n", me + 20)));
            }
            let slots: Vec<u16> = keys(request).iter().map(|k| slot_of(k.as_bytes())).collect();
            let slot = *slots.first()?;
            let owner = usize::from(slot >= 8192);
            Some(if slots.iter().any(|&s| s != slot) {
                Act::error("CROSSSLOT Keys in request don't hash to the same slot")
            } else if owner != me {
                Act::error(&format!("MOVED {slot} {}", addrs[owner]))
            } else {
                Act::bulk(&format!("node {me}"))
            })
        });
    }
    nodes
}

async fn proxy_before(node: &FakeNode, op_timeout: Duration) -> Proxy {
    let options =
        ProxyOptions::new(node.addr().to_string()).args(["--no-iam-auth"]).op_timeout(op_timeout);
    Proxy::start(options).await
}

async fn module_commands_go_where_their_keys_are(proto: Proto) {
    let nodes = two_nodes().await;
    let proxy = proxy_before(&nodes[0], Duration::from_secs(5)).await;
    let mut client = proxy.client(proto).await;
    for (me, slot) in [(0, 100), (1, 9000), (0, 8191), (1, 8192), (1, 16383)] {
        let k = keys_in_slot(slot, 2);
        let k: Vec<&str> = k.iter().map(String::as_str).collect();
        for command in [
            &["JSON.GET", k[0], "$"][..],
            &["json.set", k[0], "$", "1"],
            &["MOD.SECOND", "first", k[0]],
            &["mod.many", "2", k[0], k[1], "more"],
            &["MOD.AFTER", "a", "b", "KEYS", k[0], k[1]],
            &["MOD.ODD", "first", "second", k[0]],
            &["MOD.BOX", "OPEN", k[0]],
            &["MOD.BLOCK", k[0]],
            &["XINFO", "NEWER", k[0]],
        ] {
            assert_eq!(client.cmd(command).await, Value::bulk(format!("node {me}")), "{command:?}");
        }
    }
    assert_eq!(client.cmd(&["MOD.COUNT"]).await, Value::Int(41), "asked of all, summed");
    let crossed = [key_in_slot(1), key_in_slot(9000)];
    let reply = client.cmd(&["MOD.MANY", "2", &crossed[0], &crossed[1]]).await;
    assert!(reply.is_error("CROSSSLOT"), "{reply:?}");
    let asked: usize = nodes.iter().map(|n| n.count("COMMAND")).sum();
    assert_eq!(asked, 10, "one question for each name");
    // What the specifications tell is not asked by redirects.
    let sent: Vec<Request> = nodes.iter().flat_map(|n| n.connections()).flatten().collect();
    let count = |name: &str| sent.iter().filter(|r| r.name() == name).count();
    for name in ["JSON.GET", "JSON.SET", "MOD.SECOND", "MOD.MANY", "MOD.AFTER", "MOD.BOX", "XINFO"]
    {
        assert_eq!(count(name), 5, "{name}");
    }
}

async fn module_commands_in_transactions(proto: Proto) {
    let nodes = two_nodes().await;
    let proxy = proxy_before(&nodes[0], Duration::from_secs(5)).await;
    let mut client = proxy.client(proto).await;
    let (low, high) = (key_in_slot(1), key_in_slot(9000));
    assert_eq!(client.cmd(&["MULTI"]).await, Value::ok());
    assert_eq!(client.cmd(&["JSON.SET", &high, "$", "1"]).await, Value::Simple("QUEUED".into()));
    assert!(
        client.cmd(&["JSON.GET"]).await.is_error("ERR wrong number of arguments for 'json.get'")
    );
    assert!(client.cmd(&["JSON.GET", &low]).await.is_error("CROSSSLOT"));
    assert!(client.cmd(&["NOSUCH", "x"]).await.is_error("ERR unknown command 'NOSUCH', with args"));
    assert!(client.cmd(&["EXEC"]).await.is_error("EXECABORT"));
    // It goes to the node of the module's key, as one block.
    nodes[1].set_script(|request: &Request| match request.name().as_str() {
        "MULTI" => Some(Act::reply("+OK\r\n")),
        "EXEC" => Some(Act::reply("*1\r\n+done\r\n")),
        "JSON.SET" => Some(Act::reply("+QUEUED\r\n")),
        _ => command_info(request),
    });
    assert_eq!(client.cmd(&["MULTI"]).await, Value::ok());
    assert_eq!(client.cmd(&["JSON.SET", &high, "$", "1"]).await, Value::Simple("QUEUED".into()));
    let done = Value::Array(vec![Value::Simple("done".into())]);
    assert_eq!(client.cmd(&["EXEC"]).await, done);
}

async fn a_blocking_module_command_keeps_nobody_else_waiting(proto: Proto) {
    let node = FakeNode::start(|request: &Request| {
        command_info(request).or_else(|| match request.name().as_str() {
            // Longer than the proxy's --op-timeout: who blocks is waited for.
            "MOD.BLOCK" => Some(Act::Delayed(Duration::from_secs(2), b"+woken\r\n".to_vec())),
            "JSON.GET" => Some(Act::bulk("at once")),
            _ => None,
        })
    })
    .await;
    let proxy = proxy_before(&node, Duration::from_secs(1)).await;
    let mut blocked = proxy.client(proto).await;
    blocked.send(&["MOD.BLOCK", "k"]).await;
    blocked.send(&["JSON.GET", "k"]).await;
    let mut other = proxy.client(proto).await;
    let start = Instant::now();
    wait_for("the command to block", Duration::from_secs(5), async || node.count("MOD.BLOCK") == 1)
        .await;
    for _ in 0..20 {
        assert_eq!(other.cmd(&["JSON.GET", "k"]).await, Value::bulk("at once"));
    }
    assert!(start.elapsed() < Duration::from_millis(1500), "held up {:?}", start.elapsed());
    assert_eq!(blocked.read().await, Value::Simple("woken".into()));
    assert_eq!(blocked.read().await, Value::bulk("at once"));
}

async fn unknown_names_get_the_servers_words(proto: Proto) {
    let loaded = Arc::new(AtomicUsize::new(0));
    let module = loaded.clone();
    let node = FakeNode::start(move |request: &Request| {
        let known = module.load(Ordering::SeqCst) == 1;
        match request.name().as_str() {
            "COMMAND" if !known => Some(Act::reply("*1\r\n*-1\r\n")),
            "COMMAND" => command_info(request),
            "JSON.GET" if known => Some(Act::bulk("loaded")),
            "PING" | "HELLO" | "CLUSTER" => None,
            name => Some(Act::error(&format!("ERR no '{name}' in this very server's words"))),
        }
    })
    .await;
    let proxy = proxy_before(&node, Duration::from_secs(5)).await;
    let mut client = proxy.client(proto).await;
    for name in ["JSON.GET", "FOO", "foo", "JSON.GET"] {
        let reply = client.cmd(&[name, "k"]).await;
        let text = format!("ERR no '{}' in this very server's words", name.to_ascii_uppercase());
        assert_eq!(reply, Value::Error(text), "{name}");
    }
    assert_eq!(node.count("COMMAND"), 2, "absence is remembered for a while");
    // A module may be loaded later.
    loaded.store(1, Ordering::SeqCst);
    wait_for("the module to be noticed", Duration::from_secs(20), async || {
        client.cmd(&["JSON.GET", "k"]).await == Value::bulk("loaded")
    })
    .await;
}

/// Servers whose commands have other names than the table's: all the proxy knows of them is what they
/// tell.
async fn renamed_commands_of_a_real_cluster_are_found(proto: Proto) {
    let renamed = [("GET", "MYGET"), ("SET", "MYSET"), ("BLPOP", "MYBLPOP"), ("MGET", "MYMGET")];
    let more =
        [("XADD", "ADDX"), ("ZUNION", "MYZUNION"), ("DBSIZE", "MYSIZE"), ("MULTI", "MYMULTI")];
    let server_args = renamed
        .iter()
        .chain(&more)
        .flat_map(|(from, to)| ["--rename-command", from, to].map(str::to_owned))
        .collect();
    let bed = Bed::with(BedOptions {
        cluster: ClusterOptions { server_args, ..ClusterOptions::default() },
        ..BedOptions::default()
    })
    .await;
    let mut client = bed.client(proto).await;
    let keys: Vec<String> = [1, 8000, 16000].map(key_in_slot).into();
    for key in &keys {
        assert_eq!(client.cmd(&["MYSET", key, key]).await, Value::ok());
        assert_eq!(client.cmd(&["MYGET", key]).await, Value::bulk(key));
    }
    assert!(client.cmd(&["GET", &keys[0]]).await.is_error("ERR unknown command 'GET'"));
    assert!(
        client.cmd(&["MYGET"]).await.is_error("ERR wrong number of arguments for 'get' command")
    );
    let all: Vec<Value> = keys.iter().map(Value::bulk).collect();
    let got = client.cmd(&["MYMGET", &keys[0], &keys[1], &keys[2]]).await;
    assert_eq!(got, Value::Array(all), "split as MGET is");
    assert_eq!(client.cmd(&["MYSIZE"]).await, Value::Int(3));
    assert!(client.cmd(&["MYMULTI"]).await.is_error("ERR memorystore-auth-proxy: 'multi'"));
    client.cmd(&["ADDX", &keys[1], "*", "f", "v"]).await;
    assert!(client.cmd(&["MYZUNION", "2", &keys[0], &keys[1]]).await.is_error("CROSSSLOT"));
    assert_eq!(client.cmd(&["MYZUNION", "1", "{none}"]).await, Value::Array(vec![]));
    // It blocks on a connection of its own.
    client.send(&["MYBLPOP", "queue", "0"]).await;
    let mut pusher = bed.client(proto).await;
    wait_for("a blocked client", Duration::from_secs(15), async || {
        bed.cluster.stat("blocked_clients").await == 1
    })
    .await;
    assert_eq!(pusher.cmd(&["RPUSH", "queue", "e"]).await, Value::Int(1));
    let popped = Value::Array(vec![Value::bulk("queue"), Value::bulk("e")]);
    assert_eq!(client.read().await, popped);
    // Every question was asked once.
    let asked: usize = bed.cluster.fronts().map(|f| f.seen("COMMAND INFO")).sum();
    assert_eq!(asked, renamed.len() + more.len());
}

#[tokio::test]
async fn where_a_server_does_not_tell_the_first_argument_is_the_key() {
    let nodes = two_nodes().await;
    for (me, node) in nodes.iter().enumerate() {
        node.set_script(move |request: &Request| match request.name().as_str() {
            "COMMAND" => Some(Act::error(
                "NOPERM this user has no permissions to run the 'command|info' command",
            )),
            "JSON.GET" => Some(Act::bulk(&format!("node {me}"))),
            _ => None,
        });
    }
    let proxy = proxy_before(&nodes[0], Duration::from_secs(5)).await;
    let mut client = proxy.client(Proto::Resp2).await;
    for (me, slot) in [(0, 5), (1, 9000), (0, 6)] {
        let reply = client.cmd(&["JSON.GET", &key_in_slot(slot), "$"]).await;
        assert_eq!(reply, Value::bulk(format!("node {me}")));
    }
    assert_eq!(nodes.iter().map(|n| n.count("COMMAND")).sum::<usize>(), 1);
}

#[tokio::test]
async fn a_silent_answer_ends_at_the_deadline_and_keeps_nobody_else_waiting() {
    let answers = Arc::new(AtomicUsize::new(0));
    let tells = answers.clone();
    let node = FakeNode::start(move |request: &Request| match request.name().as_str() {
        "COMMAND" if tells.load(Ordering::SeqCst) == 0 => Some(Act::Close),
        "COMMAND" => command_info(request),
        "GET" | "JSON.GET" => Some(Act::bulk("v")),
        _ => None,
    })
    .await;
    let proxy = proxy_before(&node, Duration::from_secs(2)).await;
    let mut waiting = proxy.client(Proto::Resp2).await;
    let start = Instant::now();
    waiting.send(&["JSON.GET", "k"]).await;
    waiting.send(&["GET", "behind"]).await;
    let mut other = proxy.client(Proto::Resp2).await;
    while start.elapsed() < Duration::from_millis(1500) {
        assert_eq!(other.cmd(&["GET", "k"]).await, Value::bulk("v"));
    }
    let reply = waiting.read().await;
    let Value::Error(text) = &reply else { panic!("{reply:?}") };
    assert!(text.contains("what 'json.get' is") && text.contains("was not executed"), "{text}");
    let took = start.elapsed();
    assert!((1.9..4.0).contains(&took.as_secs_f64()), "gave up after {took:?} of two seconds");
    assert_eq!(waiting.read().await, Value::bulk("v"));
    // The next one is asked anew.
    answers.store(1, Ordering::SeqCst);
    assert_eq!(waiting.cmd(&["JSON.GET", "k"]).await, Value::bulk("v"));
}

#[tokio::test]
async fn a_learned_command_is_retried_as_its_flags_allow() {
    let cuts = Arc::new(AtomicUsize::new(0));
    let cut = cuts.clone();
    let node = FakeNode::start(move |request: &Request| {
        command_info(request).or_else(|| match request.name().as_str() {
            "JSON.GET" | "JSON.SET" if cut.swap(0, Ordering::SeqCst) == 1 => Some(Act::Close),
            "JSON.GET" | "JSON.SET" => Some(Act::bulk("v")),
            _ => None,
        })
    })
    .await;
    let proxy = proxy_before(&node, Duration::from_secs(5)).await;
    let mut client = proxy.client(Proto::Resp3).await;
    assert_eq!(client.cmd(&["JSON.SET", "k", "$", "1"]).await, Value::bulk("v"));
    cuts.store(1, Ordering::SeqCst);
    assert_eq!(client.cmd(&["JSON.GET", "k"]).await, Value::bulk("v"), "read again");
    cuts.store(1, Ordering::SeqCst);
    let lost = client.cmd(&["JSON.SET", "k", "$", "1"]).await;
    assert!(lost.text().contains("may have been executed"), "a write is not repeated: {lost:?}");
}

/// `printf … | nc`: the command waits for the node's word when the end of the input is seen.
#[tokio::test]
async fn a_client_that_has_said_all_is_still_answered() {
    let node = FakeNode::start(|request: &Request| match request.name().as_str() {
        "COMMAND" => match command_info(request) {
            Some(Act::Reply(bytes)) => Some(Act::Delayed(Duration::from_millis(300), bytes)),
            other => other,
        },
        "JSON.GET" => Some(Act::bulk("v")),
        _ => None,
    })
    .await;
    let proxy = proxy_before(&node, Duration::from_secs(5)).await;
    let mut client = proxy.client(Proto::Resp2).await;
    client.send_raw(b"JSON.GET k\r\nJSON.GET again\r\nJSON.GE").await;
    client.finish_sending().await;
    assert_eq!(client.read().await, Value::bulk("v"));
    assert_eq!(client.read().await, Value::bulk("v"));
    client.expect_close().await;
}
