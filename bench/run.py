#!/usr/bin/env python3
"""Compares the proxy with no proxy and with other proxies, by what they cost on this machine.

    bench/run.py [--quick] [--proxy PATH] [--out FOLDER] [--svg PATH]     (`make bench` builds first)

Prints Markdown tables; writes FOLDER/bench.json and FOLDER/bench.svg (and the chart to PATH).

Invariant: figures that are compared were taken within the same round, one straight after the other
and in rotated order, so that a slow spell of the machine falls on all; what is shown is the median
over rounds. A run counts only if the servers saw all its commands and answered none with an error.
Processes are gone when it ends, however it ends; so are temporary files, unless it was killed.

Not here: pass or fail (a timing is no assertion), real networks, TLS, IAM, more than one worker.
The benchmark itself takes one core, so kops/s say as much of the machine as of a target; CPU time
per command is the figure to go by.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

import bed
import report
from bed import ANY_NODE, BIG_KEYS, BIG_VALUE, HOST, KEYS, VALUE, Cluster, Connection, Failed, Processes, Target

ROOT = Path(__file__).resolve().parent.parent
IDLE_CLIENTS = 1000
STARTED = time.monotonic()


@dataclass(frozen=True)
class Workload:
    name: str
    words: tuple[str, ...]  # "KEY" and "VALUE" stand for those of the target and the workload
    requests: int
    clients: int = 50
    pipeline: int = 1
    keys: int = KEYS
    value: str = VALUE
    prefix: str = "key"
    one_node: bool = False  # `direct` speaks to one node, see below
    unix: bool = False

    def supports(self, target: Target) -> bool:
        return not self.unix or target.unix_socket is not None

    def command(self, target: Target) -> list[str]:
        given = {"KEY": target.key(self.prefix), "VALUE": self.value}
        return [given.get(word, word) for word in self.words]


GET, SET = ("GET", "KEY"), ("SET", "KEY", "VALUE")
BIG = {"clients": 20, "keys": BIG_KEYS, "value": BIG_VALUE, "prefix": "big", "one_node": True}
# As a cluster client, redis-benchmark draws a slot for every command, so that large values would
# have to be there 16384 times: with them, `direct` is one node and the keys HAProxy has.
WORKLOADS = [
    Workload("GET, 50 clients", GET, 100_000),
    Workload("SET, 50 clients", SET, 100_000),
    Workload("GET, 50 clients, pipeline 16", GET, 500_000, pipeline=16),
    Workload("SET, 50 clients, pipeline 16", SET, 400_000, pipeline=16),
    Workload("GET, 1 client", GET, 20_000, clients=1),
    Workload("GET, 1000 clients", GET, 100_000, clients=1000),
    Workload("GET 64 KiB, 20 clients", GET, 15_000, **BIG),
    Workload("SET 64 KiB, 20 clients", SET, 15_000, **BIG),
    Workload("MSET of 10, 50 clients", ("MSET",) + ("KEY", "VALUE") * 10, 25_000, keys=10 * KEYS),
    Workload("GET, 50 clients, Unix socket", GET, 100_000, unix=True),
]


def cpu_ns(pid: int) -> int:
    """User and system time of all threads a process has and had: the kernel's CPU clock of it."""
    return time.clock_gettime_ns((~pid << 3) | 2)


def benchmark_argv(workload: Workload, target: Target, requests: int) -> list[str]:
    argv = ["redis-benchmark", "--csv", "-c", str(workload.clients), "-P", str(workload.pipeline)]
    argv += ["-n", str(requests), "-r", str(target.keyspace(workload.keys))]
    if workload.unix:
        argv += ["-s", target.unix_socket]
    else:
        argv += ["-h", HOST, "-p", str(target.port)]
    if target.cluster_client:
        # By itself it would take a thread for each node then, and only then.
        argv += ["--cluster", "--threads", "1"]
    return argv + workload.command(target)


def benchmark_figures(out: str) -> dict[str, float]:
    """Commands a second, and latencies where this version of redis-benchmark tells them."""
    row = list(csv.reader(out.splitlines()))[-1]
    figures = {"rps": float(row[1])}
    if len(row) >= 8:
        figures.update(p50_ms=float(row[4]), p99_ms=float(row[6]))
    return figures


def measure(workload: Workload, target: Target, cluster: Cluster, requests: int) -> dict[str, float]:
    """One run. CPU times are µs per command."""
    argv = benchmark_argv(workload, target, requests)
    stats = cluster.stats()
    servers = sum(map(cpu_ns, cluster.pids))
    own = cpu_ns(target.pid) if target.pid else 0
    figures = benchmark_figures(bed.run_bounded(argv))
    if target.pid:
        figures["cpu_us"] = (cpu_ns(target.pid) - own) / requests / 1000
    figures["servers_us"] = (sum(map(cpu_ns, cluster.pids)) - servers) / requests / 1000
    check_counts(f"{workload.name}, {target.name}", stats, cluster.stats(), requests)
    return figures


def check_counts(what: str, before: dict, after: dict, requests: int) -> None:
    # redis-benchmark does not tell errors from replies.
    done, errors = (after[name] - before[name] for name in before)
    if done < requests or errors > 0:
        raise Failed(f"{what}: of {requests} commands {done} came to the servers, {errors} failed")


def kernel_entries(workload: Workload, target: Target, requests: int, out: Path) -> float | None:
    """System calls of the target per command, where perf may count them. A run of its own: counting
    costs time."""
    counter = ["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", str(target.pid)]
    try:
        bed.run_bounded([*counter, "-o", str(out), "--", *benchmark_argv(workload, target, requests)])
        counted = [line for line in out.read_text().splitlines() if "sys_enter" in line]
        return int(counted[0].split(",")[0]) / requests
    except (Failed, OSError, ValueError, IndexError):
        return None


def resident_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def memory(target: Target) -> dict[str, float]:
    """Resident size without clients, and its growth by each of many that said one GET."""
    [key] = bed.key_names("key", target.tag, 1)
    start = resident_kib(target.pid)
    with ExitStack() as clients:
        for _ in range(IDLE_CLIENTS):
            clients.enter_context(Connection(target.port)).ask("GET", key)
        grown = resident_kib(target.pid) - start
    return {"start_mib": start / 1024, "client_kib": grown / IDLE_CLIENTS}


def start_targets(processes: Processes, cluster: Cluster, options: argparse.Namespace) -> list[Target]:
    targets = [
        bed.start_direct(cluster),
        bed.start_proxy(processes, cluster, options.proxy.resolve()),
    ]
    peers: dict[str, Callable[[], Target]] = {
        "HAProxy": lambda: bed.start_haproxy(processes, cluster),
        "Envoy": lambda: bed.start_envoy(processes, cluster, options.out.resolve() / "envoy"),
    }
    for name, start in peers.items():
        try:
            targets.append(start())
        except Failed as failure:
            progress(f"without {name}: {' '.join(str(failure).split())}")
    return targets


def fill(cluster: Cluster, direct: Target) -> None:
    """Every key a GET may ask for."""
    for tag in [ANY_NODE, cluster.tag_of_first]:
        cluster.fill(bed.key_names("key", tag, KEYS), VALUE)
        cluster.fill(bed.key_names("big", tag, BIG_KEYS), BIG_VALUE)
    # Only redis-benchmark knows its tags; drawn this often, one in 400 is left out.
    writes = Workload("fill", SET, 6 * KEYS)
    bed.run_bounded(benchmark_argv(writes, direct, writes.requests))


def plan(cluster: Cluster, targets: list[Target]) -> list[tuple[Workload, list[Target]]]:
    """The targets that do a workload, each as it is for it."""
    first = {"cluster_client": False, "tag": cluster.tag_of_first}
    one_node = [replace(t, **first) if t.cluster_client else t for t in targets]
    return [
        (w, [t for t in (one_node if w.one_node else targets) if w.supports(t)]) for w in WORKLOADS
    ]


def understands(workload: Workload, target: Target) -> bool:
    """Whether the target answers a command of this workload, and with no error."""
    words = [word.replace("__rand_int__", f"{0:012}") for word in workload.command(target)]
    where = target.unix_socket if workload.unix else target.port
    return target.cluster_client or bed.answers(where, *words)


def run_rounds(
    cluster: Cluster, todo: list[tuple[Workload, list[Target]]], rounds: int, share: float
) -> list[dict]:
    """One record for every round, workload and target."""
    records = []
    for number in range(rounds):
        for turn, (workload, targets) in enumerate(todo):
            progress(f"round {number + 1} of {rounds}: {workload.name}")
            first = (number + turn) % len(targets)
            for target in targets[first:] + targets[:first]:
                figures = measure(workload, target, cluster, int(workload.requests * share))
                records.append(
                    {"round": number, "workload": workload.name, "target": target.name, **figures}
                )
    return records


def count_kernel_entries(todo: list[tuple[Workload, list[Target]]], share: float, out: Path) -> dict:
    """By workload and target; empty where perf may not count."""
    progress("system calls per command")
    entries: dict[tuple[str, str], float] = {}
    for workload, targets in todo:
        for target in (t for t in targets if t.pid):
            counted = kernel_entries(workload, target, int(workload.requests * share), out)
            if counted is None:
                return {}
            entries[workload.name, target.name] = counted
    return entries


def machine() -> dict[str, str]:
    models = [l for l in Path("/proc/cpuinfo").read_text().splitlines() if l.startswith("model name")]
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": models[0].split(":", 1)[1].strip() if models else platform.machine(),
        "kernel": f"{platform.system()} {platform.release()}",
    }


def run(options: argparse.Namespace) -> dict:
    rounds, share = (2, 0.08) if options.quick else (3, 1.0)
    with Processes(options.out) as processes:
        progress("starting the servers")
        cluster = bed.start_cluster(processes)
        targets = start_targets(processes, cluster, options)
        progress("filling in the keys")
        fill(cluster, targets[0])
        sizes = {t.name: memory(t) for t in targets if t.pid}
        todo = plan(cluster, targets)
        todo = [(w, [t for t in some if understands(w, t)]) for w, some in todo]
        records = run_rounds(cluster, todo, rounds, share)
        entries = count_kernel_entries(todo, min(share, 0.1), processes.folder / "perf")
    return {
        "machine": machine(),
        "versions": {t.name: t.version for t in targets},
        "rounds": rounds,
        "records": records,
        "memory": sizes,
        "rows": report.rows(records, entries),
    }


def progress(text: str) -> None:
    print(f"{time.monotonic() - STARTED:6.1f} s  {text}", file=sys.stderr, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="two short rounds, under a minute")
    parser.add_argument(
        "--proxy", type=Path, default=ROOT / "target/release/memorystore-auth-proxy",
        help="the proxy's program",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "target/bench", help="where results go")
    parser.add_argument("--svg", type=Path, help="write the chart here as well")
    return parser.parse_args()


def end_on_signal(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    options = arguments()
    # SIGINT too: a shell's background job starts with it ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end_on_signal)
    # 1000 clients are 1000 descriptors here and twice as many in a proxy.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.proxy.is_file():
        progress(f"bench: no proxy at {options.proxy}: `make bench` builds it")
        return 1
    try:
        result = run(options)
    except (Failed, OSError) as failure:
        progress(f"bench: {failure}")
        return 1
    except KeyboardInterrupt:
        progress("bench: interrupted")
        return 130
    (options.out / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    for path in filter(None, [options.out / "bench.svg", options.svg]):
        path.write_text(report.chart(result))
    print(report.tables(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
