//! Other people's clients, and programs that live on Redis, through the proxy before three shards.
//!
//! One test per scenario, so that a failure names its library. `docs/clients.md` tells users what
//! was run; [`page`] holds it to the list here and to the pinned versions.

mod face;
mod moving;
mod page;
mod run;
mod rust;

/// One program of `tests/clients` and its environment.
struct Scenario {
    name: &'static str,
    script: &'static str,
    env: &'static [(&'static str, &'static str)],
}

/// Makes a test of each line, and [`SCENARIOS`] of all.
macro_rules! scenarios {
    ($($name:ident: $script:literal $(, $var:ident = $value:literal)*;)+) => {
        const SCENARIOS: &[Scenario] = &[$(
            Scenario {
                name: stringify!($name),
                script: $script,
                env: &[$((stringify!($var), $value)),*],
            },
        )+];
        $(
            #[tokio::test]
            async fn $name() {
                run::through_the_proxy(stringify!($name)).await;
            }
        )+
    };
}

scenarios! {
    redis_py_resp2: "python/redis_py.py", RESP = "2";
    redis_py_resp3: "python/redis_py.py", RESP = "3";
    redis_py_async_resp2: "python/redis_py_async.py", RESP = "2";
    redis_py_async_resp3: "python/redis_py_async.py", RESP = "3";
    redis_py_cluster_resp2: "python/redis_py_cluster.py", RESP = "2";
    redis_py_cluster_resp3: "python/redis_py_cluster.py", RESP = "3";
    celery: "python/celery_program.py";
    rq: "python/rq_program.py";
    django_cache_resp2: "python/django_cache.py", RESP = "2";
    django_cache_resp3: "python/django_cache.py", RESP = "3";
    flask_session: "python/flask_sessions.py", RESP = "3";
    ioredis: "node/ioredis.js";
    ioredis_cluster: "node/ioredis_cluster.js";
    node_redis_resp2: "node/node_redis.js", RESP = "2";
    node_redis_resp3: "node/node_redis.js", RESP = "3";
    node_redis_4: "node/node_redis.js", NODE_REDIS = "redis4";
    node_redis_cluster_resp2: "node/node_redis_cluster.js", RESP = "2";
    node_redis_cluster_resp3: "node/node_redis_cluster.js", RESP = "3";
    bullmq: "node/bullmq.js";
    connect_redis: "node/sessions.js", RESP = "3";
    socket_io_redis_adapter: "node/socketio.js", ADAPTER = "redis";
    socket_io_sharded_adapter: "node/socketio.js", ADAPTER = "sharded", RESP = "3";
    socket_io_streams_adapter: "node/socketio.js", ADAPTER = "streams";
    redis_rb: "ruby/redis_rb.rb";
    sidekiq: "ruby/sidekiq_program.rb";
    phpredis: "php/phpredis.php";
    redis_cli: "shell/redis_cli.sh";
    redis_benchmark: "shell/redis_benchmark.sh";
}
