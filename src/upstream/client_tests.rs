use super::*;
use std::time::SystemTime;
use tokio::io::DuplexStream;

fn addr() -> NodeAddr {
    NodeAddr { host: "node.test".into(), port: 6379 }
}

fn credential(secret: &str) -> Credential {
    Credential {
        username: "default".into(),
        secret: Secret::new(secret.to_owned()),
        expires_at: None,
        obtained_at: SystemTime::UNIX_EPOCH,
        generation: 7,
        source: "test",
        principal: None,
    }
}

fn pair() -> (Client, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    (Client::over(addr(), Box::new(ours)), theirs)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

async fn answer(text: &str) -> Result<Value, ClientError> {
    let (mut client, mut server) = pair();
    server.write_all(text.as_bytes()).await.unwrap();
    client.call(&[b"CLUSTER", b"SHARDS"], soon()).await
}

#[tokio::test]
async fn error_replies_are_typed() {
    type Kind = fn(&ClientError) -> bool;
    let cases: [(&str, Kind); 7] = [
        ("-WRONGPASS invalid username-password pair or user is disabled.\r\n", |e| {
            matches!(e, ClientError::WrongPass { .. })
        }),
        ("-NOAUTH Authentication required.\r\n", |e| matches!(e, ClientError::NoAuth { .. })),
        ("-LOADING Redis is loading the dataset in memory\r\n", |e| {
            matches!(e, ClientError::Loading { .. })
        }),
        ("-ERR (ERR_IAM_EXHAUSTED) Memorystore IAM quota exceeded.\r\n", |e| {
            matches!(e, ClientError::IamExhausted { .. })
        }),
        ("-ERR Memorystore: (ERR_IAM_OTHER) backend error. See https://x.\r\n", |e| {
            matches!(e, ClientError::IamOther { .. })
        }),
        ("-NOPERM no\r\n", |e| {
            matches!(e, ClientError::Server { text, command, .. }
                if text == "NOPERM no" && command == "CLUSTER SHARDS")
        }),
        ("HTTP/1.1 400 Bad Request\r\n", |e| matches!(e, ClientError::Protocol { .. })),
    ];
    for (wire, matches) in cases {
        let error = answer(wire).await.unwrap_err();
        assert!(matches(&error), "{wire}: {error:?}");
        assert!(error.to_string().contains("node.test:6379"), "{error}");
    }
    assert_eq!(answer("+OK\r\n").await, Ok(Value::Simple(b"OK".to_vec())));
}

#[tokio::test]
async fn auth_sends_user_and_secret_and_remembers_the_generation() {
    let (mut client, mut server) = pair();
    server.write_all(b"+OK\r\n").await.unwrap();
    client.authenticate(&credential("ya29.secret"), soon()).await.unwrap();
    assert_eq!(client.generation(), Some(7));
    let mut got = vec![0; 128];
    let n = server.read(&mut got).await.unwrap();
    assert_eq!(&got[..n], b"*3\r\n$4\r\nAUTH\r\n$7\r\ndefault\r\n$11\r\nya29.secret\r\n");
    assert!(!format!("{client:?}").contains("ya29"));
}

#[tokio::test]
async fn an_error_never_repeats_the_secret() {
    for reply in [
        "-ERR unknown command 'AUTH', with args beginning with: 'default' 'ya29.sec\r\n",
        "-ERR bad token ya29.secret\r\n",
    ] {
        let (mut client, mut server) = pair();
        server.write_all(reply.as_bytes()).await.unwrap();
        let error = client.authenticate(&credential("ya29.secret"), soon()).await.unwrap_err();
        assert!(!format!("{error:?} {error}").contains("ya29"), "{error}");
        assert!(client.is_usable());
    }
}

#[tokio::test]
async fn a_missed_deadline_ends_the_client() {
    let (mut client, mut server) = pair();
    let passed = Instant::now() + Duration::from_millis(20);
    let error = client.call(&[b"PING"], passed).await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    // The late reply must not answer the next request.
    server.write_all(b"+PONG\r\n").await.unwrap();
    let error = client.call(&[b"DBSIZE"], soon()).await.unwrap_err();
    assert!(error.is_closed(), "{error}");
    assert!(!client.is_usable());
}

#[tokio::test]
async fn unasked_bytes_and_closes_end_the_client() {
    let (mut client, mut server) = pair();
    server.write_all(b"+PONG\r\n+MORE\r\n").await.unwrap();
    client.call(&[b"PING"], soon()).await.unwrap();
    let error = client.call(&[b"PING"], soon()).await.unwrap_err();
    assert!(matches!(error, ClientError::Protocol { .. }), "{error}");

    let (mut client, server) = pair();
    drop(server);
    assert!(client.call(&[b"PING"], soon()).await.unwrap_err().is_closed());
}
