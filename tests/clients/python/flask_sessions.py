"""Flask-Session: server-side sessions of a Flask application."""

from datetime import timedelta

from flask import Flask, session
from flask_session import Session

from redis import Redis

from common import HOST, PORT, RESP, expect, run

redis = Redis(host=HOST, port=PORT, protocol=RESP)
app = Flask("shop")
app.config.update(
    SESSION_TYPE="redis", SESSION_REDIS=redis, SESSION_PERMANENT=True,
    PERMANENT_SESSION_LIFETIME=timedelta(seconds=100),
)
Session(app)


@app.get("/add/<item>")
def add(item):
    session["cart"] = [*session.get("cart", []), item]
    return {"cart": session["cart"]}


@app.get("/clear")
def clear():
    session.clear()
    return {}


def sessions():
    visitors = [app.test_client() for _ in range(20)]
    for n, visitor in enumerate(visitors):
        expect(visitor.get(f"/add/{n}").json, {"cart": [str(n)]}, "a first visit")
    for n, visitor in enumerate(visitors):
        expect(visitor.get("/add/x").json, {"cart": [str(n), "x"]}, "a second visit")
    keys = list(redis.scan_iter(match="session:*"))
    expect(len(keys), 20, "sessions in Redis")
    expect(all(0 < redis.ttl(key) <= 100 for key in keys), True, "they expire")
    visitors[0].get("/clear")
    expect(visitors[0].get("/add/y").json, {"cart": ["y"]}, "a visit after the end of the session")


if __name__ == "__main__":
    redis.flushall()
    run(sessions)
