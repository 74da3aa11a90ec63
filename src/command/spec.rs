//! The words a command-table row is written in.
//!
//! They are Redis's own words (`COMMAND INFO`, `src/commands/*.json`): arity, command flags, key
//! specifications, request and response policies. One column is ours: [`Handler`], what the proxy
//! does with the command. Invariant: plain data; every type is `Copy` and `const`-able.
//! It does not find keys (see [`super::keys`]) and does not look names up (see [`super::lookup`]).

/// Everything the proxy knows of one command or subcommand.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Lower-case name; a subcommand is written `container|subcommand`, e.g. `config|get`.
    pub name: &'static str,
    /// Redis arity: counts the name (and the subcommand); negative means "at least".
    pub arity: i16,
    /// Command flags, a union of the constants in [`flag`].
    pub flags: u32,
    /// Where its keys stand; empty when it has none.
    pub keys: &'static [KeySpec],
    /// Which nodes a cluster client has to ask (Redis tip `request_policy`).
    pub request: RequestPolicy,
    /// How the answers of several nodes become one (Redis tip `response_policy`).
    pub response: ResponsePolicy,
    /// What the proxy does with it.
    pub handler: Handler,
    /// First server version that has it, e.g. `"7.0.0"` or `"valkey 8.1.0"`.
    pub since: &'static str,
    /// How [`super::keys`] finds its keys; follows from `keys` ([`KeyShape::of`]) except in rows
    /// that need code of their own.
    pub shape: KeyShape,
    /// Whether it is a container: the argument after the name is a subcommand with its own row.
    pub container: bool,
}

/// Command flags, as `COMMAND INFO` names them.
pub mod flag {
    /// `write`: may modify the dataset.
    pub const WRITE: u32 = 1 << 0;
    /// `readonly`: never modifies the dataset, so it may be sent twice.
    pub const READONLY: u32 = 1 << 1;
    /// `denyoom`: refused when memory is full.
    pub const DENYOOM: u32 = 1 << 2;
    /// `admin`: administrative.
    pub const ADMIN: u32 = 1 << 3;
    /// `pubsub`: belongs to Pub/Sub.
    pub const PUBSUB: u32 = 1 << 4;
    /// `noscript`: not allowed in scripts.
    pub const NOSCRIPT: u32 = 1 << 5;
    /// `blocking`: may block its connection.
    pub const BLOCKING: u32 = 1 << 6;
    /// `loading`: allowed while the server loads its dataset.
    pub const LOADING: u32 = 1 << 7;
    /// `stale`: allowed on a replica with stale data.
    pub const STALE: u32 = 1 << 8;
    /// `skip_monitor`: not shown to MONITOR.
    pub const SKIP_MONITOR: u32 = 1 << 9;
    /// `skip_slowlog`: not logged as slow.
    pub const SKIP_SLOWLOG: u32 = 1 << 10;
    /// `asking`: implies ASKING.
    pub const ASKING: u32 = 1 << 11;
    /// `fast`: constant or log time.
    pub const FAST: u32 = 1 << 12;
    /// `no_auth`: allowed before AUTH.
    pub const NO_AUTH: u32 = 1 << 13;
    /// `may_replicate`: may replicate though it is not a write (PUBLISH, EVAL).
    pub const MAY_REPLICATE: u32 = 1 << 14;
    /// `no_mandatory_keys`: may come without keys.
    pub const NO_MANDATORY_KEYS: u32 = 1 << 15;
    /// `no_async_loading`: refused during asynchronous loading.
    pub const NO_ASYNC_LOADING: u32 = 1 << 16;
    /// `no_multi`: refused inside MULTI.
    pub const NO_MULTI: u32 = 1 << 17;
    /// `allow_busy`: allowed while a script runs.
    pub const ALLOW_BUSY: u32 = 1 << 18;
    /// `movablekeys`: keys cannot be found by first/last/step alone.
    pub const MOVABLEKEYS: u32 = 1 << 19;
}

/// One Redis key specification: where keys begin, and how many follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySpec {
    /// Where the search begins.
    pub begin: Begin,
    /// How keys go on from there.
    pub find: Find,
    /// Whether the keys are written, read, or no keys at all.
    pub access: Access,
}

/// `begin_search` of a key specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// At this argument (0 is the name; a subcommand counts as an argument).
    Index(u16),
    /// At the argument after this keyword, searched case-insensitively from `from`
    /// (negative: from that position, counted from the end, backwards).
    Keyword(&'static str, i16),
    /// Cannot be described; the command needs code of its own in `keys`.
    Unknown,
}

/// `find_keys` of a key specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Find {
    /// Every `step`-th argument up to `last`, relative to the begin (negative: from the end);
    /// `limit` > 1 divides what is left by it (XREAD: 2).
    Range {
        /// Last key relative to the first; negative counts from the end of the command.
        last: i16,
        /// Distance between keys.
        step: u16,
        /// 0 or 1: no limit; n: only the first 1/n of the rest.
        limit: u16,
    },
    /// A number of keys stands at `num` (relative to the begin), the first key at `first`.
    KeyNum {
        /// Where the number stands, relative to the begin.
        num: u16,
        /// Where the first key stands, relative to the begin.
        first: u16,
        /// Distance between keys.
        step: u16,
    },
    /// Cannot be described; the command needs code of its own in `keys`.
    Unknown,
}

/// What finding the keys of a row takes: one match instead of a walk over its specifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyShape {
    /// It has no keys.
    None,
    /// Exactly one key, at this argument: most commands, and nearly all traffic.
    One(u8),
    /// Walk the specifications.
    Specs,
    /// SORT: the key, and the destination of the last STORE among options of varying length.
    Sort,
    /// GEORADIUS, GEORADIUSBYMEMBER: the key, and the destination of the last STORE or STOREDIST
    /// from this argument on (the specifications would give both).
    Georadius(u8),
    /// MIGRATE: one key, or when that is empty the keys after KEYS.
    Migrate,
    /// DEBUG: no specifications, but OBJECT and a few others look at one key.
    Debug,
}

impl KeyShape {
    /// The shape that follows from the specifications alone.
    #[must_use]
    pub const fn of(keys: &[KeySpec]) -> Self {
        match keys {
            [] => Self::None,
            [
                KeySpec {
                    begin: Begin::Index(at @ 0..=255),
                    find: Find::Range { last: 0, .. },
                    ..
                },
            ] => Self::One(*at as u8),
            _ => Self::Specs,
        }
    }
}

/// What a command does with the keys of a specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads them.
    Read,
    /// Changes, overwrites or removes them.
    Write,
    /// Not a key but routed like one (`not_key`: SPUBLISH's channel, CLUSTER KEYSLOT's argument).
    NotKey,
}

/// Redis tip `request_policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestPolicy {
    /// To the node of its keys; without keys, to any node.
    Default,
    /// To every node, replicas included.
    AllNodes,
    /// To every primary.
    AllShards,
    /// To the shards of its keys, split.
    MultiShard,
    /// Needs code of its own.
    Special,
}

/// Redis tip `response_policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponsePolicy {
    /// No tip: forwarded, or for several nodes: arrays concatenated.
    Default,
    /// The first success; an error only when all fail.
    OneSucceeded,
    /// Success when all succeed; else one error.
    AllSucceeded,
    /// Logical AND of integers (arrays element by element).
    AggLogicalAnd,
    /// Logical OR of integers.
    AggLogicalOr,
    /// Smallest integer.
    AggMin,
    /// Largest integer.
    AggMax,
    /// Sum of integers.
    AggSum,
    /// Needs code of its own.
    Special,
}

/// What the proxy does with a command: the one column of the table that is ours.
///
/// Variants name the treatment, not the command, except where the command is the treatment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handler {
    /// Stateless: to the slot of its keys, and without keys by `request`/`response` policy.
    Forward,
    /// Split by slot when its keys lie in several, merged in order (MGET, MSET, DEL, UNLINK,
    /// EXISTS, TOUCH).
    Split,
    /// May block: needs a connection of its own while it waits.
    Blocking,
    /// Forwarded; a body that passes is remembered, and NOSCRIPT is healed with it (EVAL, EVALSHA and
    /// their read-only forms).
    Script,
    /// MULTI, EXEC, DISCARD, WATCH, UNWATCH.
    Transaction(Transaction),
    /// PUBLISH and SPUBLISH: forwarded; the number of receivers counts each of the proxy's subscribers.
    Publish,
    /// SUBSCRIBE and its five relatives.
    Subscribe(Subscription),
    /// Keyspace cursor over all shards.
    Scan,
    /// Answered from what the session or the proxy itself knows.
    Local(Local),
    /// Asks every shard and merges in a way of its own (INFO, KEYS, RANDOMKEY, SCRIPT …).
    Gather(Gather),
    /// CLUSTER subcommands answered as a one-node cluster.
    ClusterFace(ClusterFace),
    /// Needs a server without cluster mode; before a cluster it is refused with the reason (SWAPDB).
    OneServer,
    /// Belongs to replication or to a cluster node; refused here with the reason.
    Refused,
}

/// The transaction commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants are the commands' names")]
pub enum Transaction {
    Multi,
    Exec,
    Discard,
    Watch,
    Unwatch,
}

/// The subscription commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants are the commands' names")]
pub enum Subscription {
    Subscribe,
    Unsubscribe,
    Psubscribe,
    Punsubscribe,
    Ssubscribe,
    Sunsubscribe,
}

/// Commands about the connection or the proxy, answered here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants are the commands' names")]
pub enum Local {
    Ping,
    Echo,
    Quit,
    Hello,
    Auth,
    Reset,
    Select,
    Time,
    Lolwut,
    Asking,
    Readonly,
    Readwrite,
    Monitor,
    Command,
    CommandCount,
    CommandDocs,
    CommandInfo,
    CommandList,
    CommandGetkeys,
    CommandGetkeysandflags,
    ClientCaching,
    ClientCapa,
    ClientGetname,
    ClientGetredir,
    ClientId,
    ClientInfo,
    ClientKill,
    ClientList,
    ClientNoEvict,
    ClientNoTouch,
    ClientPause,
    ClientReply,
    ClientSetinfo,
    ClientSetname,
    ClientTracking,
    ClientTrackinginfo,
    ClientUnblock,
    ClientUnpause,
    /// `X HELP` of a container the proxy answers for.
    Help,
    Role,
    ConfigGet,
}

impl Local {
    /// True for what any node can answer in the proxy's place, alone or inside a transaction.
    #[must_use]
    pub fn is_any_nodes(self) -> bool {
        matches!(
            self,
            Self::Command
                | Self::CommandCount
                | Self::CommandDocs
                | Self::CommandInfo
                | Self::CommandList
                | Self::CommandGetkeys
                | Self::CommandGetkeysandflags
                | Self::ConfigGet
                | Self::Help
                | Self::Lolwut
                | Self::Time
        )
    }
}

/// Commands that ask all shards and merge in a way of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants are the commands' names")]
pub enum Gather {
    /// By the row's policies, nothing special.
    Policy,
    Info,
    Keys,
    Randomkey,
    PubsubChannels,
    PubsubNumsub,
    PubsubShardnumsub,
    ScriptLoad,
    Memory,
    Slowlog,
    Latency,
    Lastsave,
}

/// CLUSTER subcommands a one-node face answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants are the subcommands' names")]
pub enum ClusterFace {
    Info,
    Nodes,
    Slots,
    Shards,
    Myid,
    Myshardid,
    Keyslot,
    Countkeysinslot,
    Getkeysinslot,
    Links,
    Replicas,
    CountFailureReports,
    Help,
}
