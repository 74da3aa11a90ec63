"""What the proxy keeps resident: at the start, with many idle clients, while the largest value passes, and
before a client that reads nothing; and how long small commands wait beside large values.

Invariant: one fresh proxy for each kind of row, before the same three servers, so that no row pays for
another. A value is sent and read in pieces: what the client holds is not what is measured.
"""

from __future__ import annotations

import argparse
import re
import resource
import socket
import sys
import threading
import time
from pathlib import Path

from bed import HOST, Cluster, Connection, Failed, Processes, answers, free_port, frame, start_cluster

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = 10_000
LARGEST = 512 << 20  # Redis takes no larger value
LARGE = 64 << 20
PIECE = 1 << 20
BESIDE = 5.0  # seconds
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


def send_value(connection: Connection, key: str, size: int) -> None:
    connection.socket.sendall(f"*3\r\n$3\r\nSET\r\n${len(key)}\r\n{key}\r\n${size}\r\n".encode())
    for _ in range(size // PIECE):
        connection.socket.sendall(b"x" * PIECE)
    connection.socket.sendall(b"\r\n")
    if connection.reply() != "OK":
        raise Failed("a large value was not taken")


def read_value(connection: Connection, key: str, size: int) -> None:
    connection.socket.sendall(frame(["GET", key]))
    line = connection.file.readline()
    if line != f"${size}\r\n".encode():
        raise Failed(f"the large value came back as {line[:80]!r}")
    left = size + 2
    while left:
        left -= len(connection.file.read(min(left, PIECE)))


def large(proxy: Proxy, size: int) -> tuple[int, int, int]:
    """Peak KiB above the start while one value is set, then while it is fetched; and what is left after."""
    before = proxy.kib("VmRSS")
    with Connection(proxy.port) as connection:
        send_value(connection, "large", size)
        peak_set = proxy.kib("VmHWM") - before
    Path(f"/proc/{proxy.pid}/clear_refs").write_text("5")  # the peak begins anew
    with Connection(proxy.port) as connection:
        read_value(connection, "large", size)
        peak_get = proxy.kib("VmHWM") - before
        connection.ask("UNLINK", "large")
    time.sleep(SETTLE)
    return peak_set, peak_get, proxy.kib("VmRSS") - before


def deaf(proxy: Proxy) -> tuple[int, int]:
    """Peak KiB above the start while a client asks for 4 GiB and reads nothing, until it is disconnected; and
    what is left after."""
    with Connection(proxy.port) as connection:
        send_value(connection, "mib", PIECE)
    before = proxy.kib("VmRSS")
    with socket.create_connection((HOST, proxy.port)) as client, Connection(proxy.port) as other:
        client.sendall(frame(["GET", "mib"]) * 4096)
        end = time.monotonic() + 60
        while len(other.ask("CLIENT", "LIST").splitlines()) > 1:
            if time.monotonic() > end:
                raise Failed("a client that reads nothing was not disconnected in a minute")
            time.sleep(0.01)
        time.sleep(SETTLE)
        return proxy.kib("VmHWM") - before, proxy.kib("VmRSS") - before


def beside(proxy: Proxy, large_key: str, small_key: str) -> list[float]:
    """Milliseconds of small GETs, in order of size, while another client fetches a large value all the time."""
    stop = threading.Event()

    def fetch() -> None:
        with Connection(proxy.port) as connection:
            while not stop.is_set():
                read_value(connection, large_key, LARGE)

    with Connection(proxy.port) as connection:
        send_value(connection, large_key, LARGE)
        connection.ask("SET", small_key, "v")
        thread = threading.Thread(target=fetch)
        thread.start()
        times = []
        end = time.monotonic() + BESIDE
        while time.monotonic() < end:
            begun = time.monotonic()
            connection.ask("GET", small_key)
            times.append((time.monotonic() - begun) * 1000)
        stop.set()
        thread.join()
        connection.ask("UNLINK", large_key)
    return sorted(times)


def shown(times: list[float]) -> str:
    return f"{times[len(times) // 2]:.1f} / {times[len(times) * 99 // 100]:.1f} / {times[-1]:.1f} ms"


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
            peak_set, peak_get, left = large(Proxy(processes, cluster, program, "large"), LARGEST)
            unread, kept = deaf(Proxy(processes, cluster, program, "deaf"))
            proxy = Proxy(processes, cluster, program, "beside")
            # Slots 12182 (foo), 5061 (bar) and 12182 again: three shards of equal size.
            same, other = beside(proxy, "{foo}large", "{foo}small"), beside(proxy, "{foo}large", "{bar}small")
    except Failed as failure:
        print(failure, file=sys.stderr)
        return 1
    print("| resident memory | |\n|---|---:|")
    print(f"| at the start | {mib(start)} |")
    print(f"| with {CLIENTS} idle clients that have spoken | {mib(full)} |")
    print(f"| for each of them | {(full - start) / CLIENTS:.1f} KiB |")
    print(f"| more while one client SETs a value of 512 MiB, at most | {mib(peak_set)} |")
    print(f"| more while one client GETs it, at most | {mib(peak_get)} |")
    print(f"| of that a second later | {mib(left)} |")
    print(f"| more for a client that asks for 4 GiB and reads nothing, at most | {mib(unread)} |")
    print(f"| of that a second after it was disconnected | {mib(kept)} |")
    print("\n| small GETs while another client fetches 64 MiB again and again | median / 99 % / longest |\n|---|---:|")
    print(f"| of the same shard | {shown(same)} |")
    print(f"| of another shard | {shown(other)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
