use super::*;

fn error(kind: ErrorKind, retry_after: Option<Duration>) -> ApiError {
    ApiError::for_test(kind, retry_after)
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[tokio::test(start_paused = true)]
async fn a_known_instance_is_looked_at_once_an_hour_and_at_most_once_a_minute() {
    let start = Instant::now();
    let mut pace = Pace::new(start);
    assert_eq!(pace.next(), start);
    for random in [0.0, 0.5, 0.999] {
        pace.succeeded(start, random);
        let wait = pace.next() - start;
        assert!((secs(2880)..=secs(4320)).contains(&wait), "{wait:?}");
    }
    // The look at the start was nobody's hurry.
    pace.hurry(start + secs(1));
    assert_eq!(pace.next(), start + secs(1));
    pace.succeeded(start + secs(1), 0.5);
    pace.hurry(start + secs(2));
    assert_eq!(pace.next(), start + secs(1) + MIN_GAP);
    pace.succeeded(pace.next(), 0.5);
    pace.hurry(start + secs(600));
    assert_eq!(pace.next(), start + secs(600), "the last hurry is long past");
}

#[tokio::test(start_paused = true)]
async fn failures_double_the_wait_and_what_needs_a_human_or_is_too_much_waits_longer() {
    let start = Instant::now();
    let mut pace = Pace::new(start);
    let mut waits = Vec::new();
    for _ in 0..12 {
        pace.failed(start, &error(ErrorKind::Network, None), 0.5);
        waits.push(pace.next() - start);
        // Nobody's hurry makes a failing API better.
        pace.hurry(start);
        assert_eq!(pace.next() - start, waits[waits.len() - 1]);
    }
    assert_eq!(waits[..3], [secs(1), secs(2), secs(4)]);
    assert_eq!(waits[11], RETRY.1);
    for (kind, retry_after, least) in [
        (ErrorKind::PermissionDenied, None, secs(15)),
        (ErrorKind::NotFound, None, secs(15)),
        (ErrorKind::TooManyRequests, None, secs(30)),
        (ErrorKind::TooManyRequests, Some(secs(90)), secs(90)),
        (ErrorKind::Server, Some(secs(7)), secs(7)),
    ] {
        for random in [0.0, 0.999] {
            let mut pace = Pace::new(start);
            pace.failed(start, &error(kind, retry_after), random);
            let wait = pace.next() - start;
            assert!(wait >= least && wait <= least.max(MIN_GAP) * 3, "{kind:?}: {wait:?}");
        }
    }
}
