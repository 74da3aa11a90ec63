//! Access control: users, passwords and permissions as a server with the same ACL has them, files that
//! change while clients are connected, peer credentials, and no secret in any place people look at.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::support::bed::{Bed, BedOptions};
use crate::support::client::{Client, Proto};
use crate::support::pair::Pair;
use crate::support::proxy::command;
use crate::support::resp::Value;
use crate::support::standalone::Standalone;
use crate::support::wait::wait_for;

const LIMIT: Duration = Duration::from_secs(30);

/// SHA-256 of "bobs-password".
const BOBS_HASH: &str = "c7fb5b7b3a6fe631f2e22c587b241f8685c5ca9fa77881ed0dd5ba2f79f0ba77";

fn file(dir: &TempDir, name: &str, content: &str) -> PathBuf {
    let path = dir.path().join(name);
    replace(&path, content);
    path
}

/// As whoever rotates secrets should: by renaming.
fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, content).expect("written");
    std::fs::rename(new, path).expect("renamed");
}

async fn bed(args: &[&str]) -> Bed {
    let args = args.iter().map(|&a| a.to_owned()).collect();
    Bed::with(BedOptions { args, ..BedOptions::default() }).await
}

fn error(text: &str) -> Value {
    Value::Error(text.into())
}

async fn says(client: &mut Client, command: &str) -> String {
    match client.cmd(&command.split(' ').collect::<Vec<_>>()).await {
        Value::Error(text) => format!("-{text}"),
        value => value.text(),
    }
}

const WRONGPASS: &str = "-WRONGPASS invalid username-password pair or user is disabled.";
const NOAUTH: &str = "-NOAUTH Authentication required.";

#[tokio::test]
async fn a_password_is_wanted_and_followed() {
    let dir = TempDir::new().expect("a directory");
    let path = file(&dir, "password", "first-password\n");
    let bed = bed(&["--client-password-file", path.to_str().expect("a path")]).await;
    let mut client = bed.client(Proto::Resp2).await;
    for (command, want) in [
        ("GET k", NOAUTH),
        ("AUTH wrong", WRONGPASS),
        ("AUTH default first-password", "OK"),
        ("ACL WHOAMI", "default"),
        ("SET k v", "OK"),
        ("GET k", "v"),
    ] {
        assert_eq!(says(&mut client, command).await, want, "{command}");
    }
    // A client library does it by itself.
    let url = format!("redis://:first-password@{}", bed.proxy.addr());
    let library = redis::Client::open(url).expect("a URL");
    let mut library = library.get_multiplexed_async_connection().await.expect("it connects");
    let got: String = redis::cmd("GET").arg("k").query_async(&mut library).await.expect("a value");
    assert_eq!(got, "v");

    replace(&path, "second-password");
    wait_for("the new password", LIMIT, async || {
        let mut new = bed.client(Proto::Resp2).await;
        says(&mut new, "AUTH second-password").await == "OK"
    })
    .await;
    let mut new = bed.client(Proto::Resp2).await;
    assert_eq!(says(&mut new, "AUTH first-password").await, WRONGPASS);
    assert_eq!(says(&mut client, "GET k").await, "v", "who is there stays");
    // A file without a password is not taken.
    replace(&path, "\n");
    wait_for("a line about it", LIMIT, async || bed.proxy.logs().contains("it is empty")).await;
    assert_eq!(says(&mut new, "AUTH second-password").await, "OK");
    let wrong = bed.proxy.metric("memorystore_proxy_client_refusals_total", &["\"wrongpass\""]);
    assert!(wrong.await.is_some_and(|n| n >= 2.0));
}

const ACL: &str = "user default on >default-password ~* &* +@all\n\
    user bob on >bobs-password ~{a}own:* %R~{a}ro:* &news* +@all -@dangerous -@scripting\n\
    user free on nopass resetchannels +ping (~{a}free:* +get)\n\
    user gone off >gones-password ~* +@all\n";

const CONVERSATION: &[&str] = &[
    "PING",
    "GET",
    "GET {a}own:k",
    "CONFIG FOO",
    "MULTI",
    "AUTH",
    "AUTH wrong",
    "AUTH bob wrong",
    "AUTH nobody wrong",
    "AUTH gone gones-password",
    "AUTH a b c",
    "HELLO",
    "HELLO 9",
    "HELLO 3 AUTH bob wrong",
    "HELLO 3 SETNAME x",
    "RESET",
    "AUTH bob bobs-password",
    "ACL WHOAMI",
    "CLIENT GETNAME",
    "SET {a}own:k v",
    "GET {a}own:k",
    "SET {a}own:k w GET",
    "GET other",
    "SET {a}ro:k v",
    "GET {a}ro:k",
    "GETDEL {a}ro:k",
    "STRLEN {a}ro:k",
    "COPY {a}ro:k {a}own:c",
    "COPY {a}own:k {a}ro:c",
    "MSET {a}own:a 1 {a}x 2",
    "DEL {a}own:a {a}x",
    "RPUSH {a}own:l 3 1 2",
    "SORT {a}own:l",
    "SORT {a}own:l BY {a}w*",
    "SORT {a}own:l GET {a}w*",
    "SORT {a}own:l STORE {a}x",
    "FLUSHALL",
    "FLUSHALL with too many words",
    "KEYS *",
    "CONFIG SET a b",
    "CONFIG GET",
    "EVAL x 0",
    "MONITOR",
    "ACL USERS",
    "ACL SETUSER bob",
    "PUBLISH news1 x",
    "PUBLISH other x",
    "SPUBLISH other x",
    "SUBSCRIBE news other",
    "PSUBSCRIBE new*",
    "SSUBSCRIBE other",
    "WATCH other",
    "MULTI",
    "SET {a}own:k 1",
    "EXEC",
    "MULTI",
    "SET {a}own:k 2",
    "SET other 2",
    "EXEC",
    "MULTI",
    "FLUSHALL",
    "DISCARD",
    "GET {a}own:k",
    "AUTH bobs-password",
    "ACL WHOAMI",
    "AUTH default-password",
    "ACL WHOAMI",
    "DEL {a}own:k {a}own:l",
    "AUTH free whatever",
    "PING",
    "GET {a}free:k",
    "GET {a}own:k",
    "SET {a}free:k v",
    "ECHO x",
    "MULTI",
    "EXEC",
    "RESET",
    "GET {a}own:k",
];

#[tokio::test]
async fn replies_are_those_of_a_server_with_the_same_users() {
    let dir = TempDir::new().expect("a directory");
    let path = file(&dir, "users.acl", ACL);
    let bed = bed(&["--client-acl-file", path.to_str().expect("a path")]).await;
    let server = Standalone::start().await;
    let mut admin = server.connect().await;
    for user in ACL.lines() {
        let (head, selector) = user.split_once(" (").map_or((user, None), |(h, s)| (h, Some(s)));
        let selector = selector.map(|s| format!("({s}"));
        let words = head.split(' ').skip(1).chain(selector.as_deref());
        let command: Vec<&str> = ["ACL", "SETUSER"].into_iter().chain(words).collect();
        assert_eq!(admin.cmd(&command).await, Value::ok(), "{user}");
    }
    let default = ["ACL", "SETUSER", "default", "resetpass", ">default-password"];
    assert_eq!(admin.cmd(&default).await, Value::ok());
    let words: Vec<Vec<&str>> = CONVERSATION.iter().map(|c| c.split(' ').collect()).collect();
    let commands: Vec<&[&str]> = words.iter().map(Vec::as_slice).collect();
    let ours = Client::connect(bed.proxy.addr()).await;
    let theirs = Client::connect(server.addr()).await;
    let mut pair = Pair { bed, server, ours, theirs };
    pair.agree(&commands, false).await;
    // One packet that holds the password and what needs it.
    pair.agree(&commands, true).await;
    for client in [&mut pair.ours, &mut pair.theirs] {
        let hello = client.cmd(&["HELLO", "3", "AUTH", "bob", "bobs-password"]).await;
        assert!(!matches!(hello, Value::Error(_)), "{hello:?}");
    }
    let known = commands.iter().position(|c| c.starts_with(&["ACL"])).expect("ACL WHOAMI");
    pair.agree(&commands[known..], true).await;
}

#[tokio::test]
async fn rules_that_change_reach_the_clients_of_all_threads() {
    let dir = TempDir::new().expect("a directory");
    let path = file(
        &dir,
        "users.acl",
        "user default off\nuser bob on >b ~* &* +@all\nuser eve on >e ~* +@all",
    );
    let bed = bed(&["--threads", "2", "--client-acl-file", path.to_str().expect("a path")]).await;
    let mut bobs = Vec::new();
    for _ in 0..4 {
        let mut bob = bed.client(Proto::Resp2).await;
        assert_eq!(says(&mut bob, "AUTH bob b").await, "OK");
        assert_eq!(says(&mut bob, "SET k v").await, "OK");
        bobs.push(bob);
    }
    let mut eve = bed.client(Proto::Resp2).await;
    assert_eq!(says(&mut eve, "AUTH eve e").await, "OK");
    let list = says(&mut eve, "CLIENT LIST").await;
    assert_eq!(list.matches(" user=bob ").count(), 4, "{list}");
    assert_eq!(list.matches(" user=eve ").count(), 1, "{list}");
    assert_eq!(says(&mut eve, "CLIENT KILL USER nobody").await, "-ERR No such user 'nobody'");

    let mut subscriber = bed.client(Proto::Resp2).await;
    assert_eq!(says(&mut subscriber, "AUTH bob b").await, "OK");
    subscriber.cmd(&["SUBSCRIBE", "news"]).await;
    // A file with a mistake changes nothing.
    replace(&path, "user default off\nuser bob on >b +nonsense");
    wait_for("a line about it", LIMIT, async || bed.proxy.logs().contains("line 2: rule 3")).await;
    assert_eq!(says(&mut bobs[0], "SET k v").await, "OK");
    // Bob may only read, and Eve is no more.
    replace(&path, "user default off\nuser bob on >b ~* +@read");
    eve.expect_close().await;
    subscriber.expect_close().await;
    for bob in &mut bobs {
        let denied = "-NOPERM this user has no permissions to run the 'set' command";
        wait_for("the new rules", LIMIT, async || says(bob, "SET k w").await == denied).await;
        assert_eq!(says(bob, "GET k").await, "v");
    }
}

#[tokio::test]
async fn nobody_runs_what_is_on_the_deny_list() {
    let bed = bed(&["--deny-commands", "flushall,config|set,@scripting"]).await;
    let mut client = bed.client(Proto::Resp3).await;
    let denied = |name: &str| {
        error(&format!(
            "NOPERM memorystore-auth-proxy: '{name}' is on the proxy's deny list (--deny-commands)"
        ))
    };
    assert_eq!(client.cmd(&["SET", "k", "v"]).await, Value::ok());
    assert_eq!(client.cmd(&["FLUSHALL"]).await, denied("flushall"));
    assert_eq!(client.cmd(&["EVAL", "return 1", "0"]).await, denied("eval"));
    assert_eq!(client.cmd(&["MULTI"]).await, Value::ok());
    assert_eq!(client.cmd(&["CONFIG", "SET", "a", "b"]).await, denied("config|set"));
    let aborted = "EXECABORT Transaction discarded because of previous errors.";
    assert_eq!(client.cmd(&["EXEC"]).await, error(aborted));
    assert_eq!(client.cmd(&["GET", "k"]).await, Value::bulk("v"));
    let counted = bed.proxy.metric("memorystore_proxy_client_refusals_total", &["\"deny_list\""]);
    assert_eq!(counted.await, Some(3.0));
}

async fn first_line(path: &Path) -> String {
    let mut stream = UnixStream::connect(path).await.expect("the socket is there");
    // Whoever is refused may be gone by now.
    let _ = stream.write_all(b"PING\r\n").await;
    let mut said = vec![0; 256];
    let n = tokio::time::timeout(LIMIT, stream.read(&mut said)).await.expect("a reply in time");
    String::from_utf8_lossy(&said[..n.expect("a reply")]).into_owned()
}

#[tokio::test]
async fn the_unix_socket_is_for_the_users_that_are_named() {
    let dir = TempDir::new().expect("a directory");
    let me = std::fs::metadata("/proc/self").expect("procfs").uid();
    let socket = dir.path().join("own.sock");
    let shown = socket.to_str().expect("a path");
    let own =
        bed(&["--unix-socket", shown, "--unix-socket-allow-uid", &format!("4242,{me}")]).await;
    assert_eq!(first_line(&socket).await, "+PONG\r\n");
    drop(own);
    let socket = dir.path().join("other.sock");
    let shown = socket.to_str().expect("a path");
    let other = (me + 1).to_string();
    let bed = bed(&["--unix-socket", shown, "--unix-socket-allow-uid", &other]).await;
    let said = first_line(&socket).await;
    assert!(said.starts_with("-NOPERM ") && said.contains("--unix-socket-allow-uid"), "{said}");
    let counted = bed.proxy.metric("memorystore_proxy_client_refusals_total", &["\"unix_uid\""]);
    assert_eq!(counted.await, Some(1.0));
    let mut client = bed.client(Proto::Resp2).await;
    assert_eq!(says(&mut client, "PING").await, "PONG", "TCP clients are not asked");
}

#[tokio::test]
async fn no_password_and_no_argument_appears_anywhere() {
    let dir = TempDir::new().expect("a directory");
    let acl = format!(
        "user default on >secret-default ~* +@all\nuser bob on #{BOBS_HASH} >secret-bobs ~{{a}}* +get +eval +acl"
    );
    let path = file(&dir, "users.acl", &acl);
    let bed = bed(&["--debug-logs", "--client-acl-file", path.to_str().expect("a path")]).await;
    let mut client = bed.client(Proto::Resp2).await;
    for command in [
        "AUTH secret-wrong",
        "AUTH secret-name secret-wrong",
        "HELLO 3 AUTH bob secret-wrong",
        "secret-command secret-argument",
        "GET secret-key",
        "AUTH bob secret-bobs",
        "GET secret-key",
        "SET secret-key secret-value",
        "CONFIG SET requirepass secret-value",
        "ACL SETUSER eve >secret-value",
        "ACL LIST",
        "ACL GETUSER bob",
        "SECRET-COMMAND secret-argument",
        "AUTH default secret-default",
    ] {
        says(&mut client, command).await;
    }
    let shown = says(&mut client, "ACL LIST").await;
    assert!(!shown.contains(BOBS_HASH), "{shown}");
    replace(&path, "user bob on secret-rule");
    wait_for("a line about it", LIMIT, async || bed.proxy.logs().contains("line 1: rule 2")).await;
    let logs = bed.proxy.logs();
    for part in ["wrongpass", "noauth", "command=\"set\"", "reason=\"key\"", "user=bob"] {
        assert!(logs.contains(part), "the audit log lacks {part}:\n{logs}");
    }
    let mut places = vec![("the log", logs)];
    for path in ["/metrics", "/status"] {
        places.push((path, bed.proxy.get(path).await.body));
    }
    for (place, text) in places {
        for secret in ["secret-", "SECRET-", BOBS_HASH] {
            assert!(!text.contains(secret), "{place} holds {secret:?}:\n{text}");
        }
    }
}

#[tokio::test]
async fn mistakes_end_with_code_two_and_no_secret() {
    let dir = TempDir::new().expect("a directory");
    let at = |name: &str, content: &str| file(&dir, name, content).display().to_string();
    let wrong_rule = at("rule.acl", "user bob on >secret-bobs secret-rule");
    let wrong_line = at("line.acl", "# a comment\n\nsecret-bobs");
    let twice = at("twice.acl", "user bob on\nuser bob off");
    let open = at("open.acl", "user bob on (+get ~a");
    let empty = at("empty", "\n");
    let cases: [(&[&str], &str); 11] = [
        (&["--client-acl-file", "/nonexistent"], "--client-acl-file /nonexistent cannot be used"),
        (&["--client-acl-file", &wrong_rule], "line 1: rule 3 of the user 'bob': Syntax error"),
        (&["--client-acl-file", &wrong_line], "line 3: it does not begin with 'user' and a name"),
        (&["--client-acl-file", &twice], "line 2: the user 'bob' was there before"),
        (&["--client-acl-file", &open], "a parenthesis of the user 'bob' is not closed"),
        (&["--client-password-file", &empty], "it is empty"),
        (&["--client-password-file", &empty, "--client-acl-file", &open], "contradicts"),
        (&["--deny-commands", "nonsense"], "'nonsense'"),
        (&["--deny-commands", "get,quit"], "'quit'"),
        (&["--unix-socket-allow-uid", "1000"], "--unix-socket"),
        (&["--unix-socket=/tmp/x", "--unix-socket-allow-uid", "root"], "'root'"),
    ];
    for (args, named) in cases {
        let home = TempDir::new().expect("a directory");
        let mut command = tokio::process::Command::from(command(&home));
        command.args(["127.0.0.1:6379", "--no-iam-auth", "--port=0"]).args(args).kill_on_drop(true);
        let output = tokio::time::timeout(LIMIT, command.output()).await.expect("it ends");
        let output = output.expect("the proxy's binary starts");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains(named), "{args:?} does not say {named}: {text}");
        assert!(!text.contains("secret-"), "{args:?}: {text}");
    }
}
