//! A non-blocking stream socket under tokio's readiness: TCP, TLS over TCP, or Unix.
//!
//! Invariant: a read that came back short clears the readiness, so that no read is made only to be
//! told that there is nothing more. It speaks no protocol and buffers nothing, but for ciphertext
//! the kernel did not take: what was encrypted must be sent, so the socket counts it as written and
//! then says that writing is blocked.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{tcp, unix};

use super::tls::{Engine, Scratch};

/// A connected stream socket on its way to a worker, not yet registered with a runtime.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// Unix domain.
    Unix(std::os::unix::net::UnixStream),
}

impl Stream {
    /// Its descriptor, for people to look at.
    pub fn fd(&self) -> i32 {
        match self {
            Self::Tcp(s) => s.as_raw_fd(),
            Self::Unix(s) => s.as_raw_fd(),
        }
    }
}

#[derive(Debug)]
enum ReadHalf {
    Tcp(tcp::OwnedReadHalf),
    Unix(unix::OwnedReadHalf),
    Tls(tcp::OwnedReadHalf, Rc<Tls>),
}

#[derive(Debug)]
enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
    Tls(tcp::OwnedWriteHalf, Rc<Tls>),
}

/// The encryption of a connection, and the buffers it shares with the others of its worker.
#[derive(Debug)]
struct Tls {
    engine: RefCell<Engine>,
    scratch: Rc<RefCell<Scratch>>,
}

/// Outcome of one read.
#[derive(Debug)]
pub enum ReadOutcome {
    /// This many bytes; the flag tells that there may be more.
    Data(usize, bool),
    /// The peer will send no more.
    Eof,
    /// The connection is broken.
    Failed(io::Error),
}

/// A socket, the task that serves it, and what the two sides tell each other.
#[derive(Debug)]
pub struct Conn {
    read: RefCell<ReadHalf>,
    write: RefCell<WriteHalf>,
    waker: RefCell<Option<Waker>>,
    /// A write did not go through: the task waits until it can.
    pub write_blocked: Cell<bool>,
    /// The connection is to be dropped.
    pub closed: Cell<bool>,
}

impl Conn {
    /// Registers a socket with the current runtime.
    ///
    /// # Errors
    /// What the operating system reports.
    pub fn new(stream: Stream) -> io::Result<Self> {
        let (read, write) = match stream {
            Stream::Tcp(s) => {
                s.set_nonblocking(true)?;
                let (r, w) = tokio::net::TcpStream::from_std(s)?.into_split();
                (ReadHalf::Tcp(r), WriteHalf::Tcp(w))
            }
            Stream::Unix(s) => {
                s.set_nonblocking(true)?;
                let (r, w) = tokio::net::UnixStream::from_std(s)?.into_split();
                (ReadHalf::Unix(r), WriteHalf::Unix(w))
            }
        };
        Ok(Self::of(read, write))
    }

    /// A stream of the current runtime whose TLS handshake is done.
    pub fn encrypted(
        stream: tokio::net::TcpStream,
        engine: Engine,
        scratch: Rc<RefCell<Scratch>>,
    ) -> Self {
        let tls = Rc::new(Tls { engine: RefCell::new(engine), scratch });
        let (read, write) = stream.into_split();
        Self::of(ReadHalf::Tls(read, tls.clone()), WriteHalf::Tls(write, tls))
    }

    fn of(read: ReadHalf, write: WriteHalf) -> Self {
        Self {
            read: RefCell::new(read),
            write: RefCell::new(write),
            waker: RefCell::new(None),
            write_blocked: Cell::new(false),
            closed: Cell::new(false),
        }
    }

    /// Whether bytes that count as written wait here for the kernel to take them.
    pub fn holds_unsent(&self) -> bool {
        match &*self.write.borrow() {
            WriteHalf::Tcp(_) | WriteHalf::Unix(_) => false,
            WriteHalf::Tls(_, tls) => tls.engine.borrow().has_unsent(),
        }
    }

    /// Remembers the task to wake.
    pub fn attend(&self, cx: &Context<'_>) {
        let mut slot = self.waker.borrow_mut();
        if !slot.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *slot = Some(cx.waker().clone());
        }
    }

    /// Wakes the task that serves this socket.
    pub fn wake(&self) {
        if let Some(w) = self.waker.borrow().as_ref() {
            w.wake_by_ref();
        }
    }

    /// Drops the connection: its task ends at its next turn.
    pub fn close(&self) {
        self.closed.set(true);
        self.wake();
    }

    /// Reads once what is there, or registers for more.
    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<ReadOutcome> {
        let size = buf.len();
        let mut buf = ReadBuf::new(buf);
        // tokio clears the readiness after a short read, so the next poll makes no system call.
        let outcome = match &mut *self.read.borrow_mut() {
            ReadHalf::Tcp(half) => ready!(Pin::new(half).poll_read(cx, &mut buf)),
            ReadHalf::Unix(half) => ready!(Pin::new(half).poll_read(cx, &mut buf)),
            ReadHalf::Tls(half, tls) => {
                return self.poll_decrypt(half, tls, cx, buf.initialized_mut());
            }
        };
        Poll::Ready(match outcome {
            Err(e) => ReadOutcome::Failed(e),
            Ok(()) if buf.filled().is_empty() => ReadOutcome::Eof,
            Ok(()) => ReadOutcome::Data(buf.filled().len(), buf.filled().len() == size),
        })
    }

    fn poll_decrypt(
        &self,
        half: &mut tcp::OwnedReadHalf,
        tls: &Tls,
        cx: &mut Context<'_>,
        plain: &mut [u8],
    ) -> Poll<ReadOutcome> {
        let failed = |e| Poll::Ready(ReadOutcome::Failed(e));
        let (mut engine, mut scratch) = (tls.engine.borrow_mut(), tls.scratch.borrow_mut());
        loop {
            let early = engine.take_early(plain);
            if early > 0 {
                return Poll::Ready(ReadOutcome::Data(early, false));
            }
            if engine.is_at_end() {
                return Poll::Ready(ReadOutcome::Eof);
            }
            let room = match engine.room(&mut scratch) {
                Ok(room) => room,
                Err(e) => return failed(e),
            };
            let mut buf = ReadBuf::new(room);
            if let Err(e) = ready!(Pin::new(&mut *half).poll_read(cx, &mut buf)) {
                return failed(e);
            }
            let (n, more) = (buf.filled().len(), buf.remaining() == 0);
            if n == 0 {
                return Poll::Ready(ReadOutcome::Eof);
            }
            let received = engine.receive(&mut scratch, n, plain);
            if engine.has_unsent() && !self.write_blocked.get() {
                self.answer(&mut engine, cx);
            }
            match received {
                Err(e) => return failed(e),
                Ok(0) => {}
                Ok(n) => return Poll::Ready(ReadOutcome::Data(n, more)),
            }
        }
    }

    /// Sends what the protocol itself has to say: a key update, an alert. Rare.
    fn answer(&self, engine: &mut Engine, cx: &Context<'_>) {
        let WriteHalf::Tls(half, _) = &*self.write.borrow() else {
            return;
        };
        // An error shows at the next read as well.
        let n = half.try_write(engine.unsent()).unwrap_or(0);
        engine.sent(n);
        if engine.has_unsent() {
            self.write_blocked.set(true);
            cx.waker().wake_by_ref();
        }
    }

    /// Writes what it can of the slices; registers for more room when there is none. With TLS it
    /// is what was encrypted before that goes first, and alone.
    pub fn poll_write(&self, cx: &mut Context<'_>, s: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match &mut *self.write.borrow_mut() {
            WriteHalf::Tcp(half) => Pin::new(half).poll_write_vectored(cx, s),
            WriteHalf::Unix(half) => Pin::new(half).poll_write_vectored(cx, s),
            WriteHalf::Tls(half, tls) => {
                let mut engine = tls.engine.borrow_mut();
                while engine.has_unsent() {
                    let n = ready!(Pin::new(&mut *half).poll_write(cx, engine.unsent()))?;
                    engine.sent(n);
                }
                Poll::Ready(Ok(0))
            }
        }
    }

    /// Writes what it can of the slices.
    ///
    /// # Errors
    /// As `write(2)`; `WouldBlock` when the socket takes no more now.
    pub fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // One slice, the usual case, spares the kernel the copy of the vector.
        match (&*self.write.borrow(), slices) {
            (WriteHalf::Tcp(half), [one]) => half.try_write(one),
            (WriteHalf::Unix(half), [one]) => half.try_write(one),
            (WriteHalf::Tcp(half), _) => half.try_write_vectored(slices),
            (WriteHalf::Unix(half), _) => half.try_write_vectored(slices),
            (WriteHalf::Tls(half, tls), _) => self.write_encrypted(half, tls, slices),
        }
    }

    fn write_encrypted(
        &self,
        half: &tcp::OwnedWriteHalf,
        tls: &Tls,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        let mut engine = tls.engine.borrow_mut();
        if engine.has_unsent() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken =
            engine.send(slices, &mut tls.scratch.borrow_mut(), |bytes| half.try_write(bytes))?;
        if engine.has_unsent() {
            self.write_blocked.set(true);
            self.wake();
        }
        Ok(taken)
    }
}

impl Drop for Conn {
    /// The peer of an encrypted connection is told that the end is meant; never waits for it.
    fn drop(&mut self) {
        if let WriteHalf::Tls(half, tls) = self.write.get_mut() {
            let mut engine = tls.engine.borrow_mut();
            if !engine.has_unsent() {
                // A connection that failed has nothing left to say.
                let _ =
                    engine.send_close(&mut tls.scratch.borrow_mut(), |bytes| half.try_write(bytes));
            }
        }
    }
}
