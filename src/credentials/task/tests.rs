//! The task over a scripted source, in virtual time: Tokio's clock is paused, and the wall clock is
//! derived from it plus an offset that tests move.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize};

use super::*;
use crate::credentials::Secret;
use crate::credentials::sources::BoxFuture;

const HOUR: Duration = Duration::from_secs(3600);

#[derive(Clone)]
enum Step {
    /// A token that lives this long, after this wait.
    Token(&'static str, Option<Duration>, Duration),
    Fail(&'static str),
    Hang,
}

/// What the test and its source share.
#[derive(Default)]
struct World {
    steps: Mutex<VecDeque<Step>>,
    mints: AtomicUsize,
    in_flight: AtomicUsize,
    overlaps: AtomicUsize,
    dropped: AtomicBool,
    /// Seconds the wall clock has been moved.
    offset: AtomicI64,
    started: Mutex<Option<Instant>>,
}

impl World {
    fn wall(&self) -> SystemTime {
        let started = *self.started.lock().unwrap().get_or_insert_with(Instant::now);
        let base = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let offset = self.offset.load(Ordering::SeqCst);
        let shift = Duration::from_secs(offset.unsigned_abs());
        let now = base + started.elapsed();
        if offset < 0 { now - shift } else { now + shift }
    }

    fn mints(&self) -> usize {
        self.mints.load(Ordering::SeqCst)
    }
}

struct Scripted(Arc<World>);

struct InFlight(Arc<World>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.0.dropped.store(true, Ordering::SeqCst);
    }
}

impl Source for Scripted {
    fn mint(&mut self) -> BoxFuture<'_, Result<Minted, SourceError>> {
        let world = Arc::clone(&self.0);
        world.mints.fetch_add(1, Ordering::SeqCst);
        if world.in_flight.fetch_add(1, Ordering::SeqCst) > 0 {
            world.overlaps.fetch_add(1, Ordering::SeqCst);
        }
        let guard = InFlight(Arc::clone(&world));
        // The last step repeats.
        let step = {
            let mut steps = world.steps.lock().unwrap();
            match steps.len() {
                1 => steps[0].clone(),
                _ => steps.pop_front().unwrap(),
            }
        };
        Box::pin(async move {
            let _guard = guard;
            match step {
                Step::Token(text, life, wait) => {
                    tokio::time::sleep(wait).await;
                    Ok(Minted {
                        // "@" becomes a new token each time.
                        secret: Secret::new(text.replace('@', &world.mints().to_string())),
                        expires_at: life.map(|life| world.wall() + life),
                        kind: SourceKind::Metadata,
                        principal: None,
                    })
                }
                Step::Fail(said) => Err(SourceError::one(
                    SourceKind::Metadata,
                    "place".into(),
                    said.into(),
                    "Mend it.",
                )),
                Step::Hang => std::future::pending().await,
            }
        })
    }
}

fn begin(steps: &[Step]) -> (Arc<World>, CredentialHandle) {
    begin_with(steps, None)
}

fn begin_with(steps: &[Step], activity: Option<Arc<Activity>>) -> (Arc<World>, CredentialHandle) {
    let world = Arc::new(World::default());
    world.steps.lock().unwrap().extend(steps.iter().cloned());
    let clock = Arc::clone(&world);
    let options = Options {
        username: "default".into(),
        backoff: BackoffRange { min: Duration::from_millis(100), max: Duration::from_secs(30) },
        wall_clock: Arc::new(move || clock.wall()),
        activity,
    };
    let handle = spawn(Box::new(Scripted(Arc::clone(&world))), options);
    (world, handle)
}

fn token(text: &'static str, life: Duration) -> Step {
    Step::Token(text, Some(life), Duration::ZERO)
}

/// Waits in virtual time until the state is as wanted.
async fn until(
    handle: &CredentialHandle,
    want: impl Fn(&CredentialState) -> bool,
) -> CredentialState {
    let mut watch = handle.watch.clone();
    tokio::time::timeout(HOUR * 24, watch.wait_for(|state| want(state)))
        .await
        .expect("the state never came")
        .expect("the task ended")
        .clone()
}

fn is_failed(state: &CredentialState) -> bool {
    matches!(state, CredentialState::Failed { .. })
}

fn has_generation(want: u64) -> impl Fn(&CredentialState) -> bool {
    move |state| matches!(state, CredentialState::Ready { credential, .. } if credential.generation >= want)
}

#[tokio::test(start_paused = true)]
async fn refreshes_ahead_of_expiry() {
    let (world, handle) = begin(&[token("t@", HOUR)]);
    let CredentialState::Ready { credential, refresh_error } =
        until(&handle, has_generation(1)).await
    else {
        panic!()
    };
    assert_eq!(&*credential.username, "default");
    assert_eq!(credential.secret.expose(), "t1");
    assert_eq!(credential.source, "metadata server");
    assert_eq!(credential.expires_at, Some(credential.obtained_at + HOUR));
    assert_eq!(refresh_error, None);

    let before = Instant::now();
    until(&handle, has_generation(2)).await;
    let waited = before.elapsed();
    assert!(waited >= HOUR.mul_f64(0.74) && waited <= HOUR.mul_f64(0.91), "{waited:?}");
    until(&handle, has_generation(20)).await;
    assert_eq!(world.mints(), 20);
    assert_eq!(handle.counters.refreshes(SourceKind::Metadata), 20);
    assert_eq!(handle.counters.failures(SourceKind::Metadata), 0);
}

#[tokio::test(start_paused = true)]
async fn a_failed_refresh_keeps_the_credential_until_it_expires() {
    let (world, handle) = begin(&[token("t@", HOUR), Step::Fail("boom")]);
    until(&handle, has_generation(1)).await;
    let start = Instant::now();
    let stale =
        until(&handle, |s| matches!(s, CredentialState::Ready { refresh_error: Some(_), .. }))
            .await;
    let CredentialState::Ready { credential, refresh_error: Some(error) } = stale else { panic!() };
    assert_eq!(credential.generation, 1);
    assert_eq!(&*error, "no credentials: place: boom. Mend it.");

    let CredentialState::Failed { error } = until(&handle, is_failed).await else { panic!() };
    let waited = start.elapsed();
    assert!(waited.abs_diff(HOUR) < Duration::from_secs(1), "{waited:?}");
    assert!(error.contains("has expired") && error.contains("boom"), "{error}");

    *world.steps.lock().unwrap() = [token("u@", HOUR)].into();
    until(&handle, has_generation(2)).await;
    assert!(handle.counters.failures(SourceKind::Metadata) >= 10);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_refresh_does_not_keep_an_expired_credential() {
    let (_world, handle) = begin(&[token("t@", Duration::from_secs(20)), Step::Hang]);
    until(&handle, has_generation(1)).await;
    let start = Instant::now();
    until(&handle, is_failed).await;
    let waited = start.elapsed();
    assert!(waited.abs_diff(Duration::from_secs(20)) < Duration::from_secs(1), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn the_first_failure_is_published_and_retried_with_backoff() {
    let (world, handle) = begin(&[Step::Fail("late")]);
    let CredentialState::Failed { error } = until(&handle, is_failed).await else { panic!() };
    assert!(error.contains("place: late"), "{error}");
    tokio::time::sleep(HOUR).await;
    let tries = world.mints();
    // At most every 30 s in the long run, and never more often than the doubling allows.
    assert!((120..300).contains(&tries), "{tries}");
    *world.steps.lock().unwrap() = [token("t@", HOUR)].into();
    let start = Instant::now();
    until(&handle, has_generation(1)).await;
    assert!(start.elapsed() <= Duration::from_secs(31));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_never_answers_is_an_error() {
    let (_world, handle) = begin(&[Step::Hang]);
    let CredentialState::Failed { error } = until(&handle, is_failed).await else { panic!() };
    assert!(error.contains("no answer within 1m"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn rejections_are_coalesced_into_one_request() {
    let slow = Step::Token("t@", Some(HOUR), Duration::from_secs(3));
    let (world, handle) = begin(&[slow]);
    until(&handle, has_generation(1)).await;
    for _ in 0..200 {
        let handle = handle.clone();
        tokio::spawn(async move {
            for _ in 0..5 {
                handle.force_refresh(1);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    until(&handle, has_generation(2)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.mints(), 2);
    assert_eq!(world.overlaps.load(Ordering::SeqCst), 0);
    assert_eq!(handle.counters.forced(), 1);
    // The newer generation answers a late rejection of the older one.
    handle.force_refresh(1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.mints(), 2);
}

#[tokio::test(start_paused = true)]
async fn every_new_token_being_rejected_does_not_hammer_the_source() {
    let (world, handle) = begin(&[token("t@", HOUR)]);
    let mut watch = handle.watch.clone();
    let rejecting = handle.clone();
    let rejecter = tokio::spawn(async move {
        while watch.changed().await.is_ok() {
            let state = watch.borrow_and_update().clone();
            if let CredentialState::Ready { credential, .. } = state {
                rejecting.force_refresh(credential.generation);
            }
        }
    });
    tokio::time::sleep(Duration::from_secs(600)).await;
    rejecter.abort();
    let mints = world.mints();
    assert!((10..40).contains(&mints), "{mints}");
}

#[tokio::test(start_paused = true)]
async fn the_same_token_again_is_no_new_generation() {
    let (world, handle) = begin(&[token("same", HOUR)]);
    until(&handle, has_generation(1)).await;
    tokio::time::sleep(HOUR * 3).await;
    assert!(world.mints() >= 4);
    let state = handle.watch.borrow().clone();
    let CredentialState::Ready { credential, .. } = state else { panic!() };
    assert_eq!(credential.generation, 1);
    assert!(credential.expires_at.unwrap() > world.wall());
}

#[tokio::test(start_paused = true)]
async fn an_already_expired_token_is_refused() {
    let (_world, handle) = begin(&[token("t", Duration::ZERO)]);
    let CredentialState::Failed { error } = until(&handle, is_failed).await else { panic!() };
    assert!(error.contains("already expired"), "{error}");
    assert!(handle.counters.failures(SourceKind::Metadata) >= 1);
}

#[tokio::test(start_paused = true)]
async fn clock_jumps_are_noticed_within_a_tick() {
    for jump in [86_400, -86_400] {
        let (world, handle) = begin(&[token("t@", HOUR)]);
        until(&handle, has_generation(1)).await;
        world.offset.store(jump, Ordering::SeqCst);
        let start = Instant::now();
        let mut watch = handle.watch.clone();
        watch.mark_unchanged();
        watch.changed().await.unwrap();
        // Never a moment without a credential.
        assert!(has_generation(2)(&watch.borrow()), "{:?}", watch.borrow());
        let limit = if jump > 0 { Duration::from_secs(31) } else { HOUR };
        assert!(start.elapsed() < limit, "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_fixed_secret_is_asked_for_once() {
    let (world, handle) = begin(&[Step::Token("fixed", None, Duration::ZERO)]);
    until(&handle, has_generation(1)).await;
    tokio::time::sleep(HOUR * 48).await;
    assert_eq!(world.mints(), 1);
    handle.force_refresh(1);
    tokio::time::sleep(HOUR).await;
    assert_eq!(world.mints(), 2);
    assert!(has_generation(1)(&handle.watch.borrow()));
    assert!(!has_generation(2)(&handle.watch.borrow()));
}

#[tokio::test(start_paused = true)]
async fn ends_with_its_last_handle() {
    for steps in [vec![token("t@", HOUR)], vec![Step::Hang]] {
        let (world, handle) = begin(&steps);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let clone = handle.clone();
        drop(handle);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!world.dropped.load(Ordering::SeqCst));
        drop(clone);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(world.dropped.load(Ordering::SeqCst));
    }
}

#[tokio::test]
async fn no_auth_needs_no_task() {
    let options = Options::new(
        "default".into(),
        BackoffRange { min: Duration::from_millis(1), max: Duration::from_millis(2) },
    );
    let handle = start(&CredentialSource::None, options, &Environment::default());
    assert!(matches!(*handle.watch.borrow(), CredentialState::NotNeeded));
    handle.force_refresh(1);
}

#[tokio::test(start_paused = true)]
async fn a_lazy_task_renews_only_what_is_used() {
    let activity = Arc::new(Activity::default());
    let (world, handle) = begin_with(&[token("t@", HOUR)], Some(activity.clone()));
    tokio::time::sleep(HOUR * 10).await;
    assert_eq!(world.mints(), 1, "nobody used it");
    assert!(matches!(&*handle.watch.borrow(), CredentialState::Ready { .. }));
    // Used after its end: renewed at once, and then in time.
    activity.note();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.mints(), 2);
    activity.note();
    tokio::time::sleep(HOUR).await;
    assert_eq!(world.mints(), 3);
    tokio::time::sleep(HOUR * 10).await;
    assert_eq!(world.mints(), 3, "idle again");
    // A node that refuses it counts as use.
    handle.force_refresh(3);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.mints(), 4);
}
