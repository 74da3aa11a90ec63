//! CLIENT LIST, INFO, KILL and their like: the clients of the proxy as a server tells of its own, on all
//! worker threads.

use std::time::Duration;

use crate::both_protocols;
use crate::support::bed::{Bed, BedOptions};
use crate::support::client::{Client, Proto};
use crate::support::pair::Pair;
use crate::support::resp::Value;
use crate::support::wait::wait_for;

both_protocols!(
    clients_are_told_of_in_the_servers_words,
    all_threads_are_one_server,
    a_kill_reaches_every_thread,
);

/// Fields whose values belong to one process.
const OWN: &[&str] = &[
    "id",
    "addr",
    "laddr",
    "fd",
    "age",
    "idle",
    "qbuf",
    "qbuf-free",
    "argv-mem",
    "multi-mem",
    "rbs",
    "rbp",
    "omem",
    "tot-mem",
];

/// A line of CLIENT LIST without what belongs to one process.
fn face(line: &str) -> String {
    let field = |f: &str| match f.split_once('=') {
        Some((name, _)) if OWN.contains(&name) => format!("{name}=…"),
        _ => f.to_owned(),
    };
    line.split(' ').map(field).collect::<Vec<_>>().join(" ")
}

fn field(line: &str, name: &str) -> String {
    let found = line.split(' ').find_map(|f| f.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in {line}")).to_owned()
}

async fn info(client: &mut Client) -> String {
    face(&client.cmd(&["CLIENT", "INFO"]).await.text())
}

async fn id(client: &mut Client) -> String {
    client.cmd(&["CLIENT", "ID"]).await.int().to_string()
}

async fn lines(client: &mut Client, args: &[&str]) -> Vec<String> {
    let list = client.cmd(&[&["CLIENT", "LIST"], args].concat()).await.text();
    list.lines().map(str::to_owned).collect()
}

async fn clients_are_told_of_in_the_servers_words(proto: Proto) {
    let mut pair = Pair::start(proto).await;
    let all = [
        "CLIENT LIST TYPE",
        "CLIENT LIST TYPE foo",
        "CLIENT LIST TYPE pubsub",
        "CLIENT LIST TYPE master",
        "CLIENT LIST ID",
        "CLIENT LIST ID abc",
        "CLIENT LIST ID 0",
        "CLIENT LIST ID 987654321 -3",
        "CLIENT LIST foo bar",
        "CLIENT LIST TYPE normal ID 3",
        "CLIENT INFO x",
        "CLIENT KILL",
        "CLIENT KILL 1.2.3.4:5",
        "CLIENT KILL ID",
        "CLIENT KILL ID abc",
        "CLIENT KILL ID 0",
        "CLIENT KILL ID 987654321",
        "CLIENT KILL TYPE foo",
        "CLIENT KILL TYPE pubsub",
        "CLIENT KILL TYPE replica",
        "CLIENT KILL USER nobody",
        "CLIENT KILL MAXAGE 10",
        "CLIENT KILL ADDR 1.1.1.1:1 LADDR 2.2.2.2:2 TYPE normal USER default SKIPME no",
        "CLIENT KILL TYPE normal SKIPME maybe",
        "CLIENT KILL TYPE normal SKIPME",
        "CLIENT KILL FOO bar",
        "CLIENT UNBLOCK",
        "CLIENT UNBLOCK abc",
        "CLIENT UNBLOCK 987654321",
        "CLIENT UNBLOCK -5 TIMEOUT",
        "CLIENT UNBLOCK 1 foo",
        "CLIENT UNBLOCK abc foo",
        "CLIENT UNBLOCK 1 TIMEOUT x",
        "CLIENT NO-EVICT",
        "CLIENT NO-EVICT on",
        "CLIENT NO-EVICT off",
        "CLIENT NO-EVICT foo",
        "CLIENT GETREDIR",
        "CLIENT HELP",
        "CLIENT HELP x",
        "CLIENT REPLY",
        "CLIENT REPLY foo",
        "CLIENT REPLY on",
        "CLIENT SETNAME",
        "CLIENT SETNAME worker",
        "CLIENT GETNAME",
        "CLIENT FOO",
    ];
    let words: Vec<Vec<&str>> = all.iter().map(|c| c.split(' ').collect()).collect();
    let commands: Vec<&[&str]> = words.iter().map(Vec::as_slice).collect();
    pair.agree(&commands, true).await;
    // What a client did shows in its line, for others.
    pair.reset(proto).await;
    let mut near = pair.bed.client(proto).await;
    let mut far = Client::connect_proto(pair.server.addr(), proto).await;
    let (ours, theirs) = (id(&mut pair.ours).await, id(&mut pair.theirs).await);
    for did in [
        "GET k",
        "NONSENSE x",
        "GET",
        "CLIENT NO-EVICT on",
        "CLIENT SETNAME me",
        "OBJECT ENCODING k",
        "WATCH k",
        "MULTI",
        "SET k v",
        "GET k",
        "EXEC",
        "SUBSCRIBE a b",
        "PSUBSCRIBE a*",
        "SSUBSCRIBE s",
    ] {
        let words: Vec<&str> = did.split(' ').collect();
        let confirmations = if did.contains("SUBSCRIBE") { words.len() - 1 } else { 1 };
        pair.ours.send(&words).await;
        pair.theirs.send(&words).await;
        for _ in 0..confirmations {
            assert_eq!(pair.ours.read().await, pair.theirs.read().await, "{did}");
        }
        let ours = face(&lines(&mut near, &["ID", &ours]).await[0]);
        assert_eq!(ours, face(&lines(&mut far, &["ID", &theirs]).await[0]), "after {did}");
    }
    for (client, id) in [(&mut near, &ours), (&mut far, &theirs)] {
        let subscribers = lines(client, &["TYPE", "pubsub"]).await;
        assert_eq!(subscribers.len(), 1);
        assert_eq!(&field(&subscribers[0], "id"), id);
        let normal = lines(client, &["TYPE", "normal"]).await;
        assert!(!normal.iter().any(|line| &field(line, "id") == id), "{normal:?}");
    }
    assert_eq!(info(&mut near).await, info(&mut far).await);
    // Replies that are switched off come back with RESET.
    for client in [&mut near, &mut far] {
        client.send(&["CLIENT", "REPLY", "OFF"]).await;
        client.send(&["PING"]).await;
        assert_eq!(client.cmd(&["RESET"]).await, Value::Simple("RESET".into()));
        assert_eq!(client.cmd(&["PING"]).await, Value::Simple("PONG".into()));
    }
}

/// A bed with three worker threads and three clients on each, in order of connection.
async fn three_threads(proto: Proto) -> (Bed, Vec<(Client, String)>) {
    let args = vec!["--threads".to_owned(), "3".to_owned()];
    let bed = Bed::with(BedOptions { args, ..BedOptions::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..9 {
        let mut client = bed.client(proto).await;
        let id = id(&mut client).await;
        clients.push((client, id));
    }
    (bed, clients)
}

async fn all_threads_are_one_server(proto: Proto) {
    let (bed, mut clients) = three_threads(proto).await;
    let ids: Vec<String> = clients.iter().map(|(_, id)| id.clone()).collect();
    for (client, _) in clients.iter_mut().take(3) {
        let listed: Vec<String> = lines(client, &[]).await.iter().map(|l| field(l, "id")).collect();
        assert_eq!(listed, ids, "by id, whichever thread is asked");
    }
    let (asker, _) = &mut clients[4];
    let wanted = ["ID", &ids[7], &ids[0], "987654321", &ids[5], &ids[0]];
    let listed: Vec<String> = lines(asker, &wanted).await.iter().map(|l| field(l, "id")).collect();
    assert_eq!(listed, [7, 0, 5, 0].map(|i| ids[i].clone()), "in the order asked for");
    // Commands around it keep their order.
    let commands = [
        cmd!["ECHO", "before"],
        cmd!["CLIENT", "LIST", "ID", &ids[4]],
        cmd!["SET", "k", "v"],
        cmd!["ECHO", "behind"],
    ];
    let replies = asker.pipeline(&commands).await;
    assert_eq!(replies[0], Value::bulk("before"));
    assert_eq!(field(&replies[1].text(), "cmd"), "client|list");
    assert_eq!(replies[2..], [Value::ok(), Value::bulk("behind")]);
    // INFO counts them all, as one server does.
    wait_for("the counts of all threads", Duration::from_secs(5), async || {
        let info = clients[2].0.cmd(&["INFO", "clients", "proxy"]).await.text();
        info.contains("connected_clients:9\r\n") && info.contains("proxy_clients:9\r\n")
    })
    .await;
    drop(bed);
}

async fn a_kill_reaches_every_thread(proto: Proto) {
    let (bed, mut clients) = three_threads(proto).await;
    for victim in [8, 7, 6] {
        let (mut gone, id) = clients.remove(victim);
        let killed = clients[0].0.cmd(&["CLIENT", "KILL", "ID", &id]).await;
        assert_eq!(killed, Value::Int(1));
        gone.expect_close().await;
    }
    let (mut gone, _) = clients.remove(5);
    let addr = gone.local_addr().to_string();
    assert_eq!(clients[1].0.cmd(&["CLIENT", "KILL", &addr]).await, Value::ok());
    gone.expect_close().await;
    assert!(clients[1].0.cmd(&["CLIENT", "KILL", &addr]).await.is_error("ERR No such client"));
    // A blocked one lets go of what it waited for.
    let (mut blocked, id) = clients.remove(4);
    blocked.send(&["BLPOP", "queue", "0"]).await;
    wait_for("a blocked client", Duration::from_secs(15), async || {
        bed.cluster.stat("blocked_clients").await == 1
    })
    .await;
    let line = lines(&mut clients[0].0, &["ID", &id]).await.remove(0);
    assert_eq!((field(&line, "flags"), field(&line, "cmd")), ("b".into(), "blpop".into()));
    assert_eq!(clients[2].0.cmd(&["CLIENT", "KILL", "ID", &id]).await, Value::Int(1));
    blocked.expect_close().await;
    wait_for("no blocked client", Duration::from_secs(15), async || {
        bed.cluster.stat("blocked_clients").await == 0
    })
    .await;
    // All but the one who asks, then that one too: it still reads the reply.
    let (mut last, id) = clients.remove(0);
    assert_eq!(last.cmd(&["CLIENT", "KILL", "ID", &id]).await, Value::Int(0));
    assert_eq!(last.cmd(&["CLIENT", "KILL", "TYPE", "normal"]).await, Value::Int(3));
    for (mut gone, _) in clients {
        gone.expect_close().await;
    }
    assert_eq!(last.cmd(&["CLIENT", "KILL", "ID", &id, "SKIPME", "no"]).await, Value::Int(1));
    last.expect_close().await;
}
