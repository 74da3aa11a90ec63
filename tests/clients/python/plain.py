"""redis-py in its ordinary, non-cluster mode, through the proxy.

Takes REDIS_HOST, REDIS_PORT, RESP (2 or 3) and LOOP_SECONDS from the environment; exits non-zero
with a traceback on the first wrong answer or error.
"""

import os
import sys
import threading
import time

import redis

HOST = os.environ.get("REDIS_HOST", "127.0.0.1")
PORT = int(os.environ["REDIS_PORT"])
RESP = int(os.environ.get("RESP", "2"))
LOOP_SECONDS = float(os.environ.get("LOOP_SECONDS", "2"))
LOOP_KEYS = 60


def connect(**options):
    return redis.Redis(host=HOST, port=PORT, protocol=RESP, **options)


def expect(got, wanted, what):
    if got != wanted:
        sys.exit(f"{what}: got {got!r}, wanted {wanted!r}")


def data_types(r):
    expect(r.set("py:s", "v", ex=100), True, "SET EX")
    expect(r.get("py:s"), b"v", "GET")
    expect(r.get("py:absent"), None, "GET of nothing")
    expect(0 < r.ttl("py:s") <= 100, True, "TTL")
    expect(r.expire("py:s", 200), True, "EXPIRE")
    blob = bytes(range(256)) * 64
    expect(r.set(b"py:\x00\xff\r\n", blob), True, "SET of binary")
    expect(r.get(b"py:\x00\xff\r\n"), blob, "GET of binary")
    r.delete("py:h", "py:h")
    expect(r.hset("py:h", mapping={"a": 1, "b": 2}), 2, "HSET")
    expect(r.hgetall("py:h"), {b"a": b"1", b"b": b"2"}, "HGETALL")
    r.delete("py:l")
    expect(r.rpush("py:l", 1, 2, 3), 3, "RPUSH")
    expect(r.lrange("py:l", 0, -1), [b"1", b"2", b"3"], "LRANGE")
    expect(r.lpop("py:l"), b"1", "LPOP")
    r.delete("py:z")
    expect(r.zadd("py:z", {"m": 1.5}), 1, "ZADD")
    expect(r.zscore("py:z", "m"), 1.5, "ZSCORE")
    expect(r.sadd("py:set", "x") in (0, 1), True, "SADD")
    expect(r.smembers("py:set"), {b"x"}, "SMEMBERS")
    entry = r.xadd("py:x", {"f": "v"}, maxlen=10)
    expect(r.xrange("py:x", entry, entry), [(entry, {b"f": b"v"})], "XRANGE")


def scripts(r):
    code = "return redis.call('INCRBY', KEYS[1], ARGV[1])"
    r.delete("py:counter")
    expect(r.eval(code, 1, "py:counter", 5), 5, "EVAL")
    try:
        r.eval("return redis.call('LPUSH', KEYS[1], 'x')", 1, "py:counter")
    except redis.ResponseError as error:
        expect("WRONGTYPE" in str(error), True, "script error")
    else:
        sys.exit("a script's error was swallowed")


def pipelines(r):
    with r.pipeline(transaction=False) as pipe:
        for n in range(1000):
            pipe.set(f"py:p:{n}", n)
            pipe.get(f"py:p:{n}")
        replies = pipe.execute()
    expect(replies[0::2], [True] * 1000, "pipeline SETs")
    expect(replies[1::2], [str(n).encode() for n in range(1000)], "pipeline GETs")


def threads(r):
    """One pool shared by several threads, as web frameworks do."""
    problems = []

    def work(name):
        try:
            for n in range(200):
                expect(r.incr(f"py:t:{name}"), n + 1, "INCR")
        except BaseException as error:  # noqa: BLE001 - carried to the main thread
            problems.append(error)

    for name in range(8):
        r.delete(f"py:t:{name}")
    workers = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if problems:
        raise problems[0]


def loop(r):
    for n in range(LOOP_KEYS):
        r.set(f"py:loop:{n}", n)
    print("looping", flush=True)
    end = time.monotonic() + LOOP_SECONDS
    reads = 0
    while time.monotonic() < end:
        for n in range(LOOP_KEYS):
            expect(r.get(f"py:loop:{n}"), str(n).encode(), "GET in the loop")
            reads += 1
    print(f"{reads} reads without an error", flush=True)


def main():
    plain = connect()
    expect(plain.ping(), True, "PING")
    data_types(plain)
    scripts(plain)
    pipelines(plain)
    threads(plain)
    with connect(username="default", password="ignored", client_name="py", decode_responses=True) as named:
        expect(named.client_getname(), "py", "CLIENT GETNAME")
        named.set("py:text", "ä")
        expect(named.get("py:text"), "ä", "text")
    url = redis.from_url(f"redis://{HOST}:{PORT}/0?protocol={RESP}")
    expect(url.ping(), True, "PING by URL")
    loop(plain)
    print("ok", flush=True)


if __name__ == "__main__":
    main()
