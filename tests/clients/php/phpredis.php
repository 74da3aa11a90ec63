<?php
// phpredis in its ordinary, non-cluster mode, as the handler of PHP's sessions, and its cluster mode
// on the same port. REDIS_PORT in the environment; BEHIND_PROXY is set when a cluster is behind it.

set_error_handler(function ($level, $text) { throw new ErrorException($text, 0, $level); });

$port = (int) getenv('REDIS_PORT');
$behindProxy = getenv('BEHIND_PROXY') !== false;

function expect($got, $wanted, $what)
{
    if ($got !== $wanted) {
        throw new Exception("$what: got " . var_export($got, true) . ', wanted ' . var_export($wanted, true));
    }
}

function connect()
{
    global $port;
    $redis = new Redis();
    $redis->connect('127.0.0.1', $port, 5);
    return $redis;
}

function keys()
{
    $r = connect();
    $r->flushAll();
    $many = [];
    for ($n = 0; $n < 100; $n++) {
        $many["k:$n"] = "v$n";
    }
    expect($r->mSet($many), true, 'MSET over slots');
    expect($r->mGet(array_keys($many)), array_values($many), 'MGET over slots');
    $found = [];
    $cursor = null;
    $r->setOption(Redis::OPT_SCAN, Redis::SCAN_RETRY);
    while ($some = $r->scan($cursor, 'k:*', 30)) {
        foreach ($some as $key) {
            $found[$key] = 1;
        }
    }
    expect(count($found), 100, 'SCAN');
    expect($r->del(array_keys($many)), 100, 'DEL over slots');
    $r->setOption(Redis::OPT_SERIALIZER, Redis::SERIALIZER_PHP);
    $r->set('object', ['a' => [1, 2.5, null]], ['ex' => 60]);
    expect($r->get('object'), ['a' => [1, 2.5, null]], 'a serialised value');
    $r->setOption(Redis::OPT_SERIALIZER, Redis::SERIALIZER_NONE);
    expect($r->setnx('object', 1), false, 'SETNX');
    expect($r->zAdd('z', 1.5, 'm'), 1, 'ZADD');
    expect($r->zRange('z', 0, -1, true), ['m' => 1.5], 'ZRANGE');
    expect($r->xAdd('x', '*', ['f' => 'v']) !== false, true, 'XADD');
    expect(count($r->xRead(['x' => '0'])['x']), 1, 'XREAD');
    expect($r->lPush('object', 1), false, 'LPUSH to a string');
    expect(substr($r->getLastError(), 0, 9), 'WRONGTYPE', 'the last error');
    expect($r->brPop(['{t}none'], 1), [], 'BRPOP that times out');
    // A pool of its own: the connection is there for the next request of the same process.
    $p = new Redis();
    $p->pconnect('127.0.0.1', $GLOBALS['port'], 5, 'pool');
    expect($p->ping(), true, 'PING');
    if ($GLOBALS['behindProxy']) {
        expect($p->auth(['user', 'password']), true, 'AUTH with any password');
    }
}

function pipelines_and_transactions()
{
    global $behindProxy;
    $r = connect();
    $pipe = $r->multi(Redis::PIPELINE);
    for ($n = 0; $n < 200; $n++) {
        $pipe->set("p:$n", $n)->get("p:$n");
    }
    expect(array_filter($pipe->exec(), 'is_string'), array_combine(range(1, 399, 2), array_map('strval', range(0, 199))), 'a pipeline');
    expect($r->multi()->set('{t}n', 1)->incr('{t}n')->exec(), [true, 2], 'MULTI');
    $r->watch('{t}n');
    connect()->set('{t}n', 9);
    expect($r->multi()->incr('{t}n')->exec(), false, 'EXEC after a touched WATCH');
    if ($behindProxy) {
        try {
            connect()->multi()->set('{t}a', 1)->set('{u}a', 1);
        } catch (RedisException $e) {
            return expect(substr($e->getMessage(), 0, 9), 'CROSSSLOT', 'MULTI over slots');
        }
        throw new Exception('MULTI over slots was not refused');
    }
}

function scripts()
{
    $r = connect();
    $sha = $r->script('load', 'return {KEYS[1], ARGV[1]}');
    foreach (['{a}', '{b}', '{c}'] as $key) {
        expect($r->evalSha($sha, [$key, 'x'], 1), [$key, 'x'], 'EVALSHA');
    }
}

function subscriptions()
{
    $command = ['setpriv', '--pdeathsig', 'KILL', '--', PHP_BINARY, __FILE__, 'publisher'];
    $publisher = proc_open($command, [], $pipes);
    $got = [];
    $r = connect();
    $r->setOption(Redis::OPT_READ_TIMEOUT, 20);
    try {
        $r->psubscribe(['n*'], function ($r, $pattern, $channel, $text) use (&$got) {
            $got[] = $text;
            if ($text === '99') {
                // This version of the library leaves the loop by the end of the connection only.
                $r->close();
            }
        });
    } catch (RedisException $e) {
    }
    expect($got, array_map('strval', range(0, 99)), 'messages in order');
    expect(proc_close($publisher), 0, 'the publisher');
}

function publisher()
{
    $r = connect();
    for ($tries = 0; $r->pubsub('numpat') === 0; $tries++) {
        $tries < 2000 or throw new Exception('nobody subscribes');
        usleep(10000);
    }
    for ($n = 0; $n < 100; $n++) {
        $r->publish('news', (string) $n);
    }
}

function sessions()
{
    global $port;
    ini_set('session.save_handler', 'redis');
    ini_set('session.save_path', "tcp://127.0.0.1:$port?prefix=sess:");
    ini_set('session.use_cookies', '0');
    ini_set('redis.session.locking_enabled', '1');
    session_cache_limiter('');
    session_id('visitor');
    session_start();
    $_SESSION['cart'] = [1, 2];
    session_write_close();
    $_SESSION = [];
    session_id('visitor');
    session_start();
    expect($_SESSION['cart'], [1, 2], 'a session');
    session_destroy();
    expect(connect()->exists('sess:visitor'), 0, 'a session that was ended');
}

function cluster()
{
    global $port;
    $c = new RedisCluster(null, ["127.0.0.1:$port"]);
    for ($n = 0; $n < 100; $n++) {
        $c->set("c:$n", $n);
    }
    expect($c->mGet(['c:1', 'c:2', 'none']), ['1', '2', false], 'MGET of the cluster client');
    expect($c->multi()->set('{t}n', 1)->incr('{t}n')->exec(), [true, 2], 'MULTI of the cluster client');
    echo 'masters ' . json_encode($c->_masters()), "\n";
    expect($c->_masters(), [['127.0.0.1', $port]], 'the masters');
}

if (($argv[1] ?? '') === 'publisher') {
    publisher();
    exit(0);
}
$parts = array_slice($argv, 1) ?: array_merge(
    ['sessions', 'keys', 'pipelines_and_transactions', 'scripts', 'subscriptions'], $behindProxy ? ['cluster'] : [],
);
foreach ($parts as $part) {
    fwrite(STDERR, "part $part\n");
    $part();
}
echo "ok\n";
