"""Loaded by every Python process of the suite (PYTHONPATH names this folder): those that a program
forks, such as RQ's scheduler and Celery's pool, die with the process that forked them."""

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1


def die_with_the_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


os.register_at_fork(after_in_child=die_with_the_parent)
