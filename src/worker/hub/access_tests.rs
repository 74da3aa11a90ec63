//! Access control in a worker without sockets: what strangers may say, what users may do, what
//! becomes of sessions when the rules change, what the audit log says.

use std::io::IoSlice;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::access::{Access, DenyList, Users};
use crate::cluster::topology::{Mode, Shard};

const SECRET: &str = "opensesame";

fn rules(acl: &str, deny: &str) -> Option<Arc<Access>> {
    let users = (!acl.is_empty()).then(|| Users::parse(acl.as_bytes()).expect("an ACL"));
    let deny = match deny {
        "" => DenyList::default(),
        _ => DenyList::parse(deny).expect("a deny list"),
    };
    Some(Arc::new(Access { users, deny }))
}

/// A worker before one node, whose connection is not made yet.
fn hub(acl: &str, deny: &str) -> Hub {
    let settings = Settings { max_client_output: 1 << 30, ..super::wait_tests::settings() };
    let mut hub = Hub::new(settings, 7);
    hub.set_credential(CredentialState::NotNeeded);
    hub.set_access(rules(acl, deny));
    let primary = NodeAddr { host: "10.0.0.1".into(), port: 7000 };
    hub.set_topology(Arc::new(Topology {
        epoch: 0,
        mode: Mode::Cluster,
        shards: vec![Shard { primary, replicas: vec![] }],
        slots: Box::new([0u16; SLOTS]),
        server: Default::default(),
    }));
    hub
}

fn connect(hub: &mut Hub) -> Key {
    hub.client_open(Profile { id: 7, peer: "127.0.0.1:1".into(), ..Profile::default() })
}

fn got(hub: &mut Hub, client: Key) -> String {
    let out = &mut hub.session_mut(client).expect("a session").out;
    let mut all = Vec::new();
    while out.unsent() > 0 {
        let mut slices = [IoSlice::new(&[]); 8];
        let n = out.unsent_slices(&mut slices);
        let bytes: Vec<u8> = slices[..n].iter().flat_map(|s| s.to_vec()).collect();
        out.consume(bytes.len());
        all.extend(bytes);
    }
    String::from_utf8(all).expect("text")
}

fn say(hub: &mut Hub, client: Key, what: &str) -> String {
    hub.client_data(client, format!("{what}\r\n").as_bytes());
    got(hub, client)
}

fn ends(hub: &mut Hub, client: Key) -> bool {
    hub.session_mut(client).expect("a session").closing != Closing::No
}

#[test]
fn a_stranger_may_only_say_who_it_is() {
    let acl = format!("user default on >{SECRET} ~* &* +@all\nuser bob on >bobs -@all");
    let mut hub = hub(&acl, "");
    let client = connect(&mut hub);
    let wrong = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
    let noauth = "-NOAUTH Authentication required.\r\n";
    for (line, want) in [
        ("get a", noauth),
        ("get", "-ERR wrong number of arguments for 'get' command\r\n"),
        ("config foo", "-ERR unknown subcommand 'foo'. Try CONFIG HELP.\r\n"),
        ("json.get a", noauth),
        ("multi", noauth),
        ("subscribe a", noauth),
        ("acl whoami", noauth),
        ("auth", "-ERR wrong number of arguments for 'auth' command\r\n"),
        ("auth a b c", "-ERR syntax error\r\n"),
        ("auth nonsense", wrong),
        ("auth bob nonsense", wrong),
        ("auth nobody x", wrong),
        ("hello 9", "-NOPROTO unsupported protocol version\r\n"),
        ("hello 3 auth x", "-ERR Syntax error in HELLO option 'auth'\r\n"),
        ("hello 3 auth bob nonsense", wrong),
        ("reset", "+RESET\r\n"),
        ("get a", noauth),
    ] {
        assert_eq!(say(&mut hub, client, line), want, "{line}");
    }
    assert!(say(&mut hub, client, "hello 3").starts_with("-NOAUTH HELLO must be called with"));
    assert!(hub.work.dials.is_empty(), "a stranger costs the cluster nothing");
    // What follows in the same packet goes the usual way.
    let line = format!("auth {SECRET}\r\nacl whoami\r\nping");
    assert_eq!(say(&mut hub, client, &line), "+OK\r\n$7\r\ndefault\r\n+PONG\r\n");
    assert_eq!(
        say(&mut hub, client, "reset\r\nping\r\nauth bob bobs\r\nping"),
        format!(
            "+RESET\r\n{noauth}+OK\r\n-NOPERM this user has no permissions to run the 'ping' command\r\n"
        )
    );
    let hello = say(&mut hub, client, &format!("hello 3 auth default {SECRET}"));
    assert!(hello.starts_with("%7\r\n"), "{hello}");
    assert_eq!(say(&mut hub, client, "ping\r\nquit"), "+PONG\r\n+OK\r\n");
    assert!(ends(&mut hub, client));
    assert_eq!((hub.counters.refused_wrongpass, hub.counters.refused_command), (4, 1));
}

#[test]
fn a_stranger_cannot_have_the_proxy_hold_memory() {
    let protocol = "-ERR Protocol error: unauthenticated ";
    let acl = format!("user default on >{SECRET} +@all");
    for (sent, says) in [
        ("*11\r\n".to_owned(), "multibulk length"),
        ("*2\r\n$4\r\nAUTH\r\n$16385\r\n".to_owned(), "bulk length"),
        (format!("*9\r\n{}", "$16000\r\n".to_owned() + &"x".repeat(16000) + "\r\n"), ""),
    ] {
        let mut hub = hub(&acl, "");
        let client = connect(&mut hub);
        hub.client_data(client, sent.as_bytes());
        if says.is_empty() {
            for _ in 0..4 {
                hub.client_data(client, format!("$16000\r\n{}\r\n", "x".repeat(16000)).as_bytes());
            }
        }
        let reply = got(&mut hub, client);
        assert!(reply.starts_with(protocol) && reply.contains(says), "{says}: {reply}");
        assert!(ends(&mut hub, client));
        assert_eq!(hub.session_mut(client).expect("a session").input.capacity(), 0);
    }
    // One that does not read is cut off.
    let mut hub = hub(&acl, "");
    let client = connect(&mut hub);
    hub.client_data(client, "ping\r\n".repeat(5000).as_bytes());
    let session = hub.session_mut(client).expect("a session");
    assert_eq!(session.closing, Closing::Now);
    assert!(session.out.unsent() < 20_000, "{}", session.out.unsent());
}

#[test]
fn what_a_user_may_not_do_is_refused_in_redis_words() {
    let acl = "user default on nopass resetchannels &news ~app:* %R~ro:* +@all -@dangerous -eval +sort \
               +config|get";
    let mut hub = hub(acl, "set,@transaction");
    hub.set_access(rules(acl, ""));
    let client = connect(&mut hub);
    let command = |name: &str| {
        format!("-NOPERM this user has no permissions to run the '{name}' command\r\n")
    };
    let key =
        "-NOPERM this user has no permissions to access one of the keys used as arguments\r\n";
    let channel =
        "-NOPERM this user has no permissions to access one of the channels used as arguments\r\n";
    for (line, want) in [
        ("flushall", command("flushall")),
        ("FlushAll wrong number of words", command("flushall")),
        ("config set a b", command("config|set")),
("monitor", command("monitor")),
        ("eval x 0", command("eval")),
        ("get other", key.into()),
        ("set ro:1 x", key.into()),
        ("mget app:1 other", key.into()),
        ("publish sport x", channel.into()),
        ("subscribe news sport", channel.into()),
        ("psubscribe n*", channel.into()),
        ("sort app:1 by w*", "-ERR BY option of SORT denied due to insufficient ACL permissions.\r\n".into()),
        ("sort app:1 get w*", "-ERR GET option of SORT denied due to insufficient ACL permissions.\r\n".into()),
        ("auth x", "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?\r\n".into()),
        ("acl setuser x", command("acl|setuser")),
        ("acl users", command("acl|users")),
        ("acl whoami", "$7\r\ndefault\r\n".into()),
    ] {
        assert_eq!(say(&mut hub, client, line), want, "{line}");
    }
    // In MULTI a refusal ends the transaction.
    assert_eq!(
        say(&mut hub, client, "multi\r\nset app:1 x\r\nset x x\r\nexec"),
        format!(
            "+OK\r\n+QUEUED\r\n{key}-EXECABORT Transaction discarded because of previous errors.\r\n"
        )
    );
    assert!(
        say(&mut hub, client, "multi\r\nacl whoami\r\ndiscard")
            .contains("cannot be part of a transaction")
    );
    assert!(
        say(&mut hub, client, "multi\r\nauth a b\r\ndiscard")
            .contains("cannot be part of a transaction")
    );
    assert!(hub.work.dials.is_empty(), "nothing of it reaches a node");
    hub.set_access(rules("user default on nopass ~* +multi", ""));
    assert_eq!(
        say(&mut hub, client, "multi\r\nexec\r\nget a"),
        format!(
            "+OK\r\n-EXECABORT Transaction discarded because of: NOPERM this user has no permissions to run \
         the 'exec' command\r\n{}",
            command("get")
        )
    );
}

#[test]
fn the_deny_list_is_for_everybody() {
    let mut hub = hub("", "flushall,config|set,@scripting");
    let client = connect(&mut hub);
    for (line, name) in
        [("FLUSHALL", "flushall"), ("config set a b", "config|set"), ("evalsha x 0", "evalsha")]
    {
        let want = format!(
            "-NOPERM memorystore-auth-proxy: '{name}' is on the proxy's deny list (--deny-commands)\r\n"
        );
        assert_eq!(say(&mut hub, client, line), want);
    }
    // Without users AUTH is what it was.
    assert_eq!(say(&mut hub, client, "auth whatever\r\nping"), "+OK\r\n+PONG\r\n");
    assert_eq!(hub.counters.refused_deny_list, 3);
    let says = |text: &str| DenyList::parse(text).expect_err("a wrong list");
    assert!(says("flushall,auth").contains("'auth'"));
    assert!(says("nonsense").contains("'nonsense'"));
    assert!(says("@nonsense").contains("'@nonsense'"));
    assert!(says("select|0").contains("'select|0'"));
    assert!(says("").contains("''"));
}

#[test]
fn sessions_follow_the_rules() {
    let both = "user default on nopass ~* &* +@all\nuser bob on >b ~* &* +@all";
    let mut hub = hub(both, "");
    let (bob, other, teller) = (connect(&mut hub), connect(&mut hub), connect(&mut hub));
    assert_eq!(say(&mut hub, bob, "auth bob b\r\nacl whoami"), "+OK\r\n$3\r\nbob\r\n");
    assert_eq!(say(&mut hub, bob, "multi\r\nset a b"), "+OK\r\n+QUEUED\r\n");
    // The same again changes nothing.
    hub.set_access(rules(both, ""));
    assert!(!ends(&mut hub, bob));
    hub.set_access(rules("user default on nopass ~* &* +@all\nuser bob on >b ~c &* +@all", ""));
    let abort = "-EXECABORT Transaction discarded because of previous errors.\r\n";
    assert_eq!(say(&mut hub, bob, "exec"), abort);
    assert!(say(&mut hub, bob, "get a").starts_with("-NOPERM"));
    // Bob is no more; a password is wanted of those who come, not of those who are there.
    hub.set_access(rules("user default on >x ~* &* +@all", ""));
    assert!(ends(&mut hub, bob) && !ends(&mut hub, other));
    assert_eq!(say(&mut hub, teller, "ping"), "+PONG\r\n");
    let stranger = connect(&mut hub);
    assert!(say(&mut hub, stranger, "ping").starts_with("-NOAUTH"));
    // Nobody is asked any more.
    hub.set_access(rules("user default on nopass +@all", ""));
    assert_eq!(say(&mut hub, stranger, "ping"), "+PONG\r\n");
}

#[test]
fn a_subscriber_that_may_not_hear_any_more_is_disconnected() {
    let mut hub = hub("user default on nopass &* +@all", "");
    let client = connect(&mut hub);
    hub.client_data(client, b"subscribe news\r\n");
    hub.set_access(rules("user default on nopass &new* +@all", ""));
    assert!(!ends(&mut hub, client));
    hub.set_access(rules("user default on nopass &sport +@all", ""));
    assert!(ends(&mut hub, client));
}

#[test]
fn the_roster_knows_users() {
    let mut hub = hub("user default on nopass ~* &* +@all\nuser bob on >b ~* &* +@all", "");
    let (bob, other) = (connect(&mut hub), connect(&mut hub));
    say(&mut hub, bob, "auth bob b");
    let list = say(&mut hub, other, "client list");
    assert!(list.contains(" user=bob ") && list.contains(" user=default "), "{list}");
    assert_eq!(say(&mut hub, other, "client kill user nobody"), "-ERR No such user 'nobody'\r\n");
    assert_eq!(say(&mut hub, other, "acl users"), "*2\r\n$3\r\nbob\r\n$7\r\ndefault\r\n");
    assert_eq!(say(&mut hub, other, "acl dryrun bob get a"), "+OK\r\n");
    assert_eq!(say(&mut hub, other, "acl dryrun eve get a"), "-ERR User 'eve' not found\r\n");
    assert!(say(&mut hub, other, "acl getuser bob").contains("--client-acl-file"));
    // Both are client 7 here, and so both skipped: by its user the other one is found all the same.
    assert_eq!(say(&mut hub, other, "client kill user bob skipme no"), ":1\r\n");
    assert!(ends(&mut hub, bob) && !ends(&mut hub, other));
}

#[test]
fn audit_lines_are_few_and_hold_no_arguments() {
    let acl = format!("user default on >{SECRET} ~app:* +get +acl");
    let mut hub = hub(&acl, "");
    let client = connect(&mut hub);
    say(&mut hub, client, "auth mistyped-password");
    say(&mut hub, client, "auth mistyped-name mistyped-password");
    say(&mut hub, client, "mistyped-password");
    say(&mut hub, client, &format!("auth {SECRET}"));
    say(&mut hub, client, "get private-key");
    say(&mut hub, client, "set private-key private-value");
    let shown = format!("{:?}", hub.work.refusals);
    for part in ["mistyped", "private", SECRET] {
        assert!(!shown.contains(part), "{part} in {shown}");
    }
    let all = std::mem::take(&mut hub.work.refusals);
    let all: Vec<_> = all.iter().map(|r| (r.user.as_str(), r.command, r.reason)).collect();
    assert_eq!(
        all,
        [
            ("default", "auth", "wrongpass"),
            ("(unknown)", "auth", "wrongpass"),
            ("default", "(unknown)", "noauth"),
            ("default", "get", "key"),
            ("default", "set", "command"),
        ]
    );
    for _ in 0..100 {
        say(&mut hub, client, "flushall");
    }
    assert_eq!(hub.work.refusals.len(), 5, "ten a second");
    hub.work.refusals.clear();
    hub.set_now(1000);
    say(&mut hub, client, "flushall");
    assert_eq!(hub.work.refusals.first().map(|r| r.unlogged), Some(95));
    assert_eq!(hub.counters.refused_command, 102);
    assert!(!format!("{hub:?}").contains(SECRET), "Debug shows no password");
}

proptest! {
    /// Whatever a stranger sends in whatever pieces: the worker goes on, asks no node, and holds little.
    #[test]
    fn strangers_are_harmless(pieces in proptest::collection::vec(
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            proptest::sample::select(vec![
                "*2\r\n$4\r\nAUTH\r\n", "$3\r\nabc\r\n", "*3\r\n", "$5\r\nHELLO\r\n", "PING\r\n", "*1\r\n$5\r\nRESET\r\n",
                "*1\r\n$5\r\nMULTI\r\n", "get a\r\n", "*-1\r\n", "*0\r\n", "hello 3\r\n", "nonsense.command a b\r\n",
                "\"\r\n", "*1\r\n$4\r\nEXEC\r\n", "subscribe a\r\n", "$16384\r\n", "*10\r\n",
            ]).prop_map(|s| s.as_bytes().to_vec()),
        ], 0..30)
    ) {
        let mut hub = hub(&format!("user default on >{SECRET} +@all"), "");
        let client = connect(&mut hub);
        for piece in pieces {
            hub.client_data(client, &piece);
            prop_assert!(hub.work.dials.is_empty());
            let s = hub.session_mut(client).expect("a session");
            prop_assert!(s.input.capacity() < 256 * 1024 && s.out.unsent() < 64 * 1024);
            prop_assert!(s.transaction.is_none() && s.streams.is_none());
            if s.closing != Closing::No {
                break;
            }
        }
    }
}
