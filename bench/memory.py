"""What the proxy keeps resident: at the start, with many idle clients, and while a large value passes.

Invariant: one fresh proxy for each row, before the same three servers, so that no row pays for another.
"""

from __future__ import annotations

import argparse
import re
import resource
import socket
import sys
import time
from pathlib import Path

from bed import HOST, Cluster, Connection, Failed, Processes, answers, free_port, frame, start_cluster

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = 10_000
LARGE = 64 << 20
SETTLE = 1.0  # seconds until the proxy has put away what it used


class Proxy:
    """A fresh one."""

    def __init__(self, processes: Processes, cluster: Cluster, program: Path, name: str) -> None:
        self.port = free_port()
        argv = [str(program), f"{HOST}:{cluster.ports[0]}", "--no-iam-auth", "--port", str(self.port)]
        self.pid = processes.start(name, argv, lambda: answers(self.port, "SET", "key", "value"))

    def kib(self, field: str) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(rf"{field}:\s+(\d+) kB", status)
        if not found:
            raise Failed(f"no {field} of process {self.pid}")
        return int(found[1])


def mib(kib: float) -> str:
    return f"{kib / 1024:.1f} MiB"


def idle(proxy: Proxy) -> tuple[int, int]:
    """Resident KiB before and with the clients, each of which has said something and been answered."""
    before = proxy.kib("VmRSS")
    clients = []
    try:
        for number in range(CLIENTS):
            client = socket.create_connection((HOST, proxy.port), source_address=(f"127.0.1.{number // 20000 + 1}", 0))
            clients.append(client)
            client.sendall(frame(["GET", "key"]))
            client.recv(64)
        time.sleep(SETTLE)
        return before, proxy.kib("VmRSS")
    finally:
        for client in clients:
            client.close()


def large(proxy: Proxy) -> tuple[int, int, int]:
    """Peak KiB above the start while one value is set, then while it is fetched; and what is left after."""
    before = proxy.kib("VmRSS")
    with Connection(proxy.port) as connection:
        connection.ask("SET", "large", "x" * LARGE)
        peak_set = proxy.kib("VmHWM") - before
    Path(f"/proc/{proxy.pid}/clear_refs").write_text("5")  # the peak begins anew
    with Connection(proxy.port) as connection:
        if len(connection.ask("GET", "large")) != LARGE:
            raise Failed("the large value came back with another length")
        peak_get = proxy.kib("VmHWM") - before
    time.sleep(SETTLE)
    return peak_set, peak_get, proxy.kib("VmRSS") - before


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--proxy", type=Path, default=ROOT / "target/release/memorystore-auth-proxy")
    program = parser.parse_args().proxy.resolve()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if 0 <= hard < CLIENTS + 200:
        print(f"{CLIENTS} clients need as many open files; the limit here is {hard}", file=sys.stderr)
        return 1
    logs = ROOT / "target/bench"
    logs.mkdir(parents=True, exist_ok=True)
    try:
        with Processes(logs) as processes:
            cluster = start_cluster(processes)
            start, full = idle(Proxy(processes, cluster, program, "idle"))
            peak_set, peak_get, left = large(Proxy(processes, cluster, program, "large"))
    except Failed as failure:
        print(failure, file=sys.stderr)
        return 1
    print("| resident memory | |\n|---|---:|")
    print(f"| at the start | {mib(start)} |")
    print(f"| with {CLIENTS} idle clients that have spoken | {mib(full)} |")
    print(f"| for each of them | {(full - start) / CLIENTS:.1f} KiB |")
    print(f"| more while one client SETs a value of 64 MiB, at most | {mib(peak_set)} |")
    print(f"| more while one client GETs it, at most | {mib(peak_get)} |")
    print(f"| of that a second later | {mib(left)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
