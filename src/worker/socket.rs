//! A non-blocking stream socket under tokio's readiness, TCP or Unix.
//!
//! Invariant: a read that came back short clears the readiness, so that no read is made only to be
//! told that there is nothing more. It buffers nothing and speaks no protocol.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{tcp, unix};

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
}

#[derive(Debug)]
enum WriteHalf {
    Tcp(tcp::OwnedWriteHalf),
    Unix(unix::OwnedWriteHalf),
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
        Ok(Self {
            read: RefCell::new(read),
            write: RefCell::new(write),
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
        let size = buf.len();
        let mut buf = ReadBuf::new(buf);
        // tokio clears the readiness after a short read, so the next poll makes no system call.
        let outcome = match &mut *self.read.borrow_mut() {
            ReadHalf::Tcp(half) => ready!(Pin::new(half).poll_read(cx, &mut buf)),
            ReadHalf::Unix(half) => ready!(Pin::new(half).poll_read(cx, &mut buf)),
        };
        Poll::Ready(match outcome {
            Err(e) => ReadOutcome::Failed(e),
            Ok(()) if buf.filled().is_empty() => ReadOutcome::Eof,
            Ok(()) => ReadOutcome::Data(buf.filled().len(), buf.filled().len() == size),
        })
    }

    /// Writes what it can of the slices; registers for more room when there is none.
    pub fn poll_write(&self, cx: &mut Context<'_>, s: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match &mut *self.write.borrow_mut() {
            WriteHalf::Tcp(half) => Pin::new(half).poll_write_vectored(cx, s),
            WriteHalf::Unix(half) => Pin::new(half).poll_write_vectored(cx, s),
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
        }
    }
}
