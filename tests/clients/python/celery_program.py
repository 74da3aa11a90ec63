"""Celery: broker and result backend on the proxy, one worker with two processes.

Behind the proxy is a cluster, so the keys of the broker share a hash tag, and so do those of the
results: `global_keyprefix` does it without a change of the tasks.
"""

import sys
import time

from celery import Celery, chain, chord, group, states
from celery.exceptions import TaskRevokedError

from common import HOST, PORT, Worker, expect, run, wait_for

URL = f"redis://{HOST}:{PORT}/0"

app = Celery("celery_program", broker=URL, backend=URL)
app.conf.update(
    broker_transport_options={"global_keyprefix": "{celery}:", "visibility_timeout": 3600},
    result_backend_transport_options={"global_keyprefix": "{celery-results}:"},
    broker_connection_retry_on_startup=False,
    broker_connection_retry=False,
    task_queues=None,
    task_create_missing_queues=True,
    worker_prefetch_multiplier=4,
    result_extended=True,
)


@app.task
def add(a, b):
    return a + b


@app.task
def total(numbers):
    return sum(numbers)


@app.task(bind=True, max_retries=5)
def third_time(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return self.request.retries


@app.task
def fails():
    raise ValueError("as told")


@app.task(bind=True)
def progress(self, key):
    self.update_state(state="PROGRESS", meta={"step": 1})
    while self.backend.client.get(key) is None:
        time.sleep(0.01)
    return "done"


def results():
    expect(add.delay(2, 3).get(timeout=20), 5, "a result")
    many = [add.delay(n, n) for n in range(50)]
    expect([one.get(timeout=20) for one in many], [2 * n for n in range(50)], "fifty results")
    expect(add.apply_async((1, 1), priority=9).get(timeout=20), 2, "a task with a priority")
    expect(third_time.delay().get(timeout=20), 2, "a task that was retried")
    failed = fails.delay()
    expect(type(failed.get(timeout=20, propagate=False)).__name__, "ValueError", "an exception")
    expect(failed.state, states.FAILURE, "its state")
    failed.forget()
    expect(failed.state, states.PENDING, "a result that was forgotten")
    expect(add.apply_async((1, 2), countdown=0.5).get(timeout=20), 3, "a task with a countdown")


def workflows():
    expect(chain(add.s(1, 2), add.s(10), add.s(100)).apply_async().get(timeout=20), 113, "a chain")
    many = group(add.s(n, 1) for n in range(20)).apply_async()
    expect(many.join_native(timeout=20), [n + 1 for n in range(20)], "a group")
    expect(many.completed_count(), 20, "the group's count")
    expect(chord([add.s(n, n) for n in range(20)])(total.s()).get(timeout=20), 380, "a chord")
    nested = chain(group(add.s(1, 1), add.s(2, 2)), total.s(), add.s(1))
    expect(nested.apply_async().get(timeout=20), 7, "a chord inside a chain")


def states_of_a_task():
    running = progress.delay("{celery-results}:go")
    wait_for(lambda: running.state == "PROGRESS", "the state a task sets itself")
    expect(running.info, {"step": 1}, "its meta")
    app.backend.client.set("{celery-results}:go", 1)
    expect(running.get(timeout=20), "done", "its result")


def remote_control():
    inspect = app.control.inspect(timeout=5, limit=1)
    name = f"one@{HOST}"
    expect(inspect.ping(), {name: {"ok": "pong"}}, "inspect ping")
    expect("celery_program.add" in inspect.registered()[name], True, "inspect registered")
    expect(inspect.active_queues()[name][0]["name"], "celery", "inspect active_queues")
    later = add.apply_async((1, 1), countdown=3000)
    wait_for(lambda: [t for t in (inspect.scheduled() or {}).get(name, []) if t["request"]["id"] == later.id],
             "a scheduled task")
    later.revoke()
    wait_for(lambda: later.id in (inspect.revoked() or {}).get(name, []), "a revoked task")
    # A running task is ended as well.
    running = progress.delay("{celery-results}:never")
    wait_for(lambda: running.state == "PROGRESS", "a running task")
    running.revoke(terminate=True, signal="SIGKILL")
    try:
        running.get(timeout=20)
    except TaskRevokedError:
        pass
    else:
        raise AssertionError("a revoked task had a result")
    reply = app.control.rate_limit("celery_program.add", "1000/s", reply=True, timeout=5, limit=1)
    expect([*reply[0]], [name], "a broadcast with replies")
    expect(app.control.purge(), 0, "purge")


def start():
    global worker
    worker = Worker(
        sys.executable, "-m", "celery", "-A", "celery_program", "worker", "--hostname", f"one@{HOST}",
        "--concurrency", "2", "--loglevel", "WARNING", "--without-gossip", "--without-mingle",
    )
    worker.wait_until(lambda: app.control.ping(timeout=1, limit=1), "the worker's start")


def stop():
    app.control.shutdown()
    worker.ended()


if __name__ == "__main__":
    run(start, results, workflows, states_of_a_task, remote_control, stop)
