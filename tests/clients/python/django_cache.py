"""Django's caches: django-redis and the backend Django itself has, with sessions in the cache."""

import django
from django.conf import settings

from redis import Redis
from redis.exceptions import ClusterCrossSlotError

from common import BEHIND_PROXY, HOST, PORT, RESP, InThread, expect, expect_error, run

URL = f"redis://{HOST}:{PORT}/0?protocol={RESP}"


class PlainPipelines(Redis):
    """What several keys of a cache want of a pipeline is fewer round trips, not atomicity: without
    MULTI the keys may lie on any shard."""

    def pipeline(self, transaction=False, shard_hint=None):
        return super().pipeline(transaction=False, shard_hint=shard_hint)


def django_redis(prefix, **options):
    return {
        "BACKEND": "django_redis.cache.RedisCache", "LOCATION": URL, "KEY_PREFIX": prefix, "OPTIONS": options,
    }


settings.configure(
    CACHES={
        "default": django_redis("{shop}"),
        "spread": django_redis("spread", REDIS_CLIENT_CLASS=f"{__name__}.PlainPipelines"),
        "untagged": django_redis("untagged"),
        "own": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": URL, "KEY_PREFIX": "{own}",
        },
    },
    INSTALLED_APPS=["django.contrib.sessions"],
    SESSION_ENGINE="django.contrib.sessions.backends.cache",
    SECRET_KEY="of no value",
)
django.setup()

from django.contrib.sessions.backends.cache import SessionStore  # noqa: E402
from django.core.cache import caches  # noqa: E402

cache = caches["default"]


def every_cache():
    for c in (cache, caches["spread"], caches["own"]):
        c.clear()
        expect(c.get("absent", "default"), "default", "get of nothing")
        c.set("a", {"b": [1, 2]}, timeout=60)
        expect(c.get("a"), {"b": [1, 2]}, "get")
        expect((c.add("a", 1), c.add("new", 1)), (False, True), "add")
        many = {f"many:{n}": n for n in range(100)}
        expect(c.set_many(many, timeout=60) or [], [], "set_many")
        expect(c.get_many([*many, "absent"]), many, "get_many")
        c.delete_many(list(many)[:50])
        expect(len(c.get_many(many)), 50, "delete_many")
        c.set("n", 1)
        expect((c.incr("n", 5), c.decr("n", 2)), (6, 4), "incr and decr")
        expect_error(ValueError, "", "incr of nothing", c.incr, "absent")
        expect((c.touch("n", 100), c.touch("absent", 100)), (True, False), "touch")
        expect(c.get_or_set("made", lambda: "here"), "here", "get_or_set")
        expect((c.has_key("made"), c.delete("made"), c.delete("made")), (True, True, False), "has_key, delete")
        c.set("v", "one", version=1)
        expect(c.incr_version("v"), 2, "incr_version: another key, mostly in another slot")
        expect(c.get("v", version=2), "one", "the value of the new version")
        c.clear()
        expect(c.get("a"), None, "get after clear")


def patterns():
    for c in (cache, caches["spread"]):
        patterns_of(c)


def patterns_of(cache):
    cache.clear()
    for n in range(200):
        cache.set(f"page:{n}", n)
    cache.set("other", 1)
    expect(len(cache.keys("page:*")), 200, "keys")
    expect(sum(1 for _ in cache.iter_keys("page:*")), 200, "iter_keys")
    expect(cache.delete_pattern("page:*"), 200, "delete_pattern")
    expect(cache.keys("*"), ["other"], "what is left")
    expect(cache.ttl("other") > 0, True, "ttl")
    expect((cache.persist("other"), cache.ttl("other")), (True, None), "persist")
    expect(cache.expire("other", timeout=50), True, "expire")
    cache.set("nx", 1, nx=True)
    expect(cache.set("nx", 2, nx=True), False, "set nx")


def without_a_tag():
    """What several keys of any slot still can."""
    c = caches["untagged"]
    many = {f"k:{n}": n for n in range(50)}
    for name, value in many.items():
        c.set(name, value)
    expect(c.get_many(many), many, "get_many over slots")
    expect(len(c.keys("k:*")), 50, "keys")
    if BEHIND_PROXY:
        # One MULTI with a command for each key.
        expect_error(ClusterCrossSlotError, "", "set_many over slots", c.set_many, many)
        expect_error(ClusterCrossSlotError, "", "delete_pattern over slots", c.delete_pattern, "k:*")
    c.delete_many(list(many))
    expect(c.get_many(many), {}, "delete_many over slots")


def locks():
    order = []

    def work(name):
        with cache.lock("the lock", timeout=20, sleep=0.005):
            order.extend([name, name])

    for thread in [InThread(work, n) for n in range(8)]:
        thread.finish()
    expect(order[0::2], order[1::2], "one owner at a time")


def sessions():
    session = SessionStore()
    session["cart"] = [1, 2]
    session.save()
    again = SessionStore(session.session_key)
    expect(again["cart"], [1, 2], "a session")
    again.cycle_key()
    expect(SessionStore(again.session_key)["cart"], [1, 2], "a session under its new key")
    again.delete()
    expect(SessionStore().exists(again.session_key), False, "a deleted session")


if __name__ == "__main__":
    run(every_cache, patterns, without_a_tag, locks, sessions)
