//! MULTI … EXEC: commands are gathered here and sent as one block when EXEC comes.
//!
//! The block (MULTI, the commands, EXEC) goes down the shared pipe in one piece, so no connection is
//! leased for it, nothing stands open on a node when a client vanishes, and a MOVED at any point
//! means that nothing ran and the whole block can be sent to the new owner. (The starting design
//! leased a connection for a MULTI that arrives piecemeal; with the block there is no need.) The
//! price: `+QUEUED` is said by the proxy, after the checks a server makes on names, numbers of
//! arguments and slots; what a server refuses beyond that (memory, permissions) shows as EXECABORT
//! at EXEC instead of at the command. What the proxy answers itself (SELECT, CLIENT SETNAME …) is
//! not part of the block: its answers are put between the node's. Invariant: all keys of a block lie
//! in one slot.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use bytes::Bytes;

use crate::resp::request::Request;

use super::window::NO_SLOT;

const MULTI: &[u8] = b"*1\r\n$5\r\nMULTI\r\n";
const EXEC: &[u8] = b"*1\r\n$4\r\nEXEC\r\n";

/// A command of a transaction that the proxy answers itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// Its place among all commands of the transaction.
    pub at: u32,
    /// The request.
    pub frame: Bytes,
}

/// A transaction a session has begun.
#[derive(Debug)]
pub struct Transaction {
    frames: Vec<u8>,
    commands: u32,
    own: Vec<Own>,
    own_bytes: usize,
    scripts: Vec<Bytes>,
    slot: u16,
    /// A command was refused while queueing: EXEC will answer EXECABORT.
    failed: bool,
    /// It changes the database of its connection, perhaps.
    selects: bool,
}

/// A transaction ready to be sent.
#[derive(Debug)]
pub struct Block {
    /// MULTI, the commands, EXEC.
    pub frame: Bytes,
    /// What the proxy answers itself.
    pub own: Vec<Own>,
    /// Digests of the scripts it runs.
    pub scripts: Vec<Bytes>,
    /// Replies it will bring; the last is EXEC's.
    pub replies: u32,
    /// Its slot, or `NO_SLOT`.
    pub slot: u16,
}

impl Default for Transaction {
    fn default() -> Self {
        Self {
            frames: MULTI.to_vec(),
            commands: 0,
            own: Vec::new(),
            own_bytes: 0,
            scripts: Vec::new(),
            slot: NO_SLOT,
            failed: false,
            selects: false,
        }
    }
}

impl Transaction {
    /// Queues a command of `slot`. False: its slot is not that of the transaction.
    pub fn queue(&mut self, slot: u16, request: &Request<'_>) -> bool {
        if slot != NO_SLOT {
            if self.slot != NO_SLOT && self.slot != slot {
                self.failed = true;
                return false;
            }
            self.slot = slot;
        }
        self.commands += 1;
        self.frames.extend_from_slice(request.frame);
        true
    }

    /// Queues a command that the proxy answers itself; see [`Transaction::has_own`].
    pub fn queue_own(&mut self, request: &Request<'_>) {
        self.own.push(Own { at: self.commands, frame: request.to_bytes() });
        self.own_bytes += request.frame.len();
        self.commands += 1;
    }

    /// Notes that a script is run by its digest.
    pub fn runs_script(&mut self, digest: &[u8]) {
        self.scripts.push(Bytes::copy_from_slice(digest));
    }

    /// True when there is such a command.
    pub fn has_own(&self) -> bool {
        !self.own.is_empty()
    }

    /// A SELECT was queued for the server.
    pub fn note_select(&mut self) {
        self.selects = true;
    }

    /// True when there is a SELECT for the server.
    pub fn selects(&self) -> bool {
        self.selects
    }

    /// A command was refused while queueing.
    pub fn fail(&mut self) {
        self.failed = true;
    }

    /// True when EXEC must answer EXECABORT.
    pub fn has_failed(&self) -> bool {
        self.failed
    }

    /// What was gathered, MULTI included.
    pub fn frames(&self) -> &[u8] {
        &self.frames
    }

    /// Slot of its keys, or `NO_SLOT`.
    pub fn slot(&self) -> u16 {
        self.slot
    }

    /// Commands queued.
    pub fn commands(&self) -> u32 {
        self.commands
    }

    /// Bytes gathered.
    pub fn len(&self) -> usize {
        self.frames.len() + self.own_bytes
    }

    /// True when no command was queued.
    pub fn is_empty(&self) -> bool {
        self.commands == 0
    }

    /// The block to send.
    pub fn into_block(mut self) -> Block {
        self.frames.extend_from_slice(EXEC);
        let replies = self.commands - self.own.len() as u32 + 2;
        let (own, scripts) = (self.own, self.scripts);
        Block { frame: self.frames.into(), own, scripts, replies, slot: self.slot }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::encode;
    use crate::resp::request::fill_args;

    #[test]
    fn gathers_one_slot_into_one_block() {
        let mut t = Transaction::default();
        let mut frame = Vec::new();
        encode::command(&mut frame, &["SET", "a", "1"]);
        let mut args = Vec::new();
        fill_args(&frame, &mut args);
        let request = Request::new(&frame, None, &args);
        assert!(t.queue(7, &request));
        assert!(t.queue(NO_SLOT, &request));
        assert!(!t.queue(8, &request));
        assert!(t.has_failed());
        let block = t.into_block();
        assert_eq!((block.slot, block.replies), (7, 4));
        assert!(block.frame.starts_with(MULTI) && block.frame.ends_with(EXEC));
    }
}
