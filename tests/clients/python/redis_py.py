"""redis-py in its ordinary, non-cluster mode: what programs built on one server use of it."""

import threading
import uuid

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from common import BEHIND_PROXY, HOST, PORT, RESP, InThread, expect, expect_error, run, wait_for


def connect(**options):
    """Without retries, so that trouble surfaces instead of being hidden."""
    return redis.Redis(host=HOST, port=PORT, protocol=RESP, retry=Retry(NoBackoff(), 0), **options)


r = connect(decode_responses=True)


def strings():
    expect(r.mset({f"s:{n}": n for n in range(50)}), True, "MSET over slots")
    expect(r.mget([f"s:{n}" for n in range(51)]), [str(n) for n in range(50)] + [None], "MGET over slots")
    expect(r.exists(*[f"s:{n}" for n in range(60)]), 50, "EXISTS over slots")
    expect(r.touch("s:1", "s:2", "s:99"), 2, "TOUCH over slots")
    expect(r.delete(*[f"s:{n}" for n in range(25)]), 25, "DEL over slots")
    expect(r.unlink(*[f"s:{n}" for n in range(50)]), 25, "UNLINK over slots")
    expect(r.set("a", "1", nx=True), True, "SET NX")
    expect(r.set("a", "2", nx=True), None, "SET NX again")
    expect(r.set("a", "3", get=True), "1", "SET GET")
    expect(r.getset("a", "4"), "3", "GETSET")
    expect(r.incrbyfloat("f", 1.5), 1.5, "INCRBYFLOAT")
    expect(r.setrange("a", 2, "xy"), 4, "SETRANGE")
    expect(r.getdel("a"), "4\x00xy", "GETDEL")
    expect(r.setbit("bits", 7, 1), 0, "SETBIT")
    expect(r.bitcount("bits"), 1, "BITCOUNT")
    expect(r.bitfield("bits").get("u8", 0).execute(), [1], "BITFIELD")
    expect(r.pfadd("pf", "a", "b"), 1, "PFADD")
    expect(r.pfcount("pf"), 2, "PFCOUNT")
    expect(r.geoadd("geo", (13.361389, 38.115556, "Palermo")), 1, "GEOADD")
    expect(r.geosearch("geo", longitude=13, latitude=38, radius=99, unit="km"), ["Palermo"], "GEOSEARCH")
    expect(r.copy("{t}a", "{t}b"), False, "COPY of nothing")
    r.set("{t}a", "x")
    expect(r.rename("{t}a", "{t}b"), True, "RENAME in one slot")
    if BEHIND_PROXY:
        expect_error(redis.ResponseError, "hash to the same slot", "RENAME over slots", r.rename, "{t}b", "{u}b")
    expect(r.object("encoding", "{t}b"), "embstr", "OBJECT ENCODING")
    expect(r.memory_usage("{t}b") > 0, True, "MEMORY USAGE")
    raw = connect()
    expect(raw.restore("restored", 0, raw.dump("{t}b")), b"OK", "RESTORE of DUMP")
    r.rpush("{t}l", 3, 1, 2)
    expect(r.sort("{t}l", store="{t}sorted"), 3, "SORT STORE")
    expect(r.lrange("{t}sorted", 0, -1), ["1", "2", "3"], "LRANGE")
    expect(r.sinterstore("{t}i", "{t}none", "{t}none2"), 0, "SINTERSTORE")


def errors_are_typed():
    """What programs catch: the classes redis-py makes of error prefixes."""
    r.set("a", "text")
    expect_error(redis.ResponseError, "WRONGTYPE", "LPUSH to a string", r.lpush, "a", "x")
    expect_error(redis.exceptions.NoScriptError, "", "EVALSHA", r.evalsha, "0" * 40, 0)
    expect_error(redis.ResponseError, "unknown command", "unknown command", r.execute_command, "NOSUCH", "x")
    expect_error(redis.ResponseError, "wrong number of arguments", "GET", r.execute_command, "GET")


def the_server():
    r.flushall()
    r.mset({f"k:{n}": n for n in range(20)})
    expect(r.dbsize(), 20, "DBSIZE")
    expect(sorted(r.keys("k:1*")), sorted(["k:1"] + [f"k:1{n}" for n in range(10)]), "KEYS")
    expect(r.randomkey().startswith("k:"), True, "RANDOMKEY")
    info = r.info()
    expect(info["redis_mode"], "standalone", "redis_mode")
    expect(info["db0"]["keys"], 20, "INFO keyspace")
    expect(r.info("server")["redis_version"], info["redis_version"], "INFO server")
    expect(len(r.time()), 2, "TIME")
    expect("maxmemory" in r.config_get("maxmemory"), True, "CONFIG GET")
    expect(r.command_count() > 200, True, "COMMAND COUNT")
    expect(r.command()["get"]["first_key_pos"], 1, "COMMAND")
    expect(r.slowlog_reset(), True, "SLOWLOG RESET")
    expect(r.slowlog_len() >= 0, True, "SLOWLOG LEN")
    expect(r.lastsave() is not None, True, "LASTSAVE")
    expect(r.role()[0], "master", "ROLE")
    expect(r.wait(0, 10), 0, "WAIT")
    expect(r.echo("e"), "e", "ECHO")
    expect(r.flushdb(), True, "FLUSHDB")
    expect(r.dbsize(), 0, "DBSIZE after FLUSHDB")
    expect(r.randomkey(), None, "RANDOMKEY of nothing")


def connections():
    with connect(client_name="named", decode_responses=True, single_connection_client=True) as named:
        ident = named.client_id()
        mine = named.client_info()
        expect(mine["name"], "named", "CLIENT INFO")
        expect(mine["lib-name"] if "lib-name" in mine else "redis-py", "redis-py", "CLIENT SETINFO")
        expect([c["id"] for c in r.client_list() if c["name"] == "named"], [str(ident)], "CLIENT LIST")
        expect(r.client_kill_filter(_id=str(ident)), 1, "CLIENT KILL ID")
        expect_error(redis.ConnectionError, "", "a killed client", named.ping)
    db_error = connect(db=1)
    if BEHIND_PROXY:
        expect_error(redis.ResponseError, "DB index is out of range", "database 1", db_error.ping)
    pool = redis.BlockingConnectionPool(host=HOST, port=PORT, protocol=RESP, max_connections=2, timeout=20)
    shared = redis.Redis(connection_pool=pool)
    workers = [InThread(lambda: [shared.incr("pool") for _ in range(50)]) for _ in range(6)]
    for worker in workers:
        worker.finish()
    expect(shared.get("pool"), b"300", "INCRs of six threads over two connections")
    pool.disconnect()
    expect(shared.ping(), True, "PING on a pool whose connections were closed")
    pool.disconnect()


def pipelines():
    with r.pipeline(transaction=False) as pipe:
        for n in range(500):
            pipe.set(f"p:{n}", n).get(f"p:{n}")
        pipe.lpush("p:1", "x")
        replies = pipe.execute(raise_on_error=False)
    expect(replies[1:1000:2], [str(n) for n in range(500)], "GETs of a pipeline")
    expect(isinstance(replies[1000], redis.ResponseError), True, "an error inside a pipeline")
    with r.pipeline() as pipe:
        replies = pipe.set("{t}1", 1).incr("{t}1").get("{t}1").execute()
    expect(replies, [True, 2, "2"], "MULTI in one slot")
    # Not one key: ordinary code asks for keys of any slot.
    with r.pipeline() as pipe:
        pipe.set("{t}1", 1).set("{u}1", 1)
        if BEHIND_PROXY:
            expect_error(redis.exceptions.ClusterCrossSlotError, "", "MULTI over slots", pipe.execute)
            expect(r.get("{t}1"), "2", "nothing of a refused transaction was done")
        else:
            expect(pipe.execute(), [True, True], "MULTI over slots")


def transactions():
    r.set("{t}balance", 10)
    other = connect()
    runs = []

    def withdraw(pipe):
        balance = int(pipe.get("{t}balance"))
        runs.append(balance)
        if len(runs) < 3:
            other.decr("{t}balance")
        pipe.multi()
        pipe.set("{t}balance", balance - 1)
        pipe.rpush("{t}log", balance)

    expect(r.transaction(withdraw, "{t}balance"), [True, 1], "transaction()")
    expect(runs, [10, 9, 8], "transaction() was repeated while others wrote")
    expect(r.get("{t}balance"), "7", "the transaction's outcome")
    with r.pipeline() as pipe:
        pipe.watch("{t}balance")
        pipe.unwatch()
        other.set("{t}balance", 0)
        pipe.multi()
        expect(pipe.get("{t}balance").execute(), ["0"], "EXEC after UNWATCH")
        pipe.watch("{t}balance")
        other.set("{t}balance", 1)
        pipe.multi()
        pipe.get("{t}balance")
        expect_error(redis.WatchError, "", "EXEC of a touched WATCH", pipe.execute)


def locks():
    lock = r.lock("lock", timeout=30)
    expect(lock.acquire(blocking=False), True, "acquire")
    rival = connect(decode_responses=True).lock("lock", timeout=30, thread_local=False)
    expect(rival.acquire(blocking=False), False, "acquire of a held lock")
    expect(lock.extend(10), True, "extend")
    expect(lock.reacquire(), True, "reacquire")
    waiting = InThread(rival.acquire, 0.01)
    lock.release()
    expect(waiting.finish(), True, "a waiting acquire")
    expect(rival.owned(), True, "owned")
    rival.release()
    expect_error(redis.exceptions.LockError, "", "a second release", rival.release)


def scripts():
    r.script_flush()
    add = r.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    expect(add(keys=["{t}n"], args=[2]), 2, "EVALSHA of a new script")
    expect(add(keys=["{u}n"], args=[3]), 3, "EVALSHA on another shard")
    expect(r.script_exists(add.sha, "0" * 40), [True, False], "SCRIPT EXISTS")
    both = r.register_script("return {redis.call('GET', KEYS[1]), redis.call('GET', KEYS[2]), ARGV[1], 1, {2}}")
    with r.pipeline() as pipe:
        both(keys=["{t}n", "{t}none"], args=["x"], client=pipe)
        expect(pipe.execute(), [["2", None, "x", 1, [2]]], "a script inside MULTI")
    with r.pipeline(transaction=False) as pipe:
        add(keys=["{t}n"], args=[1], client=pipe)
        add(keys=["{u}n"], args=[1], client=pipe)
        expect(pipe.execute(), [3, 4], "scripts in a pipeline")
    library = "#!lua name=lib\nredis.register_function('twice', function(k, a) return a[1] * 2 end)"
    expect(r.function_load(library, replace=True), "lib", "FUNCTION LOAD")
    expect([r.fcall("twice", 1, key, 4) for key in ("{t}", "{u}", "{v}")], [8, 8, 8], "FCALL on all shards")
    expect(len(r.function_list()), 1, "FUNCTION LIST")
    expect(r.function_delete("lib"), True, "FUNCTION DELETE")


def blocked_client():
    return [c for c in r.client_list() if "b" in c["flags"]]


def blocking():
    names = ["{t}q1", "{t}q2"]
    expect(r.blpop(names, timeout=0.05), None, "BLPOP that times out")
    waiting = InThread(lambda: connect().blpop(names, timeout=20))
    wait_for(blocked_client, "a blocked client in CLIENT LIST")
    expect(r.rpush("{t}q2", "job"), 1, "RPUSH")
    expect([*waiting.finish()], [b"{t}q2", b"job"], "BLPOP")
    waiting = InThread(lambda: r.blmove("{t}q1", "{t}done", 20, "LEFT", "RIGHT"))
    connect().rpush("{t}q1", "a")
    expect(waiting.finish(), "a", "BLMOVE")
    waiting = InThread(lambda: r.brpoplpush("{t}done", "{t}q1", 20))
    expect(waiting.finish(), "a", "BRPOPLPUSH")
    waiting = InThread(lambda: r.bzpopmin("{t}z", timeout=20))
    connect().zadd("{t}z", {"m": 1})
    expect([*waiting.finish()], ["{t}z", "m", 1.0], "BZPOPMIN")
    expect(r.blmpop(0.05, 1, "{t}q9", direction="LEFT"), None, "BLMPOP that times out")


def scans():
    r.flushall()
    wanted = {f"scan:{n}" for n in range(1000)}
    with r.pipeline(transaction=False) as pipe:
        for name in wanted:
            pipe.set(name, 1)
        pipe.rpush("scan:list", 1)
        pipe.execute()
    found = list(r.scan_iter(match="scan:*", count=50))
    expect(set(found), wanted | {"scan:list"}, "SCAN")
    expect(list(r.scan_iter(_type="list")), ["scan:list"], "SCAN TYPE")
    expect(list(r.scan_iter(match="none:*")), [], "SCAN of nothing")
    r.hset("h", mapping={f"f{n}": n for n in range(600)})
    expect(dict(r.hscan_iter("h")), {f"f{n}": str(n) for n in range(600)}, "HSCAN")
    r.sadd("set", *range(600))
    expect(set(r.sscan_iter("set", match="5?")), {str(n) for n in range(50, 60)}, "SSCAN")
    r.zadd("zs", {f"m{n}": n for n in range(200)})
    expect(dict(r.zscan_iter("zs"))["m7"], 7.0, "ZSCAN")


def streams():
    r.delete("x")
    expect(r.xgroup_create("x", "g", id="0", mkstream=True), True, "XGROUP CREATE")
    expect_error(redis.ResponseError, "BUSYGROUP", "XGROUP CREATE again", r.xgroup_create, "x", "g")
    ids = [r.xadd("x", {"n": n}) for n in range(5)]

    def entries(reply):
        """Of the one stream asked for, in RESP2's list or RESP3's map."""
        pairs = reply.items() if isinstance(reply, dict) else reply
        for name, got in pairs:
            expect(name, "x", "the stream's name")
            got = got[0] if RESP == 3 and got and isinstance(got[0], list) and len(got) == 1 else got
            return [entry[0] for entry in got]

    expect(entries(r.xreadgroup("g", "one", {"x": ">"}, count=2)), ids[:2], "XREADGROUP")
    expect(entries(r.xreadgroup("g", "two", {"x": ">"}, count=9, block=1000)), ids[2:], "XREADGROUP BLOCK")
    expect(r.xpending("x", "g")["pending"], 5, "XPENDING")
    expect(r.xack("x", "g", ids[0], ids[1]), 2, "XACK")
    expect([m for m, _ in r.xautoclaim("x", "g", "three", 0)[1]], ids[2:], "XAUTOCLAIM")
    expect(r.xinfo_groups("x")[0]["pending"], 3, "XINFO GROUPS")
    expect(r.xlen("x"), 5, "XLEN")
    expect(r.xtrim("x", maxlen=1, approximate=False), 4, "XTRIM")
    waiting = InThread(lambda: connect(decode_responses=True).xread({"x": "$"}, block=20000))
    wait_for(blocked_client, "a blocked client in CLIENT LIST")
    last = r.xadd("x", {"n": 9})
    expect(entries(waiting.finish()), [last], "XREAD BLOCK")


def subscriptions():
    pubsub = r.pubsub()
    channel, pattern = f"c:{uuid.uuid4()}", "p:*"
    pubsub.subscribe(channel)
    pubsub.psubscribe(pattern)
    expect(pubsub.get_message(timeout=10)["type"], "subscribe", "SUBSCRIBE")
    expect(pubsub.get_message(timeout=10)["type"], "psubscribe", "PSUBSCRIBE")
    expect(r.publish(channel, "hello"), 1, "PUBLISH")
    expect(r.publish("p:1", "match"), 1, "PUBLISH to a pattern")
    expect(pubsub.get_message(timeout=10)["data"], "hello", "a message")
    message = pubsub.get_message(timeout=10)
    expect((message["pattern"], message["channel"], message["data"]), (pattern, "p:1", "match"), "a pmessage")
    expect(r.pubsub_channels(), [channel], "PUBSUB CHANNELS")
    expect(r.pubsub_numsub(channel, "none"), [(channel, 1), ("none", 0)], "PUBSUB NUMSUB")
    expect(r.pubsub_numpat(), 1, "PUBSUB NUMPAT")
    if RESP == 2:
        # With RESP3 the library itself reads PONG as a message of four letters.
        pubsub.ping()
        expect(pubsub.get_message(timeout=10)["type"], "pong", "PING while subscribed")
    pubsub.unsubscribe()
    pubsub.punsubscribe()
    wait_for(lambda: pubsub.get_message(timeout=1) is not None and not pubsub.subscribed, "the end of all")
    expect(r.publish(channel, "nobody"), 0, "PUBLISH to nobody")
    pubsub.close()
    # The thread that web programs run for handlers.
    got, seen = [], threading.Event()

    def handler(message):
        got.append(message["data"])
        if len(got) == 100:
            seen.set()

    listening = r.pubsub(ignore_subscribe_messages=True)
    listening.subscribe(**{"handled": handler})
    thread = listening.run_in_thread(sleep_time=0.05)
    wait_for(lambda: r.pubsub_numsub("handled")[0][1] == 1, "the subscription")
    for n in range(100):
        r.publish("handled", n)
    expect(seen.wait(20), True, "a hundred messages")
    expect(got, [str(n) for n in range(100)], "messages in order")
    thread.stop()
    thread.join(20)
    expect(thread.is_alive(), False, "the end of the thread")


def sharded_subscriptions():
    pubsub = r.pubsub()
    names = ["{t}sharded", "{u}sharded", "{v}sharded"]
    for name in names:
        pubsub.ssubscribe(name)
        expect(pubsub.get_message(timeout=10)["type"], "ssubscribe", "SSUBSCRIBE")
    for name in names:
        expect(r.spublish(name, name), 1, "SPUBLISH")
    got = [pubsub.get_message(timeout=10)["data"] for _ in names]
    expect(sorted(got), sorted(names), "messages of sharded channels")
    expect(sorted(r.execute_command("PUBSUB", "SHARDCHANNELS")), sorted(names), "PUBSUB SHARDCHANNELS")
    pubsub.close()


def monitor():
    with r.monitor() as seen:
        mark = f"mark:{uuid.uuid4()}"
        connect().get(mark)
        for _ in range(1000):
            command = seen.next_command()
            if command["command"].upper() == f"GET {mark}".upper():
                return
    raise AssertionError("MONITOR did not show the command")


def client_side_caching():
    """Refused by the library before server 7.4; the test's server is older and speaks it as well."""
    if RESP != 3:
        return
    from redis.cache import CacheConfig
    from redis.connection import CacheProxyConnection

    CacheProxyConnection.MIN_ALLOWED_VERSION = "7.0.0"
    cached = connect(cache_config=CacheConfig(), decode_responses=True)
    cache = cached.get_cache()
    names = [f"cached:{n}" for n in range(12)]
    r.mset({name: "old" for name in names})
    for name in names:
        expect(cached.get(name), "old", "a first GET")
        expect(cached.get(name), "old", "a cached GET")
    expect(cache.size, len(names), "entries of the cache")
    for name in names:
        r.set(name, "new")
    for name in names:
        wait_for(lambda name=name: cached.get(name) == "new", f"the invalidation of {name}")
    r.flushall()
    for name in names:
        wait_for(lambda name=name: cached.get(name) is None, "the invalidation by FLUSHALL")
    cached.close()


if __name__ == "__main__":
    r.flushall()
    run(
        strings, errors_are_typed, the_server, connections, pipelines, transactions, locks, scripts,
        blocking, scans, streams, subscriptions, sharded_subscriptions, monitor, client_side_caching,
    )
