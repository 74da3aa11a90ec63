//! The life cycle of authentication, scaled down: tokens of two seconds, authentications of three,
//! and IAM and the token source failing on a schedule. No client may notice what can be mended.
//!
//! [`load`] runs many sessions of all kinds against [`plan`]'s faults and lets [`check`] judge what
//! they saw; [`check_tests`] spoil histories to see that the checker objects. The other modules aim
//! at one promise each.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::bed::{Bed, BedOptions};
use crate::support::front::IamFront;
use crate::support::front_events::{Event, What};

/// Both protocols at once, each on its own bed: these tests wait far more than they work.
macro_rules! both_at_once {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            #[tokio::test]
            async fn both() {
                use crate::support::client::Proto;
                tokio::join!(super::$name(Proto::Resp2), super::$name(Proto::Resp3));
            }
        }
    )+};
}

mod check;
mod check_tests;
mod commands;
mod faults;
mod hearing;
mod load;
mod plan;
mod queues;
mod rates;
mod renewal;
mod source;
mod talk;
mod teams;
mod waits;
mod watching;

const HOUR: Duration = Duration::from_secs(3600);

/// A bed whose tokens live so long, with more flags for the proxy.
async fn bed(token: Duration, args: &[&str]) -> Bed {
    Bed::with(BedOptions {
        token_lifetime: Some(token),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        ..BedOptions::default()
    })
    .await
}

/// Events of a front from `start` on.
fn since(front: &IamFront, start: Instant) -> Vec<Event> {
    let mut events = front.events();
    events.retain(|event| event.at >= start);
    events
}

/// Renewals in band: AUTHs repeated on connections in use, accepted or not.
fn renewals(events: &[Event], accepted: bool) -> usize {
    let one = |e: &&Event| matches!(e.what, What::Auth { first: false, ok } if ok == accepted);
    events.iter().filter(one).count()
}
