"""redis-py's asyncio client in its ordinary, non-cluster mode."""

import asyncio

import redis.asyncio as redis
from redis.backoff import NoBackoff
from redis.asyncio.retry import Retry

from common import HOST, LIMIT, PORT, RESP, expect, run


def connect(**options):
    return redis.Redis(
        host=HOST, port=PORT, protocol=RESP, retry=Retry(NoBackoff(), 0), max_connections=300, decode_responses=True,
        **options,
    )


def asynchronous(part):
    """Runs a part on a loop of its own, within the limit."""

    def runs():
        async def limited():
            async with connect() as r:
                await asyncio.wait_for(part(r), LIMIT)

        asyncio.run(limited())

    runs.__name__ = part.__name__
    return runs


@asynchronous
async def many_at_once(r):
    await r.flushall()
    expect(await asyncio.gather(*[r.set(f"k:{n}", n) for n in range(200)]), [True] * 200, "SETs at once")
    expect(await asyncio.gather(*[r.get(f"k:{n}") for n in range(200)]), [str(n) for n in range(200)], "GETs")
    expect(len([key async for key in r.scan_iter(match="k:*")]) >= 200, True, "SCAN")
    async with r.pipeline(transaction=True) as pipe:
        expect(await pipe.set("{t}a", 1).incr("{t}a").execute(), [True, 2], "MULTI")

    async def twice(pipe):
        value = int(await pipe.get("{t}a"))
        pipe.multi()
        pipe.set("{t}a", value * 2)

    expect(await r.transaction(twice, "{t}a"), [True], "transaction()")
    script = r.register_script("return redis.call('GET', KEYS[1])")
    expect(await script(keys=["{t}a"]), "4", "a script")


@asynchronous
async def blocking_and_cancelled(r):
    """A cancelled task closes its connection: nobody may take a job in its name."""
    # With a time limit of its own, so that the wait below ends for both reasons.
    task = asyncio.create_task(r.blpop("{t}q", timeout=15))
    while not any("b" in client["flags"] for client in await r.client_list()):
        await asyncio.sleep(0.01)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass
    while any("b" in client["flags"] for client in await r.client_list()):
        await asyncio.sleep(0.01)
    await r.rpush("{t}q", "kept")
    expect(await r.lrange("{t}q", 0, -1), ["kept"], "a job nobody took")
    expect([*await r.blpop("{t}q", timeout=5)], ["{t}q", "kept"], "BLPOP")


@asynchronous
async def locks(r):
    order = []

    async def work(name):
        async with r.lock("lock", timeout=20, sleep=0.005):
            order.append(name)
            await asyncio.sleep(0)
            order.append(name)

    await asyncio.gather(*[work(n) for n in range(10)])
    expect(order[0::2], order[1::2], "one owner at a time")


@asynchronous
async def subscriptions(r):
    async with r.pubsub() as pubsub:
        await pubsub.subscribe("news")
        await pubsub.psubscribe("new*")
        for kind in ("subscribe", "psubscribe"):
            expect((await pubsub.get_message(timeout=10))["type"], kind, kind)
        publishing = asyncio.gather(*[r.publish("news", n) for n in range(50)])
        got = [(await pubsub.get_message(timeout=10))["type"] for _ in range(100)]
        expect((got.count("message"), got.count("pmessage")), (50, 50), "messages of both kinds")
        expect(await publishing, [2] * 50, "PUBLISH counts both")
        await pubsub.unsubscribe()
        await pubsub.punsubscribe()


if __name__ == "__main__":
    run(many_at_once, blocking_and_cancelled, locks, subscriptions)
