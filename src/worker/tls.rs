//! The encryption of one connection, without its socket: ciphertext in, plaintext out, and back.
//!
//! It drives rustls's unbuffered connections, client or server side, so that a connection keeps no
//! buffer of its own: what is read lies in the worker's [`Scratch`], what is decrypted in the
//! worker's read buffer, what is encrypted in the scratch again. Only leftovers stay with the
//! connection: a record that is not whole yet, and ciphertext the socket did not take. Invariants:
//! ciphertext leaves in the order it was made, each byte once; plaintext that was taken to be sent
//! has been encrypted, so it counts as sent; an engine that failed says so again whenever it is
//! asked. It reads and writes no socket (`socket` does) and trusts nobody (`upstream::tls` does).

pub mod handshake;

use std::fmt;
use std::io::{self, IoSlice};

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};

/// Most plaintext in one record (bytes), by the protocol.
const RECORD: usize = 16 * 1024;

/// Most plaintext encrypted for one write (bytes): four records a system call.
const FLIGHT: usize = 4 * RECORD;

/// Most ciphertext one read takes (bytes). What it decrypts to fits the worker's read buffer.
pub const INCOMING: usize = 64 * 1024;

/// Room for the header and the seal of a record (bytes); only a first guess, rustls says what it
/// needs.
const OVERHEAD: usize = 64;

/// The buffers a worker's encrypted connections share; none holds anything between two calls.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Ciphertext read.
    incoming: Vec<u8>,
    /// Small pieces of plaintext put together for one record.
    gathered: Vec<u8>,
    /// Ciphertext to be written, and behind it room that was used before: clearing 16 KiB for
    /// every write would cost as much as encrypting a small one.
    outgoing: Vec<u8>,
    /// Where the ciphertext in `outgoing` ends.
    end: usize,
}

impl Scratch {
    /// Where ciphertext is read to; all of it is there from the first use on.
    fn incoming(&mut self) -> &mut [u8] {
        if self.incoming.is_empty() {
            self.incoming = vec![0; INCOMING];
        }
        &mut self.incoming
    }
}

/// Either side of a connection.
pub enum Side {
    /// Towards a node.
    Client(Box<UnbufferedClientConnection>),
    /// Towards a client.
    Server(Box<UnbufferedServerConnection>),
}

/// See the module header.
pub struct Engine {
    side: Side,
    /// Ciphertext read that is not a whole record yet.
    partial: Vec<u8>,
    /// Plaintext that came along with the end of the handshake.
    early: Vec<u8>,
    /// Ciphertext the socket has not taken.
    unsent: Vec<u8>,
    peer_closed: bool,
    /// It is not asked again: rustls would look at the same record once more.
    failed: bool,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither keys nor plaintext.
        f.debug_struct("Engine").field("peer_closed", &self.peer_closed).finish_non_exhaustive()
    }
}

/// What the two sides have in common: rustls gives each its own types and one interface.
trait Records {
    type Data;
    fn process<'c, 'i>(&'c mut self, tls: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Records for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(&'c mut self, tls: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(tls)
    }
}

impl Records for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(&'c mut self, tls: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(tls)
    }
}

impl Engine {
    /// Before its handshake.
    fn new(side: Side) -> Self {
        Self {
            side,
            partial: Vec::new(),
            early: Vec::new(),
            unsent: Vec::new(),
            peer_closed: false,
            failed: false,
        }
    }

    /// Whether ciphertext waits for the socket.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// The ciphertext that waits for the socket.
    pub fn unsent(&self) -> &[u8] {
        &self.unsent
    }

    /// Notes that the socket took `n` bytes of it.
    pub fn sent(&mut self, n: usize) {
        if n == self.unsent.len() {
            // The room is given back: a blocked write is rare.
            self.unsent = Vec::new();
        } else {
            drop(self.unsent.drain(..n));
        }
    }

    /// Whether the peer has ended its side in due form, and all it said was delivered.
    pub fn is_at_end(&self) -> bool {
        self.peer_closed && self.early.is_empty()
    }

    /// Plaintext that is there without a read: what came along with the handshake.
    pub fn take_early(&mut self, into: &mut [u8]) -> usize {
        let n = self.early.len().min(into.len());
        into[..n].copy_from_slice(&self.early[..n]);
        if n == self.early.len() {
            self.early = Vec::new();
        } else {
            drop(self.early.drain(..n));
        }
        n
    }

    /// The part of the scratch the next ciphertext is to be read to, the leftover being before it.
    ///
    /// # Errors
    /// When the leftover fills all of it: no record and no message is that long.
    pub fn room<'s>(&self, scratch: &'s mut Scratch) -> io::Result<&'s mut [u8]> {
        self.check()?;
        let held = self.partial.len();
        let incoming = scratch.incoming();
        if held >= incoming.len() {
            return Err(invalid("a TLS message does not end"));
        }
        incoming[..held].copy_from_slice(&self.partial);
        Ok(&mut incoming[held..])
    }

    /// Decrypts the leftover and the `n` bytes read behind it into `plain`, which must hold
    /// [`INCOMING`] bytes; returns how many bytes of plaintext there are. What must be answered
    /// (a key update, an alert) is [unsent](Self::has_unsent) afterwards.
    ///
    /// # Errors
    /// When the peer breaks the protocol or the record is not authentic.
    pub fn receive(
        &mut self,
        scratch: &mut Scratch,
        n: usize,
        plain: &mut [u8],
    ) -> io::Result<usize> {
        let filled = self.partial.len() + n;
        let incoming = &mut scratch.incoming()[..filled];
        let mut out = 0;
        let (used, outcome) = self.process(incoming, |payload| {
            let room = plain.get_mut(out..out + payload.len());
            room.map(|room| room.copy_from_slice(payload)).ok_or(())?;
            out += payload.len();
            Ok(())
        });
        self.failed = outcome.is_err();
        let left = if self.peer_closed || self.failed { &[][..] } else { &incoming[used..] };
        if left.is_empty() {
            if self.partial.capacity() > 0 {
                self.partial = Vec::new();
            }
        } else {
            self.partial.clear();
            self.partial.extend_from_slice(left);
        }
        outcome.map(|()| out)
    }

    /// Takes ciphertext in; gives plaintext to `sink` and answers to `unsent`. Returns how much of
    /// it was used up.
    fn process(
        &mut self,
        incoming: &mut [u8],
        sink: impl FnMut(&[u8]) -> Result<(), ()>,
    ) -> (usize, io::Result<()>) {
        let Self { side, unsent, peer_closed, .. } = self;
        match side {
            Side::Client(c) => take_in(&mut **c, incoming, unsent, peer_closed, sink),
            Side::Server(s) => take_in(&mut **s, incoming, unsent, peer_closed, sink),
        }
    }

    /// Encrypts of the slices what one write may carry; returns how much plaintext that is. The
    /// ciphertext is in the scratch.
    fn encrypt(&mut self, slices: &[IoSlice<'_>], scratch: &mut Scratch) -> io::Result<usize> {
        self.check()?;
        let Scratch { gathered, outgoing, end, .. } = scratch;
        let mut taken = 0;
        *end = 0;
        gathered.clear();
        for slice in slices {
            let mut rest: &[u8] = &slice[..slice.len().min(FLIGHT - taken)];
            taken += rest.len();
            while !rest.is_empty() {
                if gathered.is_empty() && rest.len() >= RECORD {
                    // Whole records need no copy: rustls cuts them itself.
                    let whole = rest.len() - rest.len() % RECORD;
                    self.seal(&rest[..whole], outgoing, end)?;
                    rest = &rest[whole..];
                    continue;
                }
                let n = rest.len().min(RECORD - gathered.len());
                gathered.extend_from_slice(&rest[..n]);
                rest = &rest[n..];
                if gathered.len() == RECORD {
                    self.seal(gathered, outgoing, end)?;
                    gathered.clear();
                }
            }
        }
        if !gathered.is_empty() {
            self.seal(gathered, outgoing, end)?;
        }
        Ok(taken)
    }

    fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>, end: &mut usize) -> io::Result<()> {
        // A leftover must be shown again: rustls has begun to look at it.
        let Self { side, partial, .. } = self;
        match side {
            Side::Client(c) => {
                append(&mut **c, partial, out, end, |w, room| w.encrypt(plain, room))
            }
            Side::Server(s) => {
                append(&mut **s, partial, out, end, |w, room| w.encrypt(plain, room))
            }
        }
    }

    /// Encrypts the slices and hands the ciphertext to `write`, once; what that does not take stays
    /// [unsent](Self::has_unsent). Nothing must be unsent before. Returns how much plaintext was
    /// taken.
    ///
    /// # Errors
    /// What `write` reports, `WouldBlock` excepted; or that the connection failed.
    pub fn send(
        &mut self,
        slices: &[IoSlice<'_>],
        scratch: &mut Scratch,
        write: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        debug_assert!(self.unsent.is_empty());
        let taken = self.encrypt(slices, scratch)?;
        self.pass_on(scratch, write)?;
        Ok(taken)
    }

    /// Says goodbye, as [`Self::send`] says data: the peer then knows that nothing was cut off.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_close(
        &mut self,
        scratch: &mut Scratch,
        write: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.check()?;
        let Self { side, partial, .. } = self;
        let Scratch { outgoing: out, end, .. } = scratch;
        *end = 0;
        match side {
            Side::Client(c) => {
                append(&mut **c, partial, out, end, |w, room| w.queue_close_notify(room))
            }
            Side::Server(s) => {
                append(&mut **s, partial, out, end, |w, room| w.queue_close_notify(room))
            }
        }?;
        self.pass_on(scratch, write)
    }

    fn pass_on(
        &mut self,
        scratch: &mut Scratch,
        write: impl FnOnce(&[u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        let outgoing = &scratch.outgoing[..scratch.end];
        if outgoing.is_empty() {
            return Ok(());
        }
        let n = match write(outgoing) {
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
            Err(e) => return Err(e),
        };
        if n < outgoing.len() {
            self.unsent.extend_from_slice(&outgoing[n..]);
        }
        Ok(())
    }

    fn check(&self) -> io::Result<()> {
        if self.failed { Err(invalid("TLS failed before on this connection")) } else { Ok(()) }
    }

    fn is_handshaking(&self) -> bool {
        match &self.side {
            Side::Client(c) => c.is_handshaking(),
            Side::Server(s) => s.is_handshaking(),
        }
    }
}

/// Processes records until more ciphertext is needed. Returns how many bytes were used up.
fn take_in<R: Records>(
    records: &mut R,
    incoming: &mut [u8],
    answers: &mut Vec<u8>,
    peer_closed: &mut bool,
    mut sink: impl FnMut(&[u8]) -> Result<(), ()>,
) -> (usize, io::Result<()>) {
    let mut used = 0;
    loop {
        let UnbufferedStatus { mut discard, state } = records.process(&mut incoming[used..]);
        let mut outcome = Ok(());
        let more = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    match record {
                        Ok(record) => {
                            discard += record.discard;
                            if sink(record.payload).is_err() {
                                outcome = Err(invalid("a record decrypts to more than it held"));
                            }
                        }
                        Err(e) => outcome = Err(failed(e)),
                    }
                }
                true
            }
            Ok(ConnectionState::EncodeTlsData(data)) => {
                let mut end = answers.len();
                encode(data, answers, &mut end);
                true
            }
            // What is in `answers` will be transmitted: that is our promise, not rustls's business.
            Ok(ConnectionState::TransmitTlsData(data)) => {
                data.done();
                true
            }
            Ok(ConnectionState::PeerClosed) => {
                *peer_closed = true;
                true
            }
            Ok(ConnectionState::Closed) => {
                *peer_closed = true;
                false
            }
            Ok(ConnectionState::WriteTraffic(_) | ConnectionState::BlockedHandshake) => false,
            // Early data is never allowed by our configurations.
            Ok(_) => {
                outcome = Err(invalid("TLS early data was not asked for"));
                false
            }
            Err(e) => {
                used += discard;
                alert(records, &mut incoming[used..], answers);
                return (used, Err(failed(e)));
            }
        };
        used += discard;
        if outcome.is_err() || !more {
            return (used, outcome);
        }
    }
}

/// After a failure: takes the alert that tells the peer of it, if there is one. What is left must be
/// shown again, as rustls remembers where in it the messages lie that it has not looked at yet; and
/// only once, as it would look at the bad one again.
fn alert<R: Records>(records: &mut R, left: &mut [u8], answers: &mut Vec<u8>) {
    if let Ok(ConnectionState::EncodeTlsData(data)) = records.process(left).state {
        let mut end = answers.len();
        encode(data, answers, &mut end);
    }
}

/// Lets `make` append to `out[..end]`, behind whatever must be sent first.
fn append<R: Records>(
    records: &mut R,
    partial: &mut [u8],
    out: &mut Vec<u8>,
    end: &mut usize,
    mut make: impl FnMut(&mut WriteTraffic<'_, R::Data>, &mut [u8]) -> Result<usize, EncryptError>,
) -> io::Result<()> {
    loop {
        match records.process(partial).state.map_err(failed)? {
            ConnectionState::EncodeTlsData(data) => encode(data, out, end),
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::WriteTraffic(mut traffic) => loop {
                if out.len() < *end + RECORD + OVERHEAD {
                    out.resize(*end + RECORD + OVERHEAD, 0);
                }
                match make(&mut traffic, &mut out[*end..]) {
                    Ok(n) => {
                        *end += n;
                        return Ok(());
                    }
                    Err(EncryptError::InsufficientSize(size)) => {
                        out.resize(*end + size.required_size, 0);
                    }
                    Err(e @ EncryptError::EncryptExhausted) => return Err(io::Error::other(e)),
                }
            },
            // It has been told by the read side already.
            ConnectionState::PeerClosed => {}
            state => return Err(invalid(&format!("TLS cannot send now ({state:?})"))),
        }
    }
}

/// Puts a message of rustls's own behind `into[..end]`.
fn encode<D>(mut data: EncodeTlsData<'_, D>, into: &mut Vec<u8>, end: &mut usize) {
    if let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) {
        if into.len() < *end + size.required_size {
            into.resize(*end + size.required_size, 0);
        }
        // Cannot fail: it has the room it asked for.
        *end += data.encode(&mut into[*end..]).unwrap_or(0);
    }
}

fn failed(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests;
