//! A raw RESP client: sends exactly the bytes it is told and shows exactly the bytes it got.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::resp::{self, Value};

/// How long a test waits for one reply before it calls that a hang.
pub const REPLY_DEADLINE: Duration = Duration::from_secs(30);

/// RESP version a suite speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proto {
    Resp2,
    Resp3,
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    buf: BytesMut,
}

impl Client {
    /// Connects, still in RESP2.
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::try_connect(addr).await.unwrap_or_else(|e| panic!("cannot connect to {addr}: {e}"))
    }

    /// Connects, or says why not.
    pub async fn try_connect(addr: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buf: BytesMut::new() })
    }

    /// Connects and switches to the wanted RESP version.
    pub async fn connect_proto(addr: SocketAddr, proto: Proto) -> Self {
        let mut client = Self::connect(addr).await;
        if proto == Proto::Resp3 {
            let hello = client.cmd(&["HELLO", "3"]).await;
            assert!(matches!(hello, Value::Map(_)), "HELLO 3 answered {hello:?}");
        }
        client
    }

    /// Sends one command and reads one reply.
    pub async fn cmd<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Value {
        self.send(args).await;
        self.read().await
    }

    /// Like [`Self::cmd`], but a closed or silent connection is an `Err`.
    pub async fn try_cmd<A: AsRef<[u8]>>(&mut self, args: &[A]) -> std::io::Result<Value> {
        self.stream.write_all(&resp::encode(args)).await?;
        self.try_read().await
    }

    /// Sends one command.
    pub async fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) {
        self.send_raw(&resp::encode(args)).await;
    }

    /// Sends bytes as they are.
    pub async fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("write to peer");
    }

    /// Sends bytes as they are, or says why not.
    pub async fn try_send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Reads one reply; panics when the peer closes or stays silent.
    pub async fn read(&mut self) -> Value {
        self.try_read().await.expect("a reply")
    }

    /// Reads one reply.
    pub async fn try_read(&mut self) -> std::io::Result<Value> {
        let raw = self.try_read_raw().await?;
        Ok(resp::parse(&raw).expect("well-formed reply").expect("whole reply").0)
    }

    /// Reads one reply as raw bytes.
    pub async fn read_raw(&mut self) -> Vec<u8> {
        self.try_read_raw().await.expect("a reply")
    }

    async fn try_read_raw(&mut self) -> std::io::Result<Vec<u8>> {
        loop {
            let len = resp::frame_len(&self.buf)
                .unwrap_or_else(|e| panic!("{e:?} in {:?}", String::from_utf8_lossy(&self.buf)));
            if let Some(len) = len {
                return Ok(self.buf.split_to(len).to_vec());
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> std::io::Result<()> {
        if self.buf.capacity() - self.buf.len() < 1 << 16 {
            self.buf.reserve(1 << 20);
        }
        match timeout(REPLY_DEADLINE, self.stream.read_buf(&mut self.buf)).await {
            Ok(Ok(0)) => Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(e),
            Err(_) => Err(std::io::Error::new(
                std::io::ErrorKind::TimedOut,
                format!("no whole reply for {REPLY_DEADLINE:?}; have {} bytes", self.buf.len()),
            )),
        }
    }

    /// Sends all commands without waiting and reads as many replies, both at once.
    pub async fn pipeline(&mut self, commands: &[Vec<Vec<u8>>]) -> Vec<Value> {
        let bytes: Vec<u8> = commands.iter().flat_map(|c| resp::encode(c)).collect();
        self.pipeline_raw(&bytes, commands.len()).await
    }

    /// Sends `bytes` and reads `replies` replies, both at once.
    pub async fn pipeline_raw(&mut self, bytes: &[u8], replies: usize) -> Vec<Value> {
        let frames = self.pipeline_frames(bytes, replies).await;
        let whole = |raw: &Vec<u8>| resp::parse(raw).expect("well-formed reply").expect("whole").0;
        frames.iter().map(whole).collect()
    }

    /// Like [`Self::pipeline_raw`], with the replies as the bytes they came in.
    pub async fn pipeline_frames(&mut self, bytes: &[u8], replies: usize) -> Vec<Vec<u8>> {
        let (mut rd, mut wr) = self.stream.split();
        let buf = &mut self.buf;
        let write = async { wr.write_all(bytes).await.expect("write to peer") };
        let read = async {
            let mut got = Vec::with_capacity(replies);
            loop {
                while got.len() < replies {
                    let Some(len) = resp::frame_len(buf).expect("well-formed reply") else {
                        break;
                    };
                    got.push(buf.split_to(len).to_vec());
                }
                if got.len() == replies {
                    return got;
                }
                buf.reserve(1 << 16);
                let n = timeout(REPLY_DEADLINE, rd.read_buf(buf))
                    .await
                    .unwrap_or_else(|_| panic!("hang after {} of {replies} replies", got.len()))
                    .expect("read from peer");
                assert!(n > 0, "peer closed after {} of {replies} replies", got.len());
            }
        };
        tokio::join!(write, read).1
    }

    /// Closes the sending side: the peer sees the end of the stream, replies still arrive.
    pub async fn finish_sending(&mut self) {
        self.stream.shutdown().await.expect("shutdown");
    }

    /// Waits until the peer closes; panics if it sends more bytes instead.
    pub async fn expect_close(&mut self) {
        assert!(self.buf.is_empty(), "unread bytes: {:?}", String::from_utf8_lossy(&self.buf));
        match self.fill().await {
            Err(e) if e.kind() != std::io::ErrorKind::TimedOut => {}
            Err(_) => panic!("the peer did not close the connection"),
            Ok(()) => panic!("expected a close, got {:?}", String::from_utf8_lossy(&self.buf)),
        }
    }

    /// Asserts that nothing at all arrives for `quiet`.
    pub async fn expect_silence(&mut self, quiet: Duration) {
        let read = timeout(quiet, self.stream.read_buf(&mut self.buf)).await;
        assert!(
            read.is_err() && self.buf.is_empty(),
            "expected silence, got {read:?} {:?}",
            String::from_utf8_lossy(&self.buf)
        );
    }

    /// Local address of the connection.
    pub fn local_addr(&self) -> SocketAddr {
        self.stream.local_addr().expect("local address")
    }
}
