use proptest::prelude::*;

use super::*;
use crate::resp::value::Decoder;

fn asked() -> NodeAddr {
    node("seed.test", 6379)
}

fn node(host: &str, port: u16) -> NodeAddr {
    NodeAddr { host: host.into(), port }
}

/// RESP from words: `$text` is a bulk string (`$` alone the empty one), `nil` a null bulk, the rest
/// is a line as it stands.
fn reply(words: &str) -> Value {
    let mut wire = String::new();
    for word in words.split_whitespace() {
        match (word, word.strip_prefix('$')) {
            ("nil", _) => wire.push_str("$-1\r\n"),
            (_, Some(text)) => wire.push_str(&format!("${}\r\n{text}\r\n", text.len())),
            (line, None) => wire.push_str(&format!("{line}\r\n")),
        }
    }
    let (value, len) = Decoder::default().decode(wire.as_bytes()).unwrap().unwrap();
    assert_eq!(len, wire.len(), "the fixture is one reply");
    value
}

fn shards(words: &str) -> Result<SlotMap, DiscoveryError> {
    parse_shards(&reply(words), &asked(), false)
}

fn owners(map: &SlotMap) -> Vec<String> {
    map.shards.iter().map(|s| s.primary.to_string()).collect()
}

/// One-node CLUSTER SHARDS reply with these fields before role and health.
fn one_node(fields: &str) -> String {
    let count = 2 * (fields.split_whitespace().count() / 2) + 4;
    format!("*1 *4 $slots *2 :0 :16383 $nodes *1 *{count} {fields} $role $master $health $online")
}

// Recorded from redis-server 7.0.15.
const LONELY_7_0: &str = "*1 *4 $slots *4 :0 :5460 :8000 :16383 $nodes *1 *14 $id $2413f6 $port \
    :17101 $ip $ $endpoint $ $role $master $replication-offset :0 $health $online";
const LONELY_7_0_SLOTS: &str = "*2 *3 :0 :5460 *4 $ :17101 $2413f6 *0 *3 :8000 :16383 *4 $ :17101 \
    $2413f6 *0";
const RESP3_7_0: &str = "*1 %2 $slots *4 :0 :5460 :8000 :16383 $nodes *2 %7 $id $2413f6 $port \
    :17101 $ip $127.0.0.1 $endpoint $127.0.0.1 $role $master $replication-offset :0 $health $online \
    %7 $id $6e278e $port :17102 $ip $127.0.0.1 $endpoint $127.0.0.1 $role $replica \
    $replication-offset :0 $health $online";
const UNKNOWN_ENDPOINT_7_0: &str = "*1 *4 $slots *2 :0 :16383 $nodes *1 *14 $id $2413f6 $port \
    :17101 $ip $127.0.0.1 $endpoint $ $role $master $replication-offset :0 $health $online";
const UNKNOWN_ENDPOINT_7_0_SLOTS: &str = "*1 *3 :0 :16383 *4 nil :17101 $2413f6 *2 $ip $127.0.0.1";
const NO_HOSTNAME_7_0_SLOTS: &str = "*1 *3 :0 :16383 *4 $? :17101 $2413f6 *2 $ip $127.0.0.1";
// Shaped as Redis 7.2 and Valkey write it: shard ids group a failed primary with its successor, and
// shards without slots are listed.
const FAILED_OVER_7_2: &str = "*3 \
    *4 $slots *0 $nodes *1 *14 $id $c $port :7003 $ip $10.0.0.3 $endpoint $10.0.0.3 $role $master \
        $replication-offset :0 $health $online \
    *4 $slots *2 :8192 :16383 $nodes *1 *14 $id $b $port :7002 $ip $10.0.0.2 $endpoint $10.0.0.2 \
        $role $master $replication-offset :9 $health $online \
    *4 $slots *2 :0 :8191 $nodes *3 *14 $id $a $port :7001 $ip $10.0.0.1 $endpoint $10.0.0.1 $role \
        $master $replication-offset :7 $health $fail *14 $id $d $port :7004 $ip $10.0.0.4 $endpoint \
        $10.0.0.4 $role $master $replication-offset :8 $health $online *14 $id $e $port :7005 $ip \
        $10.0.0.5 $endpoint $10.0.0.5 $role $replica $replication-offset :8 $health $loading";

#[test]
fn shards_and_slots_of_one_node_agree() {
    let a = shards(LONELY_7_0).unwrap();
    let b = parse_slots(&reply(LONELY_7_0_SLOTS), &asked()).unwrap();
    assert_eq!(a, b);
    assert_eq!(a.mode, Mode::Cluster);
    assert_eq!(a.owner(0), Some(&node("seed.test", 17101)));
    assert_eq!((a.owner(5461), a.owner(7999)), (None, None));
    assert_eq!(a.slots_covered(), 5461 + 8384);
    let topology = a.clone().into_topology(3);
    assert_eq!(topology.epoch, 3);
    assert!(b.same_as(&topology));
}

#[test]
fn resp3_maps_are_read() {
    let map = shards(RESP3_7_0).unwrap();
    assert_eq!(owners(&map), ["127.0.0.1:17101"]);
    assert_eq!(map.shards[0].replicas, [node("127.0.0.1", 17102)]);
}

#[test]
fn unknown_endpoints_mean_the_host_that_was_asked() {
    for map in [
        shards(UNKNOWN_ENDPOINT_7_0).unwrap(),
        parse_slots(&reply(UNKNOWN_ENDPOINT_7_0_SLOTS), &asked()).unwrap(),
        shards(&one_node("$port :17101 $endpoint nil $ip $10.0.0.9")).unwrap(),
        shards(&one_node("$port :17101 $endpoint $?")).unwrap(),
        shards(&one_node("$port :17101 $ip $")).unwrap(),
    ] {
        assert_eq!(owners(&map), ["seed.test:17101"]);
    }
}

#[test]
fn a_node_without_its_preferred_name_is_reached_by_ip() {
    let by_slots = parse_slots(&reply(NO_HOSTNAME_7_0_SLOTS), &asked()).unwrap();
    let by_shards = shards(&one_node("$port :17101 $endpoint $? $ip $127.0.0.1")).unwrap();
    assert_eq!(owners(&by_slots), ["127.0.0.1:17101"]);
    assert_eq!(by_slots, by_shards);
}

#[test]
fn endpoint_counts_before_ip_and_ip_before_hostname() {
    let cases = [
        ("$port :1 $ip $10.0.0.1 $endpoint $n1.example $hostname $x", "n1.example:1"),
        ("$port :1 $hostname $n1 $ip $10.0.0.1", "10.0.0.1:1"),
        ("$port :1 $hostname $n1.example", "n1.example:1"),
        ("$port :1 $endpoint $fd00::1", "[fd00::1]:1"),
        ("$port :1 $endpoint $[fd00::1]", "[fd00::1]:1"),
        ("$port $1 $endpoint $h", "h:1"),
    ];
    for (fields, expected) in cases {
        assert_eq!(owners(&shards(&one_node(fields)).unwrap()), [expected], "{fields}");
    }
}

#[test]
fn the_port_follows_the_preference_and_what_there_is() {
    let both = one_node("$port :6379 $tls-port :6380 $endpoint $h");
    let tls_only = one_node("$tls-port :6380 $endpoint $h");
    let plain_only = one_node("$port :6379 $tls-port :0 $endpoint $h");
    for (fields, prefer_tls, expected) in [
        (&both, false, "h:6379"),
        (&both, true, "h:6380"),
        (&tls_only, false, "h:6380"),
        (&plain_only, true, "h:6379"),
    ] {
        let map = parse_shards(&reply(fields), &asked(), prefer_tls).unwrap();
        assert_eq!(owners(&map), [expected], "{fields}");
    }
    assert_eq!(
        shards(&one_node("$endpoint $h $ip $1")).unwrap_err(),
        malformed("the port of a node")
    );
}

#[test]
fn failed_nodes_yield_to_healthy_ones_and_empty_shards_are_dropped() {
    let map = shards(FAILED_OVER_7_2).unwrap();
    assert_eq!(owners(&map), ["10.0.0.4:7004", "10.0.0.2:7002"]);
    assert_eq!(map.shards[0].replicas, [], "a loading replica is not used");
    assert_eq!(map.owner(8191).unwrap().port, 7004);
    assert_eq!(map.owner(8192).unwrap().port, 7002);
}

#[test]
fn a_failed_primary_without_successor_keeps_its_slots() {
    let words = one_node("$port :7001 $endpoint $h").replace("$online", "$fail");
    assert_eq!(owners(&shards(&words).unwrap()), ["h:7001"]);
    let only_replicas = one_node("$port :7001 $endpoint $h").replace("$master", "$replica");
    assert_eq!(shards(&only_replicas).unwrap_err(), DiscoveryError::NoSlots);
}

#[test]
fn slots_ranges_of_one_primary_are_one_shard() {
    let map = parse_slots(
        &reply(
            "*3 *4 :100 :16383 *3 $10.0.0.2 :7 $b *2 $10.0.0.3 :7 *4 :0 :9 *2 $10.0.0.1 :7 *2 \
             $10.0.0.3 :7 *3 :10 :99 *2 $10.0.0.2 :7",
        ),
        &asked(),
    )
    .unwrap();
    assert_eq!(owners(&map), ["10.0.0.1:7", "10.0.0.2:7"]);
    assert_eq!(map.shards[1].replicas, [node("10.0.0.3", 7)]);
    assert_eq!(map.slots_covered(), SLOTS);
}

#[test]
fn garbage_is_an_error() {
    let overlap = "*2 *3 :0 :9 *2 $a :1 *3 :9 :20 *2 $b :1";
    assert_eq!(
        parse_slots(&reply(overlap), &asked()).unwrap_err(),
        DiscoveryError::Overlap { slot: 9 }
    );
    for slots in [
        "*1 *3 :9 :0 *2 $a :1",
        "*1 *3 :0 :16384 *2 $a :1",
        "*1 *3 :-1 :1 *2 $a :1",
        "*1 *2 :0 :1",
        "*1 *3 :0 :1 *2 $a :0",
        "*1 *3 :0 :1 *2 $a :65536",
        "*1 *3 :0 :1 *2 :5 :1",
        "*1 *3 :0 :1 *2 $a/b :1",
        "*1 *3 $x :1 *2 $a :1",
        "+OK",
    ] {
        assert!(
            matches!(parse_slots(&reply(slots), &asked()), Err(DiscoveryError::Malformed { .. })),
            "{slots}"
        );
    }
    for words in [
        "+OK",
        "*1 *0",
        "*1 *2 $slots *2 :0 :1",
        "*1 *4 $slots *1 :0 $nodes *0",
        "*1 *4 $slots *2 :0 :1 $nodes *1 *0",
    ] {
        assert!(matches!(shards(words), Err(DiscoveryError::Malformed { .. })), "{words}");
    }
    assert_eq!(shards("*0").unwrap_err(), DiscoveryError::NoSlots);
    let slotless = LONELY_7_0.replace("*4 :0 :5460 :8000 :16383", "*0");
    assert_eq!(shards(&slotless).unwrap_err(), DiscoveryError::NoSlots);
}

#[test]
fn servers_without_cluster_are_recognised() {
    for text in [
        "ERR This instance has cluster support disabled",
        "ERR unknown command 'CLUSTER', with args beginning with: 'SHARDS' ",
        "ERR unknown command `CLUSTER`, with args beginning with: `SHARDS`, ",
        "NOPERM this user has no permissions to run the 'cluster|shards' command",
    ] {
        assert!(says_no_cluster(text), "{text}");
    }
    for text in ["ERR unknown subcommand 'SHARDS'. Try CLUSTER HELP.", "CLUSTERDOWN Hash slot"] {
        assert!(!says_no_cluster(text), "{text}");
    }
    let map = SlotMap::standalone(&asked());
    assert_eq!((map.owner(0), map.owner(16383)), (Some(&asked()), Some(&asked())));
    assert_eq!(map.slots_covered(), SLOTS);
}

const WORDS: &[&str] = &[
    "slots", "nodes", "port", "tls-port", "ip", "endpoint", "hostname", "role", "master",
    "replica", "health", "online", "fail", "?", "", "10.0.0.1", "h", "17",
];

/// Values that look like cluster replies often enough to reach every branch.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        (-2i64..20).prop_map(Value::Int),
        prop_oneof![Just(16383i64), Just(16384), Just(65536), Just(i64::MIN)].prop_map(Value::Int),
        proptest::sample::select(WORDS).prop_map(|w| Value::Bulk(w.into())),
        proptest::collection::vec(any::<u8>(), 0..5).prop_map(Value::Simple),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
            proptest::collection::vec((inner.clone(), inner), 0..5).prop_map(Value::Map),
        ]
    })
}

fn check(map: &SlotMap) -> Result<(), TestCaseError> {
    let mut owned = vec![0usize; map.shards.len()];
    for &slot in map.slots.iter().filter(|&&s| s != UNASSIGNED) {
        owned[usize::from(slot)] += 1;
    }
    prop_assert!(owned.iter().all(|&n| n > 0), "a shard without slots");
    let first = |i| map.slots.iter().position(|&s| usize::from(s) == i);
    prop_assert!((1..owned.len()).all(|i| first(i - 1) < first(i)), "order");
    for shard in &map.shards {
        prop_assert!(!shard.replicas.contains(&shard.primary));
        prop_assert!(shard.primary.port != 0 && !shard.primary.host.is_empty());
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_reply_ends_in_a_sound_map_or_an_error(value in any_value(), tls: bool) {
        for map in [parse_shards(&value, &asked(), tls), parse_slots(&value, &asked())].into_iter().flatten() {
            check(&map)?;
        }
    }

    /// Whatever the order in which a node lists its ranges, the map is the same, and right.
    #[test]
    fn listing_order_does_not_matter(
        cuts in proptest::collection::btree_set(1u16..16384, 0..40),
        primaries in proptest::collection::vec(0usize..5, 41),
        shuffle in proptest::collection::vec(any::<u32>(), 41),
    ) {
        let bounds: Vec<u16> = std::iter::once(0).chain(cuts).collect();
        let host = |i: usize| format!("10.0.0.{}", primaries[i]);
        let mut entries: Vec<(u32, Value)> = (0..bounds.len()).map(|i| {
            let end = bounds.get(i + 1).map_or(16383, |next| next - 1);
            let node = Value::Array(vec![Value::Bulk(host(i).into()), Value::Int(7000)]);
            (shuffle[i], Value::Array(vec![Value::Int(bounds[i].into()), Value::Int(end.into()), node]))
        }).collect();
        let listed = Value::Array(entries.iter().map(|(_, v)| v.clone()).collect());
        entries.sort_by_key(|(order, _)| *order);
        let shuffled = Value::Array(entries.into_iter().map(|(_, v)| v).collect());

        let map = parse_slots(&listed, &asked()).unwrap();
        prop_assert_eq!(&map, &parse_slots(&shuffled, &asked()).unwrap());
        check(&map)?;
        prop_assert_eq!(map.slots_covered(), SLOTS);
        for (i, &start) in bounds.iter().enumerate() {
            prop_assert_eq!(map.owner(start).unwrap(), &node(&host(i), 7000));
        }
    }
}
