//! Broken requests get redis-server's own words, then the connection closes; nobody else notices.

use crate::support::bed::Bed;
use crate::support::client::{Client, Proto};
use crate::support::resp::Value;
use crate::support::standalone::Standalone;

/// Everything the peer says until it closes.
async fn until_close(client: &mut Client) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        match client.try_read().await {
            Ok(Value::Error(text)) => all.extend_from_slice(format!("-{text}\n").as_bytes()),
            Ok(other) => all.extend_from_slice(format!("{other:?}\n").as_bytes()),
            Err(e) if e.kind() == std::io::ErrorKind::TimedOut => {
                all.extend_from_slice(b"(stays open)");
                return all;
            }
            Err(_) => {
                all.extend_from_slice(b"(closed)");
                return all;
            }
        }
    }
}

#[tokio::test]
async fn broken_frames_are_answered_like_redis_does_and_cost_only_their_own_connection() {
    let bed = Bed::start().await;
    let oracle = Standalone::start().await;
    let mut bystander = bed.client(Proto::Resp2).await;
    let too_long_inline = vec![b'x'; 70_000];
    let mut too_long_count = b"*".to_vec();
    too_long_count.extend(vec![b'1'; 70_000]);
    let mut too_long_length = b"*1\r\n$".to_vec();
    too_long_length.extend(vec![b'1'; 70_000]);
    let cases: [&[u8]; 18] = [
        b"*abc\r\n",
        b"*3000000000\r\n",
        b"*1\r\n:1\r\n",
        b"*1\r\nGET\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$abc\r\n",
        b"*1\r\n$99999999999\r\n",
        b"*2\r\n$3\r\nGET\r\n+k\r\n",
        b"*1\r\n$4 \r\nPING\r\n",
        b"*1 \r\n$4\r\nPING\r\n",
        // Found by fuzzing: they once went to a node, which closed the connection that others share.
        b"*01\r\n$4\r\nPING\r\n",
        b"*1\r\n$04\r\nPING\r\n",
        b"*1\r\n$-0\r\n\r\n",
        b"PING \"unbalanced\r\n",
        b"SET k 'v'x\r\n",
        &too_long_inline,
        &too_long_count,
        &too_long_length,
    ];
    for case in cases {
        let shown = String::from_utf8_lossy(&case[..case.len().min(40)]).into_owned();
        let mut ours = Client::connect(bed.proxy.addr()).await;
        let mut theirs = oracle.connect().await;
        // What came before a broken frame is answered first.
        for client in [&mut ours, &mut theirs] {
            client.send_raw(b"ECHO first\r\n").await;
            client.send_raw(case).await;
        }
        let wanted = String::from_utf8(until_close(&mut theirs).await).expect("text");
        let got = String::from_utf8(until_close(&mut ours).await).expect("text");
        assert!(wanted.contains("Protocol error"), "the oracle accepts {shown:?}: {wanted}");
        assert_eq!(got, wanted, "for {shown:?}");
        assert_eq!(bystander.cmd(&["PING"]).await, Value::Simple("PONG".into()));
    }
}

#[tokio::test]
async fn wrong_commands_get_the_words_of_redis() {
    let bed = Bed::start().await;
    let oracle = Standalone::start().await;
    let mut ours = bed.client(Proto::Resp2).await;
    let mut theirs = oracle.connect().await;
    for line in [
        "NOSUCHCOMMAND",
        "nosuchcommand a b",
        "GET",
        "GET a b",
        "SET a",
        "MSET a",
        "HSET h f",
        "XADD",
        "ECHO",
        "ECHO a b",
        "PING a b",
        "SELECT",
        "SELECT x",
        "CLIENT",
        "CLIENT NOSUCH",
        "CLIENT SETNAME",
        "OBJECT NOSUCH k",
        "XGROUP NOSUCH k",
        "HELLO 3 AUTH x",
        "EVAL",
        "EVAL x notanumber k",
    ] {
        let args: Vec<_> = line.split(' ').collect();
        let wanted = theirs.cmd(&args).await;
        assert!(matches!(wanted, Value::Error(_)), "the oracle accepts {line:?}: {wanted:?}");
        assert_eq!(ours.cmd(&args).await, wanted, "{line}");
    }
}

#[tokio::test]
async fn keys_of_several_slots_get_an_error_or_a_whole_answer_never_part_of_one() {
    let bed = Bed::start().await;
    let mut client = bed.client(Proto::Resp2).await;
    for command in [
        cmd!["SINTER", "a", "b", "c"],
        cmd!["EVAL", "return 1", "2", "a", "b"],
        cmd!["RENAME", "a", "b"],
        cmd!["ZUNIONSTORE", "z", "2", "a", "b"],
        cmd!["XREAD", "STREAMS", "a", "b", "0", "0"],
        cmd!["BITOP", "AND", "d", "a", "b"],
        cmd!["SORT", "a", "STORE", "b"],
        cmd!["MSETNX", "a", "1", "b", "2"],
    ] {
        let reply = client.cmd(&command).await;
        assert_eq!(
            reply,
            Value::Error("CROSSSLOT Keys in request don't hash to the same slot".into()),
            "{}",
            String::from_utf8_lossy(&command[0])
        );
    }
    assert_eq!(client.cmd(&["EXISTS", "a"]).await, Value::Int(0), "nothing was written");
}
