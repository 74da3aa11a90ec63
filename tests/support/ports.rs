//! Ports for servers that cannot be told "any": outside the kernel's ephemeral range, so that no
//! outgoing connection of a parallel test takes one between the asking and the binding.
//!
//! A clash with another test process is still possible; whoever starts a server on such a port
//! retries with new ones.

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::Mutex;

static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);

/// A loopback TCP port that is free now and was not given out by this process before.
pub fn free_port() -> u16 {
    for _ in 0..10_000 {
        let port = fastrand::u16(10_000..32_000);
        let mut given = GIVEN.lock().unwrap_or_else(|e| e.into_inner());
        if given.get_or_insert_default().insert(port)
            && TcpListener::bind(("127.0.0.1", port)).is_ok()
        {
            return port;
        }
    }
    panic!("no free loopback port between 10000 and 32000");
}
