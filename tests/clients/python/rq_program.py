"""RQ: queue, results, dependencies, retries, scheduler and the commands to a worker.

RQ writes the keys of a job, its queue and the registries in one MULTI, so all share a hash tag:
RQ_KEY_PREFIX={rq} in the environment of producers and workers is all it takes.
"""

import os
import sys
import time
from datetime import timedelta

os.environ["RQ_KEY_PREFIX"] = "{rq}"

from redis import Redis  # noqa: E402
from rq import Queue, Retry, Worker, command  # noqa: E402
from rq.job import Callback, JobStatus  # noqa: E402
from rq.registry import FailedJobRegistry, FinishedJobRegistry, ScheduledJobRegistry  # noqa: E402

from common import HOST, PORT, RESP, Worker as Child, expect, run, wait_for  # noqa: E402

connection = Redis(host=HOST, port=PORT, protocol=RESP)
high, low = Queue("high", connection=connection), Queue("low", connection=connection)


def add(a, b):
    return a + b


def third_time(key):
    if connection.incr(key) < 3:
        raise ValueError("not yet")
    return "at last"


def fails():
    raise ValueError("as told")


def for_ever(key):
    connection.set(key, "running")
    while True:
        time.sleep(0.01)


def done(job, _connection, result):
    connection.set("callback", f"{job.id} {result}")


def result_of(job):
    got = job.latest_result(timeout=20)
    expect(got is not None, True, f"a result of {job}")
    return got


def burst():
    """The queue itself, before anybody works on it."""
    jobs = low.enqueue_many([Queue.prepare_data(add, (n, n), job_id=f"job-{n}") for n in range(5)])
    expect(low.job_ids, [f"job-{n}" for n in range(5)], "the queue's jobs")
    expect(jobs[0].get_position(), 0, "a job's position")
    jobs[4].cancel()
    expect(jobs[4].get_status(), JobStatus.CANCELED, "a cancelled job")
    worker = Worker([high, low], connection=connection)
    expect(worker.work(burst=True, logging_level="WARNING"), True, "a worker in burst mode")
    expect([job.return_value() for job in jobs], [0, 2, 4, 6, None], "results")
    expect(set(FinishedJobRegistry(queue=low).get_job_ids()), {f"job-{n}" for n in range(4)}, "finished jobs")
    expect(low.empty(), 0, "an emptied queue")


def results():
    expect(result_of(high.enqueue(add, 2, 3)).return_value, 5, "a result")
    done_job = high.enqueue(add, 1, 1, on_success=Callback(done))
    wait_for(lambda: connection.get("callback") == f"{done_job.id} 2".encode(), "a callback")
    failed = high.enqueue(fails)
    expect("as told" in result_of(failed).exc_string, True, "an exception")
    expect(failed.id in FailedJobRegistry(queue=high).get_job_ids(), True, "the failed jobs")
    failed.requeue()
    wait_for(lambda: len(failed.results()) == 2, "the requeued job's end")
    again = high.enqueue(third_time, "{rq}tries", retry=Retry(max=5))
    wait_for(lambda: again.return_value() == "at last", "a job that was retried")
    first = low.enqueue(add, 1, 2)
    second = high.enqueue(add, 3, 4, depends_on=first)
    expect(result_of(second).return_value, 7, "a job that depends on another")


def scheduled():
    job = low.enqueue_in(timedelta(seconds=1), add, 4, 4)
    expect(job.id in ScheduledJobRegistry(queue=low).get_job_ids(), True, "the scheduled jobs")
    expect(result_of(job).return_value, 8, "a scheduled job")


def commands():
    """Sent through Pub/Sub to the worker."""
    job = high.enqueue(for_ever, "{rq}mark")
    wait_for(lambda: connection.get("{rq}mark"), "a running job")
    command.send_stop_job_command(connection, job.id)
    wait_for(lambda: job.get_status(refresh=True) == JobStatus.STOPPED, "a stopped job")
    expect([worker.name for worker in Worker.all(connection=connection)], ["one"], "the workers")


def start():
    global program
    program = Child(
        os.path.join(os.path.dirname(sys.executable), "rq"), "worker", "--name", "one", "--with-scheduler",
        "--url", f"redis://{HOST}:{PORT}/0?protocol={RESP}", "--logging_level", "WARNING", "high", "low",
    )
    program.wait_until(lambda: Worker.all(connection=connection), "the worker's start")


def stop():
    command.send_shutdown_command(connection, "one")
    program.ended()


if __name__ == "__main__":
    # Under its own name, by which a worker finds the jobs.
    import rq_program as me

    run(me.burst, me.start, me.results, me.scheduled, me.commands, me.stop)
