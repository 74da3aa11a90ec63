"""redis-py's cluster clients on the proxy's port: they see one node that owns every slot."""

import asyncio

from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.cluster import RedisCluster

from common import HOST, LIMIT, PORT, RESP, InThread, expect, run, wait_for

r = RedisCluster(host=HOST, port=PORT, protocol=RESP, decode_responses=True)


def the_nodes():
    """All addresses the client knows are the one it was given."""
    nodes = [(node.host, node.port, node.server_type) for node in r.get_nodes()]
    expect(nodes, [(HOST, PORT, "primary")], "the nodes")
    expect({port for _, port in [key.rsplit(":", 1) for key in r.cluster_nodes()]}, {str(PORT)}, "CLUSTER NODES")
    slots = r.cluster_slots()
    print("CLUSTER SLOTS", slots)
    shards = r.cluster_shards()
    print("CLUSTER SHARDS", shards)
    expect(len(shards), 1, "CLUSTER SHARDS")
    expect(r.cluster_info()["cluster_state"], "ok", "CLUSTER INFO")
    expect(r.cluster_keyslot("{user}:1"), r.keyslot("{user}:1"), "CLUSTER KEYSLOT")
    r.set("{user}:1", "x")
    expect(r.cluster_countkeysinslot(r.keyslot("{user}:1")), 1, "CLUSTER COUNTKEYSINSLOT")
    expect(r.cluster_get_keys_in_slot(r.keyslot("{user}:1"), 5), ["{user}:1"], "CLUSTER GETKEYSINSLOT")
    mine = r.cluster_myid(r.get_random_node())
    print("CLUSTER MYID", mine)
    expect(r.cluster_replicas(mine) in ({}, []), True, "CLUSTER REPLICAS")
    expect(r.cluster_links(r.get_random_node()), [], "CLUSTER LINKS")


def keys():
    expect(r.set("a", 1), True, "SET")
    expect(r.incr("a"), 2, "INCR")
    names = {f"k:{n}": str(n) for n in range(200)}
    expect(all(r.mset_nonatomic(names)), True, "MSET one by one slot")
    expect(r.mget_nonatomic(list(names)), list(names.values()), "MGET one by one slot")
    expect(r.delete(*list(names)[:50]), 50, "DEL over slots")
    expect(r.exists(*names), 150, "EXISTS over slots")
    expect(set(r.scan_iter(match="k:*", count=40)), set(list(names)[50:]), "SCAN")
    expect(len(r.keys("k:*", target_nodes=RedisCluster.ALL_NODES)), 150, "KEYS")
    expect(r.dbsize(target_nodes=RedisCluster.PRIMARIES), 150 + 2, "DBSIZE")
    expect(r.rename("a", "a2") if r.keyslot("a") == r.keyslot("a2") else True, True, "RENAME")
    expect(r.mset({"{t}a": 1, "{t}b": 2}), True, "MSET in one slot")
    expect(r.mget("{t}a", "{t}b"), ["1", "2"], "MGET in one slot")


def pipelines():
    with r.pipeline() as pipe:
        for n in range(300):
            pipe.set(f"p:{n}", n).get(f"p:{n}")
        expect(pipe.execute()[1::2], [str(n) for n in range(300)], "a cluster pipeline")
    with r.pipeline(transaction=True) as pipe:
        expect(pipe.set("{t}n", 1).incr("{t}n").execute(), ["OK", 2], "a cluster transaction")

    def twice(pipe):
        value = int(pipe.get("{t}n"))
        pipe.multi()
        pipe.set("{t}n", value * 2)

    expect(r.transaction(twice, "{t}n"), ["OK"], "transaction()")
    expect(r.get("{t}n"), "4", "its outcome")


def scripts_and_locks():
    script = r.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    expect([script(keys=[key], args=[5]) for key in ("{a}s", "{b}s", "{c}s")], [5, 5, 5], "scripts on all shards")
    with r.lock("{t}lock", timeout=20):
        expect(r.lock("{t}lock").acquire(blocking=False), False, "a held lock")
    waiting = InThread(lambda: r.blpop("{t}q", timeout=20))
    r.rpush("{t}q", "job")
    expect([*waiting.finish()], ["{t}q", "job"], "BLPOP")


def subscriptions():
    pubsub = r.pubsub()
    pubsub.subscribe("news")
    pubsub.psubscribe("n*")
    for kind in ("subscribe", "psubscribe"):
        expect(pubsub.get_message(timeout=10)["type"], kind, kind)
    expect(r.publish("news", "x"), 2, "PUBLISH")
    expect({pubsub.get_message(timeout=10)["type"] for _ in range(2)}, {"message", "pmessage"}, "messages")
    pubsub.close()


def sharded_subscriptions():
    pubsub = r.pubsub()
    names = ["{a}shard", "{b}shard", "{c}shard"]
    pubsub.ssubscribe(*names)

    def message(kind):
        return wait_for(
            lambda: (lambda m: m if m and m["type"] == kind else None)(pubsub.get_sharded_message(timeout=1)), kind
        )

    for _ in names:
        message("ssubscribe")
    for name in names:
        expect(r.spublish(name, name), 1, "SPUBLISH")
    expect(sorted(message("smessage")["data"] for _ in names), names, "messages of three shards")
    pubsub.sunsubscribe()
    pubsub.close()


def asyncio_cluster():
    async def work():
        async with AsyncRedisCluster(host=HOST, port=PORT, protocol=RESP, decode_responses=True) as a:
            nodes = [(node.host, node.port) for node in a.get_nodes()]
            expect(nodes, [(HOST, PORT)], "the nodes")
            await asyncio.gather(*[a.set(f"async:{n}", n) for n in range(100)])
            got = await asyncio.gather(*[a.get(f"async:{n}") for n in range(100)])
            expect(got, [str(n) for n in range(100)], "GETs at once")
            expect(await a.mget_nonatomic("async:1", "async:2"), ["1", "2"], "MGET one by one slot")
            pipe = a.pipeline()
            for n in range(100):
                pipe.get(f"async:{n}")
            expect(await pipe.execute(), [str(n) for n in range(100)], "a pipeline")
            expect(len([key async for key in a.scan_iter(match="async:*")]), 100, "SCAN")

    asyncio.run(asyncio.wait_for(work(), LIMIT))


if __name__ == "__main__":
    r.flushall()
    run(
        the_nodes, keys, pipelines, scripts_and_locks, subscriptions, sharded_subscriptions,
        asyncio_cluster,
    )
