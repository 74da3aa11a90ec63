//! What the fronts count proves: dials and AUTHs pass a token bucket, are spread, and are few.

use std::collections::HashMap;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::check::densest;
use super::{HOUR, bed, renewals, since};
use crate::support::bed::Bed;
use crate::support::client::{Client, Proto};
use crate::support::front_events::{Event, What};
use crate::support::resp::Value;
use crate::support::slots::{key_in_slot, keys_on_shard};
use crate::support::traffic::{Traffic, spread_keys};
use crate::support::wait::wait_for;

/// Times of dials and renewals of all fronts from `start` on.
fn permits(bed: &Bed, start: Instant) -> Vec<Duration> {
    let mut times: Vec<_> = bed
        .cluster
        .fronts()
        .flat_map(|front| since(front, start))
        .filter(Event::is_permit)
        .map(|event| event.at - start)
        .collect();
    times.sort_unstable();
    times
}

/// Clients that each hold a connection of their own, by blocking on queues over all shards.
async fn blocked(bed: &Bed, count: usize) -> Vec<(String, Client)> {
    let mut opening = JoinSet::new();
    for n in 0..count {
        let proto = if n % 2 == 0 { Proto::Resp2 } else { Proto::Resp3 };
        let queue = format!("{}:{n}", keys_on_shard(n % 3, 3, 1)[0]);
        let addr = bed.proxy.addr();
        opening.spawn(async move {
            let mut client = Client::connect_proto(addr, proto).await;
            client.send(&["BLPOP", &queue, "0"]).await;
            (queue, client)
        });
    }
    let clients = opening.join_all().await;
    all_wait(bed, count).await;
    clients
}

async fn all_wait(bed: &Bed, count: usize) {
    wait_for("all clients to block", Duration::from_secs(15), async || {
        bed.cluster.stat("blocked_clients").await == count as i64
    })
    .await;
}

/// Each gets the element pushed for it, and nothing else.
async fn serve(bed: &Bed, clients: Vec<(String, Client)>) {
    let mut pusher = bed.client(Proto::Resp2).await;
    for (queue, mut client) in clients {
        let element = format!("for {queue}");
        assert_eq!(pusher.cmd(&["RPUSH", &queue, &element]).await, Value::Int(1));
        let popped = Value::Array(vec![Value::bulk(&queue), Value::bulk(&element)]);
        assert_eq!(client.read().await, popped);
    }
}

/// Open files this process may have.
fn file_limit() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("limits of this process");
    let line = limits.lines().find(|l| l.starts_with("Max open files")).expect("a limit");
    line.split_whitespace().nth(3).and_then(|n| n.parse().ok()).unwrap_or(usize::MAX)
}

#[tokio::test]
async fn thousands_of_clients_at_once_cost_a_few_connections_a_node() {
    let clients = 2000.min(file_limit() - 200);
    // What is counted is connections; how fast the machine serves so many at once is not the matter.
    let bed = bed(HOUR, &["--op-timeout=60s", "--connect-timeout=60s"]).await;
    let mut opening = JoinSet::new();
    for n in 0..clients {
        let addr = bed.proxy.addr();
        opening.spawn(async move {
            let proto = if n % 2 == 0 { Proto::Resp2 } else { Proto::Resp3 };
            let mut client = Client::connect_proto(addr, proto).await;
            for slot in [0, 8000, 16000] {
                let key = format!("{}:{n}", key_in_slot(slot));
                assert_eq!(client.cmd(&["SET", &key, "v"]).await, Value::ok());
            }
            client
        });
    }
    let open = opening.join_all().await;
    assert_eq!(open.len(), clients);
    for front in bed.cluster.fronts() {
        let counts = front.counts();
        // One for RESP2, one for RESP3, the one that reads the slot map, and air.
        assert!(counts.dials <= 6, "{} dials for {clients} clients", counts.dials);
        assert!(counts.auths_ok <= 6, "{} AUTHs for {clients} clients", counts.auths_ok);
    }
}

#[tokio::test]
async fn a_wave_of_dials_and_of_renewals_passes_the_token_bucket() {
    const LIMIT: usize = 20;
    const CLIENTS: usize = 60;
    let args = ["--dial-rate-limit=20", "--max-connection-age=8s", "--op-timeout=10s"];
    let bed = bed(HOUR, &args).await;
    let start = Instant::now();
    let clients = blocked(&bed, CLIENTS).await;
    let opened = permits(&bed, start);
    assert!(opened.len() >= CLIENTS, "{} dials for {CLIENTS} leases", opened.len());
    let span = *opened.last().expect("dials") - opened[0];
    // What the bucket holds goes at once, the rest at its rate.
    let least = Duration::from_secs_f64((opened.len() - LIMIT - 1) as f64 / LIMIT as f64);
    assert!(span >= least, "{} dials in {span:?}", opened.len());
    wait_for("a renewal for each", Duration::from_secs(30), async || {
        permits(&bed, start).len() >= opened.len() + CLIENTS
    })
    .await;
    let all = permits(&bed, start);
    let most = densest(&all, Duration::from_secs(1));
    // A second's worth at once, as many in a second, and a tenth as the fronts are not the bucket.
    assert!(most <= 2 * LIMIT + LIMIT / 10, "{most} dials and renewals within a second");
    all_wait(&bed, CLIENTS).await;
    serve(&bed, clients).await;
}

#[tokio::test]
async fn connections_opened_together_do_not_end_together() {
    const CLIENTS: usize = 45;
    let age = Duration::from_secs(4);
    let bed = bed(HOUR, &["--dial-rate-limit=1000", "--max-connection-age=4s"]).await;
    let start = Instant::now();
    let clients = blocked(&bed, CLIENTS).await;
    let opened = permits(&bed, start);
    wait_for("a successor for each", Duration::from_secs(15), async || {
        permits(&bed, start).len() >= opened.len() + CLIENTS
    })
    .await;
    let all = permits(&bed, start);
    let successors = &all[opened.len()..opened.len() + CLIENTS];
    let first = successors[0] - opened[0];
    let last = successors[CLIENTS - 1] - *opened.last().expect("dials");
    assert!(first >= age / 4, "the first successor came after {first:?}");
    assert!(last <= age + Duration::from_secs(1), "the last successor came after {last:?}");
    let most = densest(successors, Duration::from_millis(100));
    let millis: Vec<_> = successors.iter().map(Duration::as_millis).collect();
    assert!(most <= CLIENTS / 2, "{most} of {CLIENTS} within 100 ms: {millis:?}");
    all_wait(&bed, CLIENTS).await;
    serve(&bed, clients).await;
}

#[tokio::test]
async fn a_new_token_is_not_used_by_all_on_one_tick() {
    let bed = bed(Duration::from_secs(4), &["--max-connection-age=0"]).await;
    // A pipe per node, RESP version and READONLY.
    let mut clients = Vec::new();
    for proto in [Proto::Resp2, Proto::Resp3] {
        for readonly in [false, true] {
            let mut client = bed.client(proto).await;
            if readonly {
                assert_eq!(client.cmd(&["READONLY"]).await, Value::ok());
            }
            for slot in [0, 8000, 16000] {
                assert_eq!(client.cmd(&["GET", &key_in_slot(slot)]).await, Value::Null);
            }
            clients.push(client);
        }
    }
    let pipes: u64 = bed.cluster.fronts().map(|f| f.counts().connections).sum();
    let start = Instant::now();
    wait_for("three waves", Duration::from_secs(20), async || {
        let done: usize = bed.cluster.fronts().map(|f| renewals(&since(f, start), true)).sum();
        done as u64 >= 3 * (pipes - 3)
    })
    .await;
    let times = permits(&bed, start);
    let most = densest(&times, Duration::from_millis(20));
    assert!(most as u64 <= pipes * 2 / 3, "{most} of {pipes} pipes renewed within 20 ms");
}

#[tokio::test]
async fn connections_are_replaced_at_a_jittered_age_by_ones_that_are_ready() {
    let age = Duration::from_millis(1500);
    let bed = bed(HOUR, &["--max-connection-age=1500ms"]).await;
    let start = Instant::now();
    let traffic = Traffic::start(bed.proxy.addr(), Proto::Resp2, spread_keys(6, 6));
    traffic.run_for(Duration::from_secs(7)).await;
    let end = Instant::now();
    traffic.stop_clean().await;
    let mut ages = Vec::new();
    for front in bed.cluster.fronts() {
        let events = since(front, start);
        let mut dialled = HashMap::new();
        let mut ready: HashMap<u64, Instant> = HashMap::new();
        for event in events.iter().filter(|e| e.at < end) {
            match event.what {
                What::Dial => drop(dialled.insert(event.connection, event.at)),
                What::Auth { ok: true, .. } => {
                    ready.entry(event.connection).or_insert(event.at);
                }
                What::Auth { .. } => {}
                What::Closed { by_proxy, unanswered, .. } => {
                    assert!(by_proxy, "the front closed nothing");
                    assert_eq!(unanswered, 0, "closed with commands under way");
                    let Some(at) = dialled.get(&event.connection) else { continue };
                    ages.push(event.at - *at);
                    let successor = ready.keys().any(|&other| other > event.connection);
                    assert!(successor, "closed before its successor was ready: {events:?}");
                }
            }
        }
    }
    assert!(ages.len() >= 6, "only {} connections were replaced in seven seconds", ages.len());
    let (least, most) = (ages.iter().min().expect("ages"), ages.iter().max().expect("ages"));
    assert!(*most <= age + Duration::from_secs(1), "one lived for {most:?}");
    assert!(*least >= age / 4, "one lived for {least:?} only");
    assert!(*most - *least > age / 50, "all lived for {least:?}: no jitter");
}

#[tokio::test]
async fn an_age_of_zero_means_never() {
    let bed = bed(Duration::from_secs(2), &["--max-connection-age=0"]).await;
    let traffic = Traffic::start(bed.proxy.addr(), Proto::Resp3, spread_keys(6, 6));
    traffic.progress(500).await;
    let start = Instant::now();
    wait_for("three renewals of each node", Duration::from_secs(20), async || {
        bed.cluster.fronts().all(|front| renewals(&since(front, start), true) >= 3)
    })
    .await;
    traffic.stop_clean().await;
    for front in bed.cluster.fronts() {
        let dials = since(front, start).iter().filter(|e| e.what == What::Dial).count();
        assert_eq!(dials, 0, "connections were replaced");
    }
}
