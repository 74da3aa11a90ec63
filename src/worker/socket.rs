//! A non-blocking stream socket under tokio's readiness, TCP or Unix.
//!
//! Invariant: a read that came back short clears the readiness, so that no read is made only to be
//! told that there is nothing more. It buffers nothing and speaks no protocol.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::unix::AsyncFd;

/// A connected stream socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix domain.
    Unix(UnixStream),
}

impl AsRawFd for Stream {
    fn as_raw_fd(&self) -> RawFd {
        match self {
            Stream::Tcp(s) => s.as_raw_fd(),
            Stream::Unix(s) => s.as_raw_fd(),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(s) => s.as_fd(),
            Stream::Unix(s) => s.as_fd(),
        }
    }
}

impl Stream {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(s) => (&mut &*s).read(buf),
            Stream::Unix(s) => (&mut &*s).read(buf),
        }
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        // One slice, the usual case, spares the kernel the copy of the vector.
        match (self, slices) {
            (Stream::Tcp(s), [one]) => (&mut &*s).write(one),
            (Stream::Unix(s), [one]) => (&mut &*s).write(one),
            (Stream::Tcp(s), _) => (&mut &*s).write_vectored(slices),
            (Stream::Unix(s), _) => (&mut &*s).write_vectored(slices),
        }
    }

    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(s) => s.set_nonblocking(true),
            Stream::Unix(s) => s.set_nonblocking(true),
        }
    }
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
    fd: AsyncFd<Stream>,
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
        stream.set_nonblocking()?;
        Ok(Self {
            fd: AsyncFd::new(stream)?,
            waker: RefCell::new(None),
            write_blocked: Cell::new(false),
            closed: Cell::new(false),
        })
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
        loop {
            let mut guard = match ready!(self.fd.poll_read_ready(cx)) {
                Ok(guard) => guard,
                Err(e) => return Poll::Ready(ReadOutcome::Failed(e)),
            };
            match self.fd.get_ref().read(buf) {
                Ok(0) => return Poll::Ready(ReadOutcome::Eof),
                Ok(n) => {
                    let full = n == buf.len();
                    if !full {
                        guard.clear_ready();
                    }
                    return Poll::Ready(ReadOutcome::Data(n, full));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Poll::Ready(ReadOutcome::Failed(e)),
            }
        }
    }

    /// Waits until a write that was blocked may be tried again; `try_again` tries it and tells
    /// whether it is still blocked.
    pub fn poll_unblock(
        &self,
        cx: &mut Context<'_>,
        mut try_again: impl FnMut() -> bool,
    ) -> Poll<()> {
        loop {
            match ready!(self.fd.poll_write_ready(cx)) {
                Err(_) => {
                    self.closed.set(true);
                    return Poll::Ready(());
                }
                Ok(mut guard) => {
                    self.write_blocked.set(false);
                    if !try_again() {
                        return Poll::Ready(());
                    }
                    guard.clear_ready();
                }
            }
        }
    }

    /// Writes what it can of the slices.
    ///
    /// # Errors
    /// As `write(2)`; `WouldBlock` when the socket takes no more now.
    pub fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        loop {
            match self.fd.get_ref().write(slices) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}
