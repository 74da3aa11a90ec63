//! The settings, one row each: name, kind, default, group and the sentence `--help` prints.
//!
//! Invariant: a row stands here only when the program acts on it, and `config/proxy.toml` has the
//! same rows (a test compares them). What a value means is in [`crate::config`].
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

/// Name of the positional setting.
pub const ENDPOINT: &str = "endpoint";

/// What kind of value a setting takes; the text names the value in the help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Stands without a flag in front.
    Positional(&'static str),
    /// `--name VALUE`.
    Value(&'static str),
    /// `--name`, `--name=true` or `--name=false`.
    Bool,
}

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Long flag without dashes; also the key in the configuration file.
    pub name: &'static str,
    /// Kind of its value.
    pub kind: Kind,
    /// Text of the default; `None` when there is none.
    pub default: Option<&'static str>,
    /// Heading in the help.
    pub group: &'static str,
    /// The manual's words.
    pub help: &'static str,
}

const LISTEN: &str = "Where clients connect";
const CREDENTIALS: &str =
    "Credentials for the cluster (application default credentials if none is chosen)";
const UPSTREAM: &str = "The way to the cluster";
const HTTP: &str = "HTTP endpoints";
const LIFE: &str = "Start and stop";
/// Heading of the flags about the program itself.
pub const PROGRAM: &str = "Program and logs";

/// First paragraph of the help.
pub const ABOUT: &str = "\
Lets any Redis client use Google Cloud Memorystore for Redis Cluster with IAM authentication.

The proxy listens on localhost, authenticates every connection to the cluster with a fresh access \
token, and follows the cluster's redirects, so that clients need neither.";

/// Last paragraphs of the help.
pub const AFTER_HELP: &str = "\
Every flag can also be given as an environment variable (shown behind it) and as a key of \
--config-file with the same name. A flag wins over the variable, the variable over the file. \
Durations are written with a unit: 500ms, 5s, 2m.

Of the credential flags at most one may be given in one place; one on the command line replaces \
another in the environment, and so on.

The subcommands take the same flags, variables and file, so that they see what the proxy sees.

Examples:
  memorystore-auth-proxy projects/my-project/locations/europe-west6/clusters/my-cluster
  memorystore-auth-proxy 10.0.0.3:6379
  memorystore-auth-proxy --port 7000 --health-check --structured-logs 10.0.0.3:6379
  memorystore-auth-proxy --token-file /run/secrets/token [fd00::3]:6379,10.0.0.4:6379
  memorystore-auth-proxy --no-iam-auth localhost:7000
  memorystore-auth-proxy check 10.0.0.3:6379

Exit codes: 143 ended by SIGTERM and 130 by SIGINT (0 with --exit-zero-on-sigterm), 0 ended by \
/quitquitquit, 1 failed at start or while running, 2 wrong configuration.";

/// One letter for a flag, as cloud-sql-proxy has them.
pub const SHORT: &[(char, &str)] = &[
    ('a', "address"),
    ('p', "port"),
    ('u', "unix-socket"),
    ('c', "credentials-file"),
    ('j', "json-credentials"),
    ('t', "token"),
    ('g', "gcloud-auth"),
    ('l', "structured-logs"),
];

/// Other spellings of a flag.
pub const ALIASES: &[(&str, &str)] = &[("exit-zero-sigterm", "exit-zero-on-sigterm")];

const fn value(
    name: &'static str,
    value: &'static str,
    default: Option<&'static str>,
    group: &'static str,
    help: &'static str,
) -> Flag {
    Flag { name, kind: Kind::Value(value), default, group, help }
}

const fn switch(name: &'static str, group: &'static str, help: &'static str) -> Flag {
    Flag { name, kind: Kind::Bool, default: Some("false"), group, help }
}

/// All settings, in the order of the help.
#[rustfmt::skip]
pub const FLAGS: &[Flag] = &[
    Flag {
        name: ENDPOINT,
        kind: Kind::Positional("ENDPOINT[?KEY=VALUE&...]"),
        default: None,
        group: "Arguments",
        help: "projects/P/locations/R/clusters/C (Memorystore for Redis Cluster) or \
               projects/P/locations/R/instances/I (Memorystore for Valkey), looked up with Google's \
               API; or the discovery endpoint as HOST:PORT: IPv4, [IPv6] or DNS name, and port; several \
               seeds of one cluster are separated by commas. Several endpoints are several instances, each with its own \
               listener: --port for the first, the next number for the second, and so on, unless \
               port=, address=, unix-socket= or read-from= stand behind a question mark. Required \
               here, in the environment (there also with _0, _1, ... behind the name) or in the file.",
    },
    value("address", "IP", Some("127.0.0.1"), LISTEN,
        "Address to listen on; localhost means 127.0.0.1."),
    value("port", "PORT", Some("6379"), LISTEN,
        "Port to listen on; 0 picks a free one, which is logged."),
    switch("allow-non-loopback", LISTEN,
        "Permit an --address that other machines can reach. Whoever reaches it uses the proxy's \
         credentials, without any of their own unless --client-acl-file or --client-password-file \
         asks for them."),
    value("unix-socket", "PATH", None, LISTEN,
        "Also listen on this Unix socket."),
    value("unix-socket-mode", "OCTAL", Some("0660"), LISTEN,
        "Permissions of the Unix socket."),
    value("unix-socket-allow-uid", "UID[,UID...]", None, LISTEN,
        "Users of the machine, by number, that may connect to the Unix socket; without it all whom \
         --unix-socket-mode lets in. TCP clients are not asked."),
    value("client-password-file", "PATH", None, LISTEN,
        "A file with a password that clients have to give (AUTH), read again whenever it changes."),
    value("client-acl-file", "PATH", None, LISTEN,
        "A file with users in Redis's ACL syntax: passwords, commands, key and channel patterns. Read \
         again whenever it changes. Scripts are not looked into."),
    value("deny-commands", "COMMAND[,COMMAND...]", None, LISTEN,
        "Commands and categories, as ACLs name them, that no client may run: flushall,config|set,@dangerous. \
         Scripts are not looked into."),
    value("max-connections", "N", Some("10000"), LISTEN,
        "Most clients at once, all instances together; 0 for no limit. One more is told so and \
         disconnected. Never more than the limit of open files permits."),
    value("max-request-bytes", "SIZE", Some("1GiB"), LISTEN,
        "Largest request of a client. A larger one is refused and the client disconnected."),
    value("max-client-output-bytes", "SIZE", Some("256MiB"), LISTEN,
        "A client that leaves more than this unread is disconnected."),
    value("max-pipeline", "N", Some("16384"), LISTEN,
        "Commands of one client that may be without reply; what it sends beyond waits in its socket."),
    value("max-buffer-total", "SIZE", Some("auto"), LISTEN,
        "What all buffers for clients together may hold; beyond it the clients that hold most are told so \
         and disconnected. auto is half of the memory of the container or machine; 0 for no limit."),
    value("client-idle-timeout", "DURATION", Some("0"), LISTEN,
        "A client that waits for nothing and says nothing for so long is disconnected; 0 for never."),
    value("tls-cert", "PATH", None, LISTEN,
        "A PEM file with a certificate and its chain: TCP clients then speak TLS, and nothing else. \
         Read again when it changes. The Unix socket stays plain."),
    value("tls-key", "PATH", None, LISTEN,
        "The PEM file with the key of --tls-cert."),
    value("threads", "N", Some("1"), LISTEN,
        "Worker threads of each instance, each with its own connections to the cluster; more than one pays only when \
         one core is busy."),
    value("token", "TOKEN", None, CREDENTIALS,
        "A fixed OAuth2 access token. It is never renewed, and on the command line every user of the \
         machine can read it: prefer the variable or --token-file."),
    value("token-file", "PATH", None, CREDENTIALS,
        "A file with an OAuth2 access token, read again whenever it changes."),
    value("token-command", "COMMAND", None, CREDENTIALS,
        "A program that prints an access token, bare or as JSON with access_token and expires_in or \
         expiry. It is run without a shell, has 10 seconds, and is run again before the token ends, or \
         every 5 minutes if it tells no end."),
    value("credentials-file", "PATH", None, CREDENTIALS,
        "A credentials file (JSON): a service account key, a user's login, an impersonated service \
         account or an external account (workload identity federation)."),
    value("json-credentials", "JSON", None, CREDENTIALS,
        "The content of such a file. On the command line every user of the machine can read it."),
    switch("gcloud-auth", CREDENTIALS,
        "Use the account that the gcloud command is logged in with."),
    value("impersonate-service-account", "ACCOUNT[,ACCOUNT...]", None, CREDENTIALS,
        "Use the tokens of the first of these service accounts, made with the credentials chosen \
         above. Each account is used by the one after it, the last by those credentials; each use \
         wants roles/iam.serviceAccountTokenCreator."),
    value("iamcredentials-api-endpoint", "URL", Some("https://iamcredentials.googleapis.com"), CREDENTIALS,
        "Where --impersonate-service-account has its tokens made."),
    value("quota-project", "PROJECT", None, CREDENTIALS,
        "Project that calls of Google's APIs are billed to and limited by; it wants \
         serviceusage.services.use there."),
    switch("no-iam-auth", CREDENTIALS,
        "Ask for no access token: the cluster wants no AUTH, or the password of \
         --upstream-password-file."),
    value("upstream-username", "NAME", Some("default"), CREDENTIALS,
        "User name of AUTH; Memorystore knows only 'default' unless an ACL policy is attached."),
    value("upstream-password-file", "PATH", None, CREDENTIALS,
        "A file with a fixed password, read again whenever it changes, for clusters without IAM."),
    value("auth-backoff-min", "DURATION", Some("100ms"), CREDENTIALS,
        "Shortest wait before a failed authentication or token request is repeated."),
    value("auth-backoff-max", "DURATION", Some("30s"), CREDENTIALS,
        "Longest such wait; waits double up to it, with jitter. A node that cannot be reached at all is dialled \
         again after 2s at most."),
    value("op-timeout", "DURATION", Some("5s"), UPSTREAM,
        "Time a command has, redirects and retries included, before it is answered with an error."),
    value("connect-timeout", "DURATION", Some("5s"), UPSTREAM,
        "Time a connection to a node has until it is authenticated."),
    value("topology-refresh", "DURATION", Some("60s"), UPSTREAM,
        "Period, jittered, of asking the cluster for its slots; redirects and lost nodes ask at once."),
    value("max-redirects", "N", Some("16"), UPSTREAM,
        "Redirects one command follows before it is answered with an error."),
    value("max-connection-age", "DURATION", Some("4h"), UPSTREAM,
        "Age, jittered, at which a connection to a node is replaced by a new one; 0 for never."),
    value("dial-rate-limit", "N", Some("50"), UPSTREAM,
        "Connections and authentications begun in a second, all nodes together; 0 for no limit."),
    value("read-from", "NODES", Some("primary"), UPSTREAM,
        "Which nodes answer read-only commands: primary; prefer-replica (a replica of the shard, and \
         the primary where no replica can); replica (never the primary). Replicas lag behind, so a read \
         may miss what was just written."),
    Flag {
        name: "tls",
        kind: Kind::Bool,
        default: None,
        group: UPSTREAM,
        help: "Whether the cluster has in-transit encryption; implied by --server-ca-file.",
    },
    value("server-ca-file", "PATH", None, UPSTREAM,
        "A PEM file with all certificates of the cluster's authorities. Read again when it changes and \
         when a node's certificate is not trusted."),
    value("tls-verify", "WHAT", Some("full"), UPSTREAM,
        "What a node must prove: full (its certificate is signed by a known authority and names the \
         address dialled or a discovery endpoint), ca (the signature only), insecure (nothing)."),
    value("redis-api-endpoint", "URL", Some("https://redis.googleapis.com"), UPSTREAM,
        "The API that clusters are looked up with by name."),
    value("memorystore-api-endpoint", "URL", Some("https://memorystore.googleapis.com"), UPSTREAM,
        "The API that Valkey instances are looked up with by name."),
    switch("health-check", HTTP,
        "Serve /startup, /liveness, /readiness and /status."),
    switch("with-backend-check", HTTP,
        "Let /startup and /readiness also want that every primary answers; they are asked every 10 \
         seconds."),
    switch("prometheus", HTTP,
        "Serve /metrics and /status."),
    value("http-address", "IP", Some("localhost"), HTTP,
        "Address of the HTTP server; localhost means 127.0.0.1, probes of Kubernetes need 0.0.0.0."),
    value("http-port", "PORT", Some("9090"), HTTP,
        "Port of the HTTP server; 0 picks a free one, which is logged."),
    switch("run-connection-test", LIFE,
        "Ask every primary before clients are served, and end with code 1 if one does not answer."),
    switch("skip-failed-instance-config", LIFE,
        "Serve the other instances when one cannot listen, or fails the connection test."),
    switch("lazy-refresh", LIFE,
        "Renew tokens and slot maps only while clients send commands; for places that take the CPU \
         away from idle processes, such as Cloud Run."),
    value("min-sigterm-delay", "DURATION", Some("0"), LIFE,
        "Time that clients are still accepted after SIGTERM."),
    value("max-sigterm-delay", "DURATION", Some("10s"), LIFE,
        "Time that replies and transactions then have to finish."),
    switch("exit-zero-on-sigterm", LIFE,
        "End with code 0 on SIGTERM and SIGINT."),
    switch("quitquitquit", LIFE,
        "Stop, with code 0, when /quitquitquit is asked for on --admin-port of localhost."),
    value("admin-port", "PORT", Some("9091"), LIFE,
        "Port of /quitquitquit; 0 picks a free one, which is logged."),
    value("config-file", "PATH", None, PROGRAM,
        "A TOML file with the same settings; config/proxy.toml shows every key."),
    switch("structured-logs", PROGRAM,
        "Log as JSON for Cloud Logging instead of text."),
    switch("debug-logs", PROGRAM,
        "Log the proxy's own steps as well."),
    switch("quiet", PROGRAM,
        "Log errors only."),
];

/// What the program does instead of serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subcommand {
    /// Waits until a proxy is up.
    Wait,
    /// Stops a proxy.
    Shutdown,
    /// Prints a token.
    Token,
    /// Looks for what is wrong.
    Check,
    /// Prints a completion script.
    Completion,
}

/// One subcommand. It takes all settings of the proxy, so that it reads the same variables and file;
/// those it has no use for do nothing.
#[derive(Debug)]
pub struct SubcommandRow {
    /// Which.
    pub what: Subcommand,
    /// Its name.
    pub name: &'static str,
    /// The manual's words.
    pub about: &'static str,
    /// Settings of its own.
    pub own: &'static [Flag],
}

/// Longest wait of `wait`.
pub const MAX: &str = "max";

/// The shell of `completion`.
pub const SHELL: &str = "shell";

/// All subcommands.
#[rustfmt::skip]
pub const SUBCOMMANDS: &[SubcommandRow] = &[
    SubcommandRow {
        what: Subcommand::Check,
        name: "check",
        about: "Look for what is wrong, step by step: credentials, API, DNS, dial, TLS, AUTH, nodes, clock",
        own: &[],
    },
    SubcommandRow {
        what: Subcommand::Token,
        name: "token",
        about: "Print an access token, or the password, as redis-cli -a wants it",
        own: &[],
    },
    SubcommandRow {
        what: Subcommand::Wait,
        name: "wait",
        about: "Wait until a proxy that runs with --health-check is up (/startup)",
        own: &[value(MAX, "DURATION", Some("30s"), PROGRAM, "Longest wait; then it ends with code 1.")],
    },
    SubcommandRow {
        what: Subcommand::Shutdown,
        name: "shutdown",
        about: "Stop a proxy that runs with --quitquitquit",
        own: &[],
    },
    SubcommandRow {
        what: Subcommand::Completion,
        name: "completion",
        about: "Print the completion script of a shell",
        own: &[Flag {
            name: SHELL,
            kind: Kind::Positional("bash|elvish|fish|powershell|zsh"),
            default: None,
            group: "Arguments",
            help: "The shell.",
        }],
    },
];

/// The row of a setting, also of those that belong to a subcommand.
pub fn find(name: &str) -> Option<&'static Flag> {
    let own = SUBCOMMANDS.iter().flat_map(|row| row.own);
    FLAGS.iter().chain(own).find(|flag| flag.name == name)
}
