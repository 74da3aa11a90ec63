//! The sockets, clock and timers around a worker's hub.
//!
//! One task a socket waits for it to be readable, reads into the worker's one read buffer and hands
//! the bytes to the hub. One *flusher* task writes: the first event of a turn wakes it, which puts
//! it behind every task that is ready in that turn, so that all commands read in a turn leave in one
//! write a node, and all replies in one write a client. Measured: this is what brings the kernel
//! entries per command from four to little over two; a flush timer would only add latency.
//!
//! Invariant: the hub is borrowed only within one synchronous call; a task never waits on another's
//! queue; a connection owns no buffer while it has nothing to say.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::buffer::{ByteQueue, MAX_SLICES};
use crate::cluster::refresh::Reason;
use crate::cluster::topology::NodeAddr;
use crate::key::Key;
use crate::session::core::{Closing, Profile};
use crate::upstream::tls::{Plan, Trust};

use super::budget::{Budget, Share};
use super::guard::IfPanics;
use super::hub::{Counters, Dial, Hub, Letter, Refusal, Relieved, Work};
use super::socket::{Conn, ReadOutcome, Stream};
use super::tls::{Scratch, handshake};
use super::{Accepted, Place};

/// Size of a worker's read buffer: the most one read takes (bytes).
const READ_BUFFER: usize = 64 * 1024;

/// Time a client has for its TLS handshake.
const CLIENT_HANDSHAKE: Duration = Duration::from_secs(10);

/// What is said of a connection whose task panicked.
const BUG: &str = "the proxy failed inside; this is a bug, please report it with the log";

/// Every so many turns one is measured.
const MEASURED: u32 = 16;

/// What a worker asks of the control thread.
pub trait Control: Send + Sync {
    /// A fresh slot map is wanted.
    fn refresh(&self, reason: Reason);
    /// A node refused the credential of this generation.
    fn credential_rejected(&self, generation: u64);
    /// Commands wait for a credential, and there is none.
    fn credential_wanted(&self);
    /// These nodes are left alone for a while, and no others.
    fn resting(&self, nodes: Vec<NodeAddr>);
    /// How long a turn took, if it was measured, and some replies of nodes (µs).
    fn observe(&self, turn_us: Option<u64>, upstream_us: &[u64]);
    /// The worker's counters, and the bytes it holds for clients, once a turn.
    fn publish(&self, counters: &Counters, sessions: usize, buffered: usize);
}

/// Delivers a letter to a worker; gives it back when that is gone.
pub type Post = Box<dyn Fn(usize, Letter) -> Result<(), Letter>>;

/// Sockets by the key of their session or pipe.
#[derive(Debug, Default)]
struct Conns(Vec<Option<(Key, Rc<Conn>)>>);

impl Conns {
    fn insert(&mut self, key: Key, conn: Rc<Conn>) {
        if self.0.len() <= key.index() {
            self.0.resize_with(key.index() + 1, || None);
        }
        self.0[key.index()] = Some((key, conn));
    }

    fn get(&self, key: Key) -> Option<&Rc<Conn>> {
        self.0.get(key.index())?.as_ref().filter(|(k, _)| *k == key).map(|(_, c)| c)
    }

    fn remove(&mut self, key: Key) {
        if self.get(key).is_some() {
            self.0[key.index()] = None;
        }
    }
}

/// A worker's hub and its sockets; shared by the tasks of one thread.
pub struct Io {
    hub: RefCell<Hub>,
    clients: RefCell<Conns>,
    pipes: RefCell<Conns>,
    buffer: RefCell<Box<[u8]>>,
    /// What encrypted connections need beside it.
    scratch: Rc<RefCell<Scratch>>,
    /// Whether and how nodes are to prove who they are.
    trust: Trust,
    work: RefCell<Work>,
    control: Arc<dyn Control>,
    /// The way to the other workers, when there are any.
    post: RefCell<Option<Post>>,
    started: Instant,
    connect_timeout: Duration,
    /// What it may hold together with the other workers.
    share: RefCell<Share>,
    /// Number of sessions, for the listener's choice of a worker.
    sessions: Arc<AtomicUsize>,
    /// An event of this turn has read the clock and woken the flusher.
    turn: Cell<bool>,
    flusher: RefCell<Option<Waker>>,
    timer: RefCell<Option<Waker>>,
    /// Turns so far, wrapping.
    turns: Cell<u32>,
    /// What the timer task sleeps towards (ms of the hub's clock).
    armed: Cell<u64>,
}

impl Io {
    /// Wraps a hub; `run` serves it.
    pub fn new(
        hub: Hub,
        control: Arc<dyn Control>,
        connect_timeout: Duration,
        sessions: Arc<AtomicUsize>,
        trust: Trust,
        budget: Arc<Budget>,
    ) -> Rc<Self> {
        Rc::new(Self {
            hub: RefCell::new(hub),
            clients: RefCell::default(),
            pipes: RefCell::default(),
            buffer: RefCell::new(vec![0; READ_BUFFER].into_boxed_slice()),
            scratch: Rc::default(),
            trust,
            work: RefCell::default(),
            control,
            post: RefCell::new(None),
            started: Instant::now(),
            connect_timeout,
            share: RefCell::new(Share::of(budget)),
            sessions,
            turn: Cell::new(false),
            flusher: RefCell::new(None),
            timer: RefCell::new(None),
            turns: Cell::new(0),
            armed: Cell::new(u64::MAX),
        })
    }

    /// Lets the hub write to the other workers.
    pub fn set_post(&self, post: Post) {
        *self.post.borrow_mut() = Some(post);
    }

    /// Serves flushes and timers until the thread ends.
    pub async fn run(self: Rc<Self>) {
        let timer = tokio::task::spawn_local(self.clone().run_timer());
        std::future::poll_fn(|cx| self.poll_flush(cx)).await;
        timer.abort();
    }

    /// Calls the hub with an event and has what follows from it carried out.
    pub fn with_hub<T>(&self, event: impl FnOnce(&mut Hub) -> T) -> T {
        self.begin_turn();
        event(&mut self.hub.borrow_mut())
    }

    /// Looks at the hub without an event.
    pub fn peek<T>(&self, look: impl FnOnce(&Hub) -> T) -> T {
        let mut hub = self.hub.borrow_mut();
        let now = hub.now().max(self.clock());
        hub.set_now(now);
        look(&hub)
    }

    fn clock(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// The first event of a turn reads the clock and wakes the flusher, for all of the turn.
    #[inline]
    fn begin_turn(&self) {
        if !self.turn.replace(true) {
            let now = self.started.elapsed();
            let mut hub = self.hub.borrow_mut();
            hub.set_now(now.as_millis() as u64);
            hub.set_now_us(now.as_micros() as u64);
            if let Some(w) = self.flusher.borrow().as_ref() {
                w.wake_by_ref();
            }
        }
    }

    /// Serves a new client until it is gone; with a configuration for TLS, once it has done its
    /// handshake.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn serve_client(self: &Rc<Self>, client: Accepted) -> io::Result<()> {
        let Accepted { place, stream, mut profile, tls } = client;
        profile.fd = stream.fd();
        let (stream, config) = match (stream, tls) {
            (Stream::Tcp(stream), Some(config)) => (stream, config),
            (stream, _) => {
                self.serve_conn(Conn::new(stream)?, profile, place);
                return Ok(());
            }
        };
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream)?;
        let io = self.clone();
        tokio::task::spawn_local(async move {
            let shake = handshake::accept(&mut stream, config);
            match tokio::time::timeout(CLIENT_HANDSHAKE, shake).await {
                Ok(Ok(engine)) => {
                    let conn = Conn::encrypted(stream, engine, io.scratch.clone());
                    io.serve_conn(conn, profile, place);
                }
                Ok(Err(cause)) => {
                    tracing::debug!(client = %profile.peer, %cause, "no TLS handshake with a client; does it speak TLS?");
                }
                Err(_) => {
                    tracing::debug!(client = %profile.peer, "a client's TLS handshake did not end in {CLIENT_HANDSHAKE:?}");
                }
            }
        });
        Ok(())
    }

    fn serve_conn(self: &Rc<Self>, conn: Conn, profile: Profile, place: Place) {
        let conn = Rc::new(conn);
        let key = self.with_hub(|hub| hub.client_open(profile));
        self.clients.borrow_mut().insert(key, conn.clone());
        let io = self.clone();
        tokio::task::spawn_local(async move {
            let _place = place;
            let gone = || {
                io.clients.borrow_mut().remove(key);
                io.with_hub(|hub| hub.client_gone(key));
            };
            let _guard = IfPanics(gone);
            let mut eof = false;
            std::future::poll_fn(|cx| io.poll_client(key, &conn, &mut eof, cx)).await;
            gone();
        });
    }

    fn poll_client(&self, key: Key, conn: &Conn, eof: &mut bool, cx: &mut Context<'_>) -> Poll<()> {
        conn.attend(cx);
        if conn.write_blocked.get() {
            // Pending or not, reading goes on: a client may send for a while without reading.
            self.unblock_client(key, conn, cx);
        }
        loop {
            if conn.closed.get() {
                return Poll::Ready(());
            }
            if *eof || !self.hub.borrow_mut().wants_read(key) {
                return Poll::Pending;
            }
            let mut buffer = self.buffer.borrow_mut();
            match conn.poll_read(cx, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(ReadOutcome::Data(n, more)) => {
                    self.with_hub(|hub| hub.client_data(key, &buffer[..n]));
                    if more {
                        // A client that fills every read takes its turn behind the others.
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
                Poll::Ready(ReadOutcome::Eof) => {
                    *eof = true;
                    self.with_hub(|hub| hub.client_eof(key));
                }
                Poll::Ready(ReadOutcome::Failed(_)) => return Poll::Ready(()),
            }
        }
    }

    /// Makes a connection for a pipe and serves it until it is gone.
    fn dial(self: &Rc<Self>, dial: Dial) {
        let io = self.clone();
        tokio::task::spawn_local(async move {
            let Dial { pipe, addr } = dial;
            let _guard = IfPanics(|| {
                io.pipes.borrow_mut().remove(pipe);
                io.with_hub(|hub| hub.pipe_lost(pipe, BUG));
            });
            let conn = match io.connect(&addr).await {
                Ok(conn) => Rc::new(conn),
                Err(cause) => {
                    tracing::debug!(node = %addr, %cause, "dial failed");
                    return io.with_hub(|hub| hub.pipe_lost(pipe, &cause));
                }
            };
            let wanted = io.with_hub(|hub| {
                let wanted = hub.pipe_mut(pipe).is_some();
                hub.pipe_connected(pipe);
                wanted
            });
            if !wanted {
                return;
            }
            io.pipes.borrow_mut().insert(pipe, conn.clone());
            let cause = std::future::poll_fn(|cx| io.poll_pipe(pipe, &conn, cx)).await;
            io.pipes.borrow_mut().remove(pipe);
            if let Some(cause) = cause {
                tracing::debug!(node = %addr, %cause, "connection to node ended");
                io.with_hub(|hub| hub.pipe_lost(pipe, &cause));
            }
        });
    }

    async fn connect(&self, addr: &NodeAddr) -> Result<Conn, String> {
        let shake = |stream, plan| secure(stream, plan, self.scratch.clone());
        self.trust.dial(addr, self.connect_timeout, shake).await.map_err(|e| e.to_string())
    }

    /// Serves a pipe's socket; ready with the cause when it ends, `None` when the hub dropped it.
    fn poll_pipe(&self, key: Key, conn: &Conn, cx: &mut Context<'_>) -> Poll<Option<String>> {
        conn.attend(cx);
        if conn.write_blocked.get() {
            // Pending or not, reading goes on: both sides of a connection advance together.
            self.unblock_pipe(key, conn, cx);
        }
        loop {
            if conn.closed.get() {
                return Poll::Ready(None);
            }
            let mut buffer = self.buffer.borrow_mut();
            match conn.poll_read(cx, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(ReadOutcome::Data(n, more)) => {
                    self.with_hub(|hub| hub.pipe_data(key, &buffer[..n]));
                    if more {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
                Poll::Ready(ReadOutcome::Eof) => {
                    return Poll::Ready(Some("the node closed the connection".to_owned()));
                }
                Poll::Ready(ReadOutcome::Failed(e)) => {
                    return Poll::Ready(Some(format!("the connection broke: {e}")));
                }
            }
        }
    }

    /// The end of a turn: carries out all work that came up in it.
    fn poll_flush(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        {
            let mut slot = self.flusher.borrow_mut();
            if !slot.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                *slot = Some(cx.waker().clone());
            }
        }
        self.flush();
        self.turn.set(false);
        Poll::Pending
    }

    fn flush(self: &Rc<Self>) {
        let mut work = self.work.borrow_mut();
        loop {
            let mut hub = self.hub.borrow_mut();
            std::mem::swap(&mut *work, &mut hub.work);
            if !work.latencies.is_empty() {
                self.control.observe(None, &work.latencies);
                work.latencies.clear();
            }
            if work.is_empty() {
                break;
            }
            for key in work.hangups.drain(..) {
                if let Some(conn) = self.pipes.borrow().get(key) {
                    conn.close();
                }
            }
            for key in work.pipes.drain(..) {
                match self.pipes.borrow().get(key) {
                    Some(conn) => self.flush_pipe(&mut hub, key, conn),
                    // The dial task inserts the socket right after the handshake began.
                    None => self.not_yet(&mut hub, key),
                }
            }
            for key in work.sessions.drain(..) {
                if let Some(conn) = self.clients.borrow().get(key) {
                    self.flush_client(&mut hub, key, conn);
                }
            }
            for key in work.readable.drain(..) {
                if let Some(conn) = self.clients.borrow().get(key) {
                    conn.wake();
                }
            }
            drop(hub);
            for dial in work.dials.drain(..) {
                self.dial(dial);
            }
            for note in work.notes.drain(..) {
                match note.failing {
                    Some(cause) => tracing::warn!(node = %note.node, "node is failing: {cause}"),
                    None => tracing::info!(node = %note.node, "node is well again"),
                }
            }
            work.refusals.drain(..).for_each(|refusal| log_refusal(&refusal));
            for (to, letter) in work.letters.drain(..) {
                let lost = match self.post.borrow().as_ref() {
                    Some(post) => post(to, letter).err(),
                    None => Some(letter),
                };
                if let Some(letter) = lost {
                    self.hub.borrow_mut().undeliverable(&letter);
                }
            }
            if let Some(nodes) = work.resting.take() {
                self.control.resting(nodes);
            }
            if let Some(reason) = work.refresh.take() {
                self.control.refresh(reason);
            }
            if let Some(generation) = work.rejected_credential.take() {
                self.control.credential_rejected(generation);
            }
            if std::mem::take(&mut work.wants_credential) {
                self.control.credential_wanted();
            }
        }
        self.keep_budget();
        let hub = self.hub.borrow();
        let turn = self.turns.get().wrapping_add(1);
        self.turns.set(turn);
        let measured = turn
            .is_multiple_of(MEASURED)
            .then(|| (self.started.elapsed().as_micros() as u64).saturating_sub(hub.now_us()));
        if measured.is_some() {
            self.control.observe(measured, &[]);
        }
        self.sessions.store(hub.session_count(), Ordering::Relaxed);
        self.control.publish(&hub.counters, hub.session_count(), hub.held_bytes());
        if let Some(at) = hub.next_deadline()
            && at < self.armed.get()
        {
            self.armed.set(at);
            if let Some(w) = self.timer.borrow().as_ref() {
                w.wake_by_ref();
            }
        }
    }

    /// When all workers together hold too much, some clients of this one go.
    fn keep_budget(&self) {
        let mut hub = self.hub.borrow_mut();
        let excess = self.share.borrow_mut().update(hub.held_bytes());
        if excess == 0 {
            return;
        }
        let gone = hub.relieve(excess);
        for Relieved { client, bytes } in &gone {
            tracing::warn!(
                %client,
                bytes,
                "a client was disconnected: --max-buffer-total is reached and it held most"
            );
        }
        // They are served at the end of another turn. Where nobody goes there is none: it would be the
        // next at once, for as long as too much is held.
        if !gone.is_empty()
            && let Some(w) = self.flusher.borrow().as_ref()
        {
            w.wake_by_ref();
        }
    }

    fn not_yet(&self, hub: &mut Hub, key: Key) {
        hub.weigh_pipe(key);
        if let Some(pipe) = hub.pipe_mut(key) {
            pipe.dirty = false;
        }
    }

    fn flush_pipe(&self, hub: &mut Hub, key: Key, conn: &Conn) {
        let now_us = hub.now_us();
        hub.weigh_pipe(key);
        let Some(pipe) = hub.pipe_mut(key) else {
            return;
        };
        pipe.dirty = false;
        if conn.write_blocked.get() {
            return;
        }
        let mut failed = None;
        let mut writes = 0;
        while !pipe.control.is_empty() {
            writes += 1;
            match conn.write(&[IoSlice::new(&pipe.control)]) {
                // Zeroizing wipes the whole buffer when it is dropped or cleared.
                Ok(n) => drop(pipe.control.drain(..n)),
                Err(e) => {
                    failed = Some(e);
                    break;
                }
            }
        }
        if pipe.control.is_empty() {
            pipe.control = zeroize::Zeroizing::new(Vec::new());
        }
        if failed.is_none() && pipe.may_send() {
            let (n, e, w) = write_out(&mut pipe.out, conn, ByteQueue::mark_sent);
            failed = e;
            writes += w;
            if n > 0 {
                pipe.start_timing(now_us);
            }
            hub.counters.upstream_bytes_out += n;
        }
        hub.counters.upstream_writes += writes;
        match failed {
            None => {}
            Some(e) if e.kind() == io::ErrorKind::WouldBlock => {
                conn.write_blocked.set(true);
                conn.wake();
            }
            // The read side reports the loss, with everything the node still had to say.
            Some(_) => conn.wake(),
        }
    }

    /// Tries the write that was blocked again, or registers for room.
    fn unblock_pipe(&self, key: Key, conn: &Conn, cx: &mut Context<'_>) {
        let mut hub = self.hub.borrow_mut();
        let Some(pipe) = hub.pipe_mut(key) else {
            return;
        };
        let control = !pipe.control.is_empty();
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let n = if control {
            slices[0] = IoSlice::new(&pipe.control);
            1
        } else {
            pipe.out.unsent_slices(&mut slices)
        };
        match conn.poll_write(cx, &slices[..n]) {
            Poll::Pending => return,
            Poll::Ready(Ok(n)) if control => drop(pipe.control.drain(..n)),
            Poll::Ready(Ok(n)) => pipe.out.mark_sent(n),
            // The read side reports the loss.
            Poll::Ready(Err(_)) => {}
        }
        conn.write_blocked.set(false);
        self.flush_pipe(&mut hub, key, conn);
    }

    fn unblock_client(&self, key: Key, conn: &Conn, cx: &mut Context<'_>) {
        let mut hub = self.hub.borrow_mut();
        let Some(session) = hub.session_mut(key) else {
            return;
        };
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let n = session.out.unsent_slices(&mut slices);
        match conn.poll_write(cx, &slices[..n]) {
            Poll::Pending => return,
            Poll::Ready(Ok(n)) => session.out.consume(n),
            Poll::Ready(Err(_)) => conn.closed.set(true),
        }
        conn.write_blocked.set(false);
        self.flush_client(&mut hub, key, conn);
    }

    fn flush_client(&self, hub: &mut Hub, key: Key, conn: &Conn) {
        let Some(session) = hub.session_mut(key) else {
            return;
        };
        session.dirty = false;
        if !conn.write_blocked.get() {
            let (n, failed, writes) = write_out(&mut session.out, conn, ByteQueue::consume);
            match failed {
                Some(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    conn.write_blocked.set(true);
                    conn.wake();
                }
                Some(_) => conn.close(),
                None => {}
            }
            if session.is_done() && may_close(session.closing, conn) {
                conn.close();
            } else if session.window.is_empty() && session.out.held() == 0 {
                session.shrink();
            }
            let change = session.recount();
            hub.note_held(change);
            hub.counters.client_bytes_out += n;
            hub.counters.client_writes += writes;
        } else {
            if session.is_done() && may_close(session.closing, conn) {
                conn.close();
            }
            let change = session.recount();
            hub.note_held(change);
        }
    }

    async fn run_timer(self: Rc<Self>) {
        let mut sleep: Pin<Box<tokio::time::Sleep>> =
            Box::pin(tokio::time::sleep(Duration::from_secs(3600)));
        std::future::poll_fn(|cx| -> Poll<()> {
            {
                let mut slot = self.timer.borrow_mut();
                if !slot.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
                    *slot = Some(cx.waker().clone());
                }
            }
            loop {
                let next = self.hub.borrow().next_deadline();
                let Some(at) = next else {
                    self.armed.set(u64::MAX);
                    return Poll::Pending;
                };
                self.armed.set(at);
                let due = self.started + Duration::from_millis(at);
                if sleep.deadline() != due {
                    sleep.as_mut().reset(due);
                }
                if sleep.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                self.with_hub(|hub| {
                    hub.set_now(self.clock().max(at));
                    hub.on_time();
                });
            }
        })
        .await;
    }
}

/// Makes a connection of a dialled stream, by a TLS handshake if that is the plan.
async fn secure(
    mut stream: TcpStream,
    plan: Option<Plan>,
    scratch: Rc<RefCell<Scratch>>,
) -> io::Result<Conn> {
    match plan {
        None => Conn::new(Stream::Tcp(stream.into_std()?)),
        Some(Plan { config, name }) => {
            let engine = handshake::connect(&mut stream, config, name).await?;
            Ok(Conn::encrypted(stream, engine, scratch))
        }
    }
}

/// Whether a session that is done may be closed: its last reply is to reach the kernel, unless it
/// is to end at once.
fn may_close(closing: Closing, conn: &Conn) -> bool {
    closing == Closing::Now || !conn.holds_unsent()
}

/// Writes a queue out; returns bytes written, the error that stopped it, and the writes made.
fn write_out(
    out: &mut ByteQueue,
    conn: &Conn,
    done: impl Fn(&mut ByteQueue, usize),
) -> (u64, Option<io::Error>, u64) {
    let (mut total, mut writes) = (0, 0);
    while out.unsent() > 0 {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let n = out.unsent_slices(&mut slices);
        writes += 1;
        match conn.write(&slices[..n]) {
            Ok(n) => {
                total += n as u64;
                done(out, n);
            }
            Err(e) => return (total, Some(e), writes),
        }
    }
    (total, None, writes)
}

/// The audit line of something refused: who, which command, why; nothing of its arguments.
#[cold]
fn log_refusal(refusal: &Refusal) {
    let Refusal { client, peer, user, command, reason, unlogged } = refusal;
    tracing::warn!(target: "audit", client, %peer, %user, command, reason, unlogged, "refused to a client");
}
