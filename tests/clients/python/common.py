"""What the Python scenarios share.

A scenario takes REDIS_HOST, REDIS_PORT and RESP (2 or 3) from the environment and is a list of
parts; it prints "ok" at the end and exits non-zero with a traceback on the first wrong answer.
BEHIND_PROXY is set when a cluster is behind the port: the few lines that differ from one server
stand under it. Parts can be named on the command line to run only these.
"""

import faulthandler
import os
import subprocess
import sys
import threading
import time

HOST = os.environ.get("REDIS_HOST", "127.0.0.1")
PORT = int(os.environ["REDIS_PORT"])
RESP = int(os.environ.get("RESP", "2"))
BEHIND_PROXY = "BEHIND_PROXY" in os.environ
LIMIT = 20.0


def expect(got, wanted, what):
    if got != wanted:
        raise AssertionError(f"{what}: got {got!r}, wanted {wanted!r}")


def expect_error(kind, text, what, call, *args, **kwargs):
    try:
        answer = call(*args, **kwargs)
    except kind as error:
        if text not in str(error):
            raise AssertionError(f"{what}: the error {error!r} does not say {text!r}") from error
        return
    raise AssertionError(f"{what}: got {answer!r}, wanted an error that says {text!r}")


def wait_for(condition, what, limit=LIMIT):
    """Waits until `condition()` is true and returns what it returned."""
    end = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {limit} s: {what} (last: {value!r})")
        time.sleep(0.01)


class InThread(threading.Thread):
    """A thread whose exception and result come out of `finish`."""

    def __init__(self, function, *args):
        super().__init__(daemon=True)
        self.function, self.args, self.outcome, self.problem = function, args, None, None
        self.start()

    def run(self):
        try:
            self.outcome = self.function(*self.args)
        except BaseException as error:  # noqa: BLE001 - raised again by finish
            self.problem = error

    def finish(self, limit=LIMIT):
        self.join(limit)
        if self.is_alive():
            raise AssertionError(f"{self.function} still runs after {limit} s")
        if self.problem is not None:
            raise self.problem
        return self.outcome


class Worker:
    """A process of the program, which dies with this one."""

    def __init__(self, *command, **environment):
        here = os.path.dirname(os.path.abspath(__file__))
        environment = {**os.environ, "PYTHONPATH": here, **environment}
        command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        self.process = subprocess.Popen(command, env=environment, cwd=here)

    def wait_until(self, condition, what):
        def done():
            if self.process.poll() is not None:
                raise AssertionError(f"the worker ended with {self.process.returncode} before {what}")
            return condition()

        wait_for(done, what, 40)

    def ended(self):
        expect(self.process.wait(30), 0, "the worker's exit code")


def run(*parts):
    """Runs the parts in order, or those that the command line names."""
    # A hanging part shows where before the test's own deadline ends it.
    faulthandler.dump_traceback_later(100, exit=True)
    wanted = sys.argv[1:]
    for part in parts:
        if not wanted or part.__name__ in wanted:
            print(f"part {part.__name__}", flush=True)
            part()
    print("ok", flush=True)
