//! Doors for the fuzz targets (`tests/fuzz`), in builds with `--cfg fuzzing` alone.
//!
//! What a fuzzer cannot reach from outside: models that live beside the code they test, and the other
//! end of an HTTP call. Invariant: it adds no way to do anything; it only takes bytes in.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub use crate::session::scan::world::run as scan_model;
pub use crate::worker::hub::simulate;

thread_local! {
    static ANSWERS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// From now on each connection to an HTTP server says these bytes, and ends.
pub fn answer_with(bytes: &[u8]) {
    ANSWERS.with_borrow_mut(|answers| {
        answers.clear();
        answers.extend_from_slice(bytes);
    });
}

/// A connection to the server of [`answer_with`], which answers when it is asked.
#[derive(Debug)]
pub struct Fed {
    answer: Vec<u8>,
    said: usize,
    asked: bool,
    waiting: Option<Waker>,
}

impl Fed {
    /// Connects.
    pub fn connect() -> Self {
        let answer = ANSWERS.with_borrow(Clone::clone);
        Self { answer, said: 0, asked: false, waiting: None }
    }
}

impl AsyncRead for Fed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.asked {
            self.waiting = Some(context.waker().clone());
            return Poll::Pending;
        }
        let left = &self.answer[self.said..];
        let n = left.len().min(buf.remaining());
        buf.put_slice(&left[..n]);
        self.said += n;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Fed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.asked = true;
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
