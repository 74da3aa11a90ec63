//! Plain commands through the proxy: the answers are byte for byte those of a single redis-server.

use crate::both_protocols;
use crate::support::bed::Bed;
use crate::support::client::{Client, Proto};
use crate::support::resp::Value;
use crate::support::slots::keys_on_shard;
use crate::support::standalone::Standalone;

both_protocols!(
    every_data_type_answers_like_a_single_server,
    keys_and_values_are_binary_safe,
    large_values_pass,
    a_pipeline_over_all_shards_keeps_its_order,
    requests_may_arrive_in_any_pieces,
    inline_commands_work,
    multi_key_commands_with_one_slot_are_routed_by_their_keys,
);

/// Runs the same commands against the proxy and a single server and compares raw replies.
async fn same_answers(proto: Proto, commands: &[&str]) {
    let bed = Bed::start().await;
    let oracle = Standalone::start().await;
    let mut ours = bed.client(proto).await;
    let mut theirs = oracle.connect().await;
    if proto == Proto::Resp3 {
        theirs.cmd(&["HELLO", "3"]).await;
    }
    for line in commands {
        let args: Vec<_> = line.split(' ').map(|a| if a == "''" { "" } else { a }).collect();
        ours.send(&args).await;
        theirs.send(&args).await;
        let (got, wanted) = (ours.read_raw().await, theirs.read_raw().await);
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&wanted), "{line}");
    }
}

async fn every_data_type_answers_like_a_single_server(proto: Proto) {
    same_answers(
        proto,
        &[
            "GET s",
            "SET s v",
            "GET s",
            "SET s '' NX",
            "SET s w XX GET",
            "GETSET s x",
            "APPEND s yz",
            "STRLEN s",
            "SETRANGE s 1 A",
            "GETRANGE s 0 -1",
            "SET empty ''",
            "GET empty",
            "INCR n",
            "INCRBY n 41",
            "INCRBYFLOAT n 0.5",
            "GET n",
            "DECR s",
            "SETBIT bits 7 1",
            "BITCOUNT bits",
            "GETDEL s",
            "EXISTS s",
            "TYPE n",
            "TYPE nothing",
            "EXPIRE n 1000",
            "PERSIST n",
            "TTL n",
            "OBJECT ENCODING n",
            "DEL n",
            "HSET h a 1 b 2",
            "HGET h a",
            "HGETALL h",
            "HMGET h a x b",
            "HINCRBYFLOAT h a 0.5",
            "HDEL h a",
            "HLEN h",
            "HRANDFIELD nothing",
            "HSCAN h 0",
            "RPUSH l 1 2 3",
            "LPUSH l 0",
            "LRANGE l 0 -1",
            "LPOP l 2",
            "LLEN l",
            "LPOS l 3",
            "LINSERT l BEFORE 3 2.5",
            "LINDEX l 9",
            "LSET l 9 x",
            "LRANGE nothing 0 -1",
            "SADD i 3 1 2",
            "SMEMBERS i",
            "SISMEMBER i 2",
            "SMISMEMBER i 2 9",
            "SCARD i",
            "SPOP nothing",
            "ZADD z 1 a 2.5 b inf c",
            "ZSCORE z b",
            "ZRANGE z 0 -1 WITHSCORES",
            "ZINCRBY z 0.5 a",
            "ZRANGEBYSCORE z -inf +inf LIMIT 0 1",
            "ZPOPMIN z",
            "ZMSCORE z b x",
            "ZRANK z c",
            "ZSCORE z none",
            "XADD x 1-1 f v",
            "XADD x 2-1 f w g h",
            "XLEN x",
            "XRANGE x - +",
            "XREAD COUNT 1 STREAMS x 0",
            "XGROUP CREATE x grp 0",
            "XREADGROUP GROUP grp me COUNT 1 STREAMS x >",
            "XACK x grp 1-1",
            "XPENDING x grp",
            "XREAD STREAMS x $",
            "XINFO STREAM nothing",
            "PFADD hll a b c",
            "PFCOUNT hll",
            "GEOADD geo 13.361389 38.115556 p",
            "GEOPOS geo p",
            "GEODIST geo p p km",
            "EVAL return{KEYS[1],ARGV[1]} 1 k arg",
            "EVAL return{1,{2,'x'},false} 1 k",
            "EVAL return(redis.call('SET',KEYS[1],ARGV[1])) 1 evk v",
            "GET evk",
            "EVAL return(redis.error_reply('MYERR,text')) 1 k",
            "EVAL_RO return(redis.call('GET',KEYS[1])) 1 evk",
            "DUMP nothing",
            "SORT l",
            "SORT_RO nothing",
            "LMPOP 1 l LEFT",
            "ZMPOP 1 z MIN",
            "SINTERCARD 1 i",
            "INCR h",
            "LPUSH h x",
            "GET l",
            "GET",
            "GET a b",
            "SET k v BAD",
            "EXPIRE k notanumber",
            "HSET h onlyfield",
            "EVAL return 1",
            "XREAD STREAMS",
        ],
    )
    .await;
}

async fn keys_and_values_are_binary_safe(proto: Proto) {
    let bed = Bed::start().await;
    let mut client = bed.client(proto).await;
    let mut commands = Vec::new();
    let mut wanted = Vec::new();
    for byte in 0..=255u8 {
        for key in [vec![byte], vec![b'k', byte, b'\r', b'\n', byte], vec![b'{', byte, b'}', byte]]
        {
            let value: Vec<u8> = (0..=255).map(|b: u8| b.wrapping_add(byte)).collect();
            commands.push(cmd!["SET", &key, &value]);
            commands.push(cmd!["GET", &key]);
            wanted.push(Value::ok());
            wanted.push(Value::Bulk(value));
        }
    }
    commands.push(cmd!["SET", "", "empty key"]);
    commands.push(cmd!["GET", ""]);
    wanted.extend([Value::ok(), Value::bulk("empty key")]);
    assert_eq!(client.pipeline(&commands).await, wanted);
}

async fn large_values_pass(proto: Proto) {
    let bed = Bed::start().await;
    let mut client = bed.client(proto).await;
    for size in [1 << 20, 64 << 20] {
        let value: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
        let replies = client
            .pipeline(&[
                cmd!["SET", "large", &value],
                cmd!["STRLEN", "large"],
                cmd!["GET", "large"],
                cmd!["GETRANGE", "large", "-3", "-1"],
            ])
            .await;
        assert_eq!(replies[0], Value::ok());
        assert_eq!(replies[1], Value::Int(size));
        assert!(
            replies[2] == Value::Bulk(value.clone()),
            "a value of {size} bytes came back changed"
        );
        assert_eq!(replies[3], Value::Bulk(value[value.len() - 3..].to_vec()));
    }
}

async fn a_pipeline_over_all_shards_keeps_its_order(proto: Proto) {
    let bed = Bed::start().await;
    let mut client = bed.client(proto).await;
    let mut commands = Vec::new();
    let mut wanted = Vec::new();
    for n in 0..2500 {
        let (key, value) = (format!("key:{n}"), format!("value:{n}"));
        commands.push(cmd!["SET", &key, &value]);
        commands.push(cmd!["GET", &key]);
        commands.push(cmd!["ECHO", &value]);
        commands.push(cmd!["GET", format!("absent:{n}")]);
        wanted.extend([Value::ok(), Value::bulk(&value), Value::bulk(&value), Value::Null]);
    }
    assert_eq!(commands.len(), 10_000);
    let got = client.pipeline(&commands).await;
    for (n, (got, wanted)) in got.iter().zip(&wanted).enumerate() {
        assert_eq!(got, wanted, "reply {n}");
    }
    for shard in 0..3 {
        let size = bed.cluster.admin(shard).await.cmd(&["DBSIZE"]).await.int();
        assert!(size > 500, "shard {shard} holds {size} of 2500 keys");
    }
}

async fn requests_may_arrive_in_any_pieces(proto: Proto) {
    let bed = Bed::start().await;
    let mut client = bed.client(proto).await;
    let mut bytes = Vec::new();
    for (n, key) in keys_on_shard(1, 3, 8).iter().enumerate() {
        bytes.extend(crate::support::resp::encode(&cmd!["SET", key, n.to_string()]));
        bytes.extend(crate::support::resp::encode(&cmd!["GET", key]));
    }
    for piece in [1, 2, 3, 7] {
        for chunk in bytes.chunks(piece) {
            client.send_raw(chunk).await;
            // Lets the kernel send it by itself.
            tokio::task::yield_now().await;
        }
        for n in 0..8 {
            assert_eq!(client.read().await, Value::ok());
            assert_eq!(client.read().await, Value::bulk(n.to_string()));
        }
    }
}

async fn inline_commands_work(proto: Proto) {
    let bed = Bed::start().await;
    let mut client = bed.client(proto).await;
    client
        .send_raw(b"PING\r\nSET inline 'a b'\r\nGET inline\n\r\n\r\nSET quoted \"x\\x41\\n\"\r\nGET quoted\r\n")
        .await;
    assert_eq!(client.read().await, Value::Simple("PONG".into()));
    assert_eq!(client.read().await, Value::ok());
    assert_eq!(client.read().await, Value::bulk("a b"));
    assert_eq!(client.read().await, Value::ok());
    assert_eq!(client.read().await, Value::bulk("xA\n"));
    client.send_raw(b"*1\r\n$4\r\nPING\r\n*0\r\n*-1\r\nPING\r\n").await;
    assert_eq!(client.read().await, Value::Simple("PONG".into()));
    assert_eq!(client.read().await, Value::Simple("PONG".into()));
}

async fn multi_key_commands_with_one_slot_are_routed_by_their_keys(proto: Proto) {
    let tag = |shard: usize| keys_on_shard(shard, 3, 1).remove(0);
    let bed = Bed::start().await;
    let mut client = bed.client(proto).await;
    for shard in 0..3 {
        let key = |name: &str| format!("{{{}}}{name}", tag(shard));
        let (a, b, dst) = (key("a"), key("b"), key("dst"));
        assert_eq!(client.cmd(&cmd!["MSET", &a, "1", &b, "2"]).await, Value::ok());
        assert_eq!(
            client.cmd(&["MGET", &a, &b, &dst]).await,
            Value::Array(vec![Value::bulk("1"), Value::bulk("2"), Value::Null])
        );
        assert_eq!(client.cmd(&["BITOP", "OR", &dst, &a, &b]).await, Value::Int(1));
        assert_eq!(client.cmd(&["EXISTS", &a, &b, &dst]).await, Value::Int(3));
        let script = "return redis.call('GET', KEYS[2]) .. ARGV[1]";
        assert_eq!(client.cmd(&["EVAL", script, "2", &a, &b, "!"]).await, Value::bulk("2!"));
        let (list, set) = (key("list"), key("set"));
        client.cmd(&["RPUSH", &list, "2", "1"]).await;
        assert_eq!(client.cmd(&["SORT", &list, "STORE", &set]).await, Value::Int(2));
        let (x, y) = (key("x"), key("y"));
        client.cmd(&["XADD", &x, "1-1", "f", "v"]).await;
        client.cmd(&["XADD", &y, "1-1", "f", "v"]).await;
        let read = client.cmd(&["XREAD", "STREAMS", &x, &y, "0", "0"]).await;
        assert_eq!(read.pairs().len().min(2), if proto == Proto::Resp3 { 2 } else { 1 });
        let (z, zdst) = (key("z"), key("zdst"));
        client.cmd(&["ZADD", &z, "1", "m"]).await;
        assert_eq!(client.cmd(&["ZUNIONSTORE", &zdst, "2", &z, &z]).await, Value::Int(1));
        client.cmd(&["GEOADD", &key("g"), "13.36", "38.11", "p"]).await;
        let geo = client
            .cmd(&["GEORADIUS", &key("g"), "13", "38", "200", "km", "STORE", &key("gdst")])
            .await;
        assert_eq!(geo, Value::Int(1));
        assert_eq!(client.cmd(&["DEL", &a, &b, &dst]).await, Value::Int(3));
    }
    for front in bed.cluster.fronts() {
        assert_eq!(front.seen("MSET"), 1, "one MSET belongs to each shard");
    }
}

#[tokio::test]
async fn a_half_closed_client_still_gets_its_replies() {
    let bed = Bed::start().await;
    let mut client = Client::connect(bed.proxy.addr()).await;
    for n in 0..50 {
        client.send(&["SET", &format!("half:{n}"), "v"]).await;
    }
    client.finish_sending().await;
    for _ in 0..50 {
        assert_eq!(client.read().await, Value::ok());
    }
    client.expect_close().await;
}
