//! Who takes part in a run, and the keys they use.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::commands;
use crate::hearing::{Manner, publisher, subscriber};
use crate::plan::SHARDS;
use crate::sessions::{self, Duty, Fact};
use crate::support::client::Proto;
use crate::support::slots::{keys_on_shard, slot_of};
use crate::talk::{Report, Run, Talk};

/// What one session does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Plain,
    Pipelined,
    Streaming,
    Pairs { piecemeal: bool },
    Scripts,
    Watching,
    Queueing { duty: Duty, moves: bool },
    Publisher,
    Subscriber(Manner),
    Scanning,
    Probe,
}

/// With the number of the team that shares its keys: a shard for probes.
const ROSTER: &[(Role, usize)] = &[
    (Role::Plain, 0),
    (Role::Plain, 1),
    (Role::Pipelined, 0),
    (Role::Pipelined, 1),
    (Role::Streaming, 0),
    (Role::Streaming, 1),
    (Role::Streaming, 2),
    (Role::Pairs { piecemeal: false }, 0),
    (Role::Pairs { piecemeal: true }, 1),
    (Role::Scripts, 0),
    (Role::Watching, 0),
    (Role::Watching, 0),
    (Role::Queueing { duty: Duty::Push, moves: false }, 0),
    (Role::Queueing { duty: Duty::Take, moves: false }, 0),
    (Role::Queueing { duty: Duty::Take, moves: false }, 0),
    (Role::Queueing { duty: Duty::Push, moves: true }, 1),
    (Role::Queueing { duty: Duty::Move, moves: true }, 1),
    (Role::Queueing { duty: Duty::Take, moves: true }, 1),
    (Role::Publisher, 0),
    (Role::Subscriber(Manner::Channel), 0),
    (Role::Subscriber(Manner::Channel), 0),
    (Role::Subscriber(Manner::Pattern), 0),
    (Role::Subscriber(Manner::Shard), 0),
    (Role::Subscriber(Manner::Shard), 0),
    (Role::Scanning, 0),
    (Role::Probe, 0),
    (Role::Probe, 1),
    (Role::Probe, 2),
];

/// Clients that come and go.
const FLEETING: usize = 2;

/// What a session leaves.
pub struct Left {
    pub report: Report,
    pub facts: Vec<Fact>,
}

/// Sets all going.
pub fn start(run: &Arc<Run>) -> (JoinSet<Left>, JoinSet<()>) {
    let mut sessions = JoinSet::new();
    for (place, &(role, team)) in ROSTER.iter().enumerate() {
        let proto = if place % 2 == 0 { Proto::Resp2 } else { Proto::Resp3 };
        sessions.spawn(session(run.clone(), role, team, proto));
    }
    let mut fleeting = JoinSet::new();
    for team in 0..FLEETING {
        let run = run.clone();
        fleeting.spawn(async move { sessions::fleeting(&run, team).await });
    }
    (sessions, fleeting)
}

async fn session(run: Arc<Run>, role: Role, team: usize, proto: Proto) -> Left {
    let mut talk = Talk::new(&run, proto, format!("{role:?} of team {team} ({proto:?})")).await;
    let mut facts = Vec::new();
    let (talk_ref, into) = (&mut talk, &mut facts);
    // A session whose connection is gone has said so.
    let _ = match role {
        Role::Plain => sessions::plain(talk_ref, into, team).await,
        Role::Pipelined => sessions::pipelined(talk_ref, into, team).await,
        Role::Streaming => sessions::streaming(talk_ref, into, team).await,
        Role::Pairs { piecemeal } => sessions::pairs(talk_ref, into, team, piecemeal).await,
        Role::Scripts => sessions::scripts(talk_ref, into, team).await,
        Role::Watching => sessions::watching(talk_ref, into, team).await,
        Role::Queueing { duty, moves } => {
            sessions::queueing(talk_ref, into, team, duty, moves).await
        }
        Role::Publisher => publisher(talk_ref, team).await,
        Role::Subscriber(manner) => subscriber(talk_ref, manner, team).await,
        Role::Scanning => commands::scanning(talk_ref, team).await,
        Role::Probe => sessions::probe(talk_ref, into, team, probe_key(team)).await,
    };
    Left { report: talk.report, facts }
}

/// A key on the shard, whose slot never moves.
fn probe_key(shard: usize) -> String {
    keys_on_shard(shard, SHARDS, 1).remove(0)
}

/// Queues, and whether their elements are moved before they are taken.
pub fn queues() -> Vec<(String, bool)> {
    ROSTER
        .iter()
        .filter_map(|&(role, team)| match role {
            Role::Queueing { duty: Duty::Push, moves } => {
                Some((format!("{{queue:{team}}}"), moves))
            }
            _ => None,
        })
        .collect()
}

/// Slots worth moving: those where order and number are judged.
pub fn slots() -> Vec<u16> {
    let mut keys = Vec::new();
    for &(role, team) in ROSTER {
        match role {
            Role::Plain => keys.extend([format!("plain:{team}"), format!("plain:{team}:count")]),
            Role::Pipelined => keys.extend((0..4).map(|k| format!("pipe:{team}:{k}"))),
            // The busiest move the most.
            Role::Streaming => keys.extend(vec![format!("{{log:{team}}}"); 3]),
            Role::Pairs { .. } => keys.push(format!("{{pair:{team}}}")),
            Role::Scripts => keys.push(format!("{{eval:{team}}}")),
            Role::Watching => keys.push(format!("watch:{team}")),
            Role::Queueing { duty: Duty::Push, .. } => keys.push(format!("{{queue:{team}}}")),
            Role::Publisher => keys.push(format!("shard:{team}")),
            Role::Scanning => keys.push(format!("scan:{team}:7")),
            Role::Queueing { .. } | Role::Subscriber(_) | Role::Probe => {}
        }
    }
    let probes: Vec<u16> = (0..SHARDS).map(|shard| slot_of(probe_key(shard).as_bytes())).collect();
    let slots = keys.iter().map(|key| slot_of(key.as_bytes()));
    slots.filter(|slot| !probes.contains(slot)).collect()
}
