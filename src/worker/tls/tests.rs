use std::io::IoSlice;
use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::AsyncReadExt as _;

use super::*;
use crate::upstream::tls::provider;

fn configs(version: &'static SupportedProtocolVersion) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let made = rcgen::generate_simple_self_signed(vec!["node.test".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (Arc::new(client), Arc::new(server))
}

/// Both ends, and what the server said behind its handshake: tickets, which the client has not read.
async fn pair(version: &'static SupportedProtocolVersion, cut: usize) -> (Engine, Engine, Wire) {
    let (client, server) = configs(version);
    // A pipe so narrow that messages of the handshake arrive in pieces.
    let (mut near, mut far) = tokio::io::duplex(cut);
    let name = ServerName::try_from("node.test").unwrap();
    let client = async {
        let engine = handshake::connect(&mut near, client, name).await.unwrap();
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        (engine, rest)
    };
    let server = async move { handshake::accept(&mut far, server).await.unwrap() };
    let ((near, rest), far) = tokio::join!(client, server);
    (near, far, Wire(rest))
}

/// One direction between two engines, which a test cuts and merges as it likes.
#[derive(Default)]
struct Wire(Vec<u8>);

impl Wire {
    /// Takes at most `n` bytes, as a socket does that is nearly full.
    fn take(&mut self, bytes: &[u8], n: usize) -> io::Result<usize> {
        let n = n.min(bytes.len());
        self.0.extend_from_slice(&bytes[..n]);
        if n == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
    }
}

fn deliver(wire: &mut Wire, n: usize, to: &mut Engine, scratch: &mut Scratch) -> Vec<u8> {
    let room = to.room(scratch).unwrap();
    let n = n.min(wire.0.len()).min(room.len());
    room[..n].copy_from_slice(&wire.0[..n]);
    wire.0.drain(..n);
    let mut plain = vec![0; INCOMING];
    let got = to.receive(scratch, n, &mut plain).unwrap();
    plain.truncate(got);
    plain
}

fn flush(engine: &mut Engine, wire: &mut Wire, n: usize) {
    let n = n.min(engine.unsent().len());
    wire.0.extend_from_slice(&engine.unsent()[..n]);
    engine.sent(n);
}

fn run(version: &'static SupportedProtocolVersion, steps: &[(u8, usize)]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mut near, mut far, mut back) = runtime.block_on(pair(version, 700));
    let mut scratch = Scratch::default();
    let mut there = Wire::default();
    let (mut said, mut heard) = (Vec::new(), Vec::new());
    let mut early = vec![0; INCOMING];
    let mut answered = 0;
    let mut heard_back = near.take_early(&mut early);
    let send =
        |engine: &mut Engine, wire: &mut Wire, data: &[u8], room: usize, scratch: &mut Scratch| {
            let (a, b) = data.split_at(data.len() / 3);
            let slices = [IoSlice::new(a), IoSlice::new(b)];
            engine.send(&slices, scratch, |bytes| wire.take(bytes, room)).unwrap()
        };
    for (i, &(op, n)) in steps.iter().enumerate() {
        match op {
            0 | 1 if !near.has_unsent() => {
                let data: Vec<u8> = (0..n).map(|j| (i * 31 + j * 7) as u8).collect();
                let room = if op == 0 { usize::MAX } else { n / 2 };
                let taken = send(&mut near, &mut there, &data, room, &mut scratch);
                assert!(taken > 0 || data.is_empty());
                said.extend_from_slice(&data[..taken]);
            }
            2 if !far.has_unsent() => {
                answered += send(&mut far, &mut back, &vec![9; n], usize::MAX, &mut scratch);
            }
            3 => {
                flush(&mut near, &mut there, n);
                flush(&mut far, &mut back, n);
            }
            4 => heard_back += deliver(&mut back, n, &mut near, &mut scratch).len(),
            _ => heard.extend(deliver(&mut there, n, &mut far, &mut scratch)),
        }
    }
    flush(&mut near, &mut there, usize::MAX);
    flush(&mut far, &mut back, usize::MAX);
    near.send_close(&mut scratch, |bytes| there.take(bytes, usize::MAX)).unwrap();
    while !there.0.is_empty() {
        heard.extend(deliver(&mut there, usize::MAX, &mut far, &mut scratch));
    }
    while !back.0.is_empty() {
        heard_back += deliver(&mut back, usize::MAX, &mut near, &mut scratch).len();
    }
    assert_eq!(heard, said);
    assert_eq!(heard_back, answered);
    assert!(far.is_at_end() && !near.is_at_end());
    // Idle: nothing is held but rustls's own.
    assert_eq!((far.partial.capacity(), far.unsent.capacity(), far.early.capacity()), (0, 0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// However bytes are cut and merged on the way, and writes stop half way: all that was taken
    /// arrives, once and in order, and the end is told.
    #[test]
    fn what_is_taken_arrives(steps in proptest::collection::vec((0u8..6, 0usize..100_000), 1..40), old: bool) {
        run(if old { &TLS12 } else { &TLS13 }, &steps);
    }
}

#[test]
fn small_pieces_leave_as_one_record() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mut near, _far, _) = runtime.block_on(pair(&TLS13, 64 * 1024));
    let mut scratch = Scratch::default();
    let pieces: Vec<_> = (0..16).map(|_| IoSlice::new(b"*1\r\n$4\r\nPING\r\n")).collect();
    let mut sizes = Vec::new();
    let taken = near.send(&pieces, &mut scratch, |bytes| {
        sizes.push(bytes.len());
        Ok(bytes.len())
    });
    assert_eq!(taken.unwrap(), 16 * 14);
    // One write: the pieces, five bytes of header, one of type, sixteen of seal.
    assert_eq!(sizes, [16 * 14 + 22]);
}

#[test]
fn a_forged_record_ends_the_connection_and_the_peer_is_told() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (mut near, mut far, _) = runtime.block_on(pair(&TLS13, 64 * 1024));
    let (mut scratch, mut wire) = (Scratch::default(), Wire::default());
    near.send(&[IoSlice::new(b"PING\r\n")], &mut scratch, |b| wire.take(b, usize::MAX)).unwrap();
    *wire.0.last_mut().unwrap() ^= 1;
    let room = far.room(&mut scratch).unwrap();
    room[..wire.0.len()].copy_from_slice(&wire.0);
    let mut plain = vec![0; INCOMING];
    assert!(far.receive(&mut scratch, wire.0.len(), &mut plain).is_err());
    assert!(far.has_unsent(), "an alert");
    let unsent = far.unsent().len();
    far.sent(unsent);
    assert!(far.send(&[IoSlice::new(b"x")], &mut scratch, |b| Ok(b.len())).is_err());
}

/// A certificate is refused in the middle of a flight; the messages behind it are not looked at.
#[tokio::test]
async fn a_server_that_is_not_trusted_is_told_so() {
    for version in [&TLS12, &TLS13] {
        let ((client, _), (_, server)) = (configs(version), configs(version));
        // The alert must fit though the server still writes, as it does in a socket's buffer.
        let (mut near, mut far) = tokio::io::duplex(1 << 16);
        let name = ServerName::try_from("node.test").unwrap();
        let client = async move { handshake::connect(&mut near, client, name).await };
        let server = async move { handshake::accept(&mut far, server).await };
        let (near, far) = tokio::join!(client, server);
        let (near, far) = (near.unwrap_err().to_string(), far.unwrap_err().to_string());
        assert!(near.contains("invalid peer certificate"), "{near}");
        assert!(far.contains("received fatal alert"), "{far}");
    }
}
