//! Who takes part: sessions come in teams, and a crowd of any size is made of whole teams.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::hearing::{Manner, publisher, subscriber};
use super::queues::{Kind, consumer, producer};
use super::talk::{Report, Run, Talk};
use super::{commands, queues};
use crate::support::client::Proto;

/// What one session does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Plain,
    Pipelined,
    Transactions { piecemeal: bool },
    Watching,
    Scanning,
    Reading,
    Producer(Kind, u64),
    Consumer(Kind, usize),
    Publisher,
    Subscriber(Manner),
}

/// One round of teams.
const ROUND: &[Role] = &[
    Role::Plain,
    Role::Reading,
    Role::Pipelined,
    Role::Transactions { piecemeal: false },
    Role::Producer(Kind::List, 3),
    Role::Consumer(Kind::List, 0),
    Role::Consumer(Kind::List, 1),
    Role::Consumer(Kind::List, 2),
    Role::Publisher,
    Role::Subscriber(Manner::Channel),
    Role::Subscriber(Manner::Channel),
    Role::Subscriber(Manner::Pattern),
    Role::Subscriber(Manner::Shard),
    Role::Subscriber(Manner::Shard),
    Role::Watching,
    Role::Watching,
    Role::Transactions { piecemeal: true },
    Role::Producer(Kind::Move, 1),
    Role::Consumer(Kind::Move, 0),
    Role::Producer(Kind::Stream, 2),
    Role::Consumer(Kind::Stream, 0),
    Role::Consumer(Kind::Stream, 1),
    Role::Scanning,
    Role::Pipelined,
];

/// A session to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    pub role: Role,
    pub team: usize,
    pub proto: Proto,
}

/// At least `count` sessions: whole rounds, then single sessions that need no others.
pub fn crowd(count: usize) -> Vec<Member> {
    let mut members = Vec::new();
    let mut team = 0;
    loop {
        let whole = count >= members.len() + ROUND.len() || members.is_empty();
        for (place, &role) in ROUND.iter().enumerate() {
            let alone = matches!(
                role,
                Role::Plain | Role::Reading | Role::Pipelined | Role::Transactions { .. }
            );
            if members.len() >= count && !members.is_empty() && !whole {
                return members;
            }
            // Two sessions of a role in a round would meet on its keys.
            let team = team * 2 + usize::from(place == ROUND.len() - 1);
            if whole || alone {
                let proto =
                    if (members.len() + team) % 2 == 0 { Proto::Resp2 } else { Proto::Resp3 };
                members.push(Member { role, team, proto });
            }
        }
        team += 1;
        if members.len() >= count {
            return members;
        }
    }
}

/// Sets all going.
pub fn start(run: &Arc<Run>, members: &[Member]) -> JoinSet<Report> {
    let mut tasks = JoinSet::new();
    for &member in members {
        tasks.spawn(session(run.clone(), member));
    }
    tasks
}

async fn session(run: Arc<Run>, member: Member) -> Report {
    let Member { role, team, proto } = member;
    let name = format!("{role:?} of team {team} ({proto:?})");
    let mut talk = Talk::new(&run, proto, name).await;
    let talk_ref = &mut talk;
    // A session whose connection is gone has said so.
    let _ = match role {
        Role::Plain => commands::plain(talk_ref, team).await,
        Role::Pipelined => commands::pipelined(talk_ref, team).await,
        Role::Transactions { piecemeal } => commands::transactions(talk_ref, team, piecemeal).await,
        Role::Watching => commands::watching(talk_ref, team).await,
        Role::Scanning => commands::scanning(talk_ref, team).await,
        Role::Reading => commands::reading(talk_ref, team).await,
        Role::Producer(kind, consumers) => producer(talk_ref, kind, team, consumers).await,
        Role::Consumer(kind, n) => consumer(talk_ref, kind, team, n).await,
        Role::Publisher => publisher(talk_ref, team).await,
        Role::Subscriber(manner) => subscriber(talk_ref, manner, team).await,
    };
    talk.report
}

/// The queues of a crowd, by their keys.
pub fn queues_of(members: &[Member]) -> Vec<(Kind, String)> {
    members
        .iter()
        .filter_map(|member| match member.role {
            Role::Producer(kind, _) => Some((kind, queues::key(kind, member.team))),
            _ => None,
        })
        .collect()
}

#[test]
fn a_crowd_is_as_large_as_asked_and_no_two_meet_on_a_key() {
    for count in [1, 24, 30, 48, 100] {
        let members = crowd(count);
        assert!(
            (count..=count.max(ROUND.len())).contains(&members.len()),
            "{count}: {}",
            members.len()
        );
        let resp3 = members.iter().filter(|m| m.proto == Proto::Resp3).count();
        assert!((members.len() / 3..=members.len() * 2 / 3).contains(&resp3), "{resp3} in RESP3");
        for (n, member) in members.iter().enumerate() {
            let shared = [Role::Watching, Role::Reading].contains(&member.role)
                || matches!(member.role, Role::Subscriber(_));
            let same = |m: &Member| (m.role, m.team) == (member.role, member.team);
            assert!(shared || !members[..n].iter().any(same), "{member:?} twice");
        }
    }
}
