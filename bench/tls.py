"""What TLS to the cluster costs: CPU of the proxy for one GET, plain and encrypted, in one interleaved run.

Invariant: both proxies are the same program before the same three servers, which listen on a plain and on
a TLS port each; rounds alternate, and the ratio is taken within a round. CPU is the kernel's account of
the proxy's process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path

from bed import HOST, Failed, Processes, answers, free_port, is_ok, run_bounded, wait_until

ROOT = Path(__file__).resolve().parent.parent
CLIENTS, COMMANDS = 50, 60_000
CONFIG = "[v3]\nsubjectAltName=IP:127.0.0.1\n"


def certificates(folder: Path) -> None:
    """An authority and a leaf that names the loopback address."""
    (folder / "v3.cnf").write_text(CONFIG)
    at = str(folder)
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj"]
    run_bounded([*new, "/CN=authority", "-x509", "-days", "2", "-keyout", f"{at}/ca.key", "-out", f"{at}/ca.pem"])
    run_bounded([*new, "/CN=node", "-keyout", f"{at}/leaf.key", "-out", f"{at}/leaf.csr"])
    run_bounded([
        "openssl", "x509", "-req", "-days", "2", "-in", f"{at}/leaf.csr", "-CA", f"{at}/ca.pem", "-CAkey",
        f"{at}/ca.key", "-CAcreateserial", "-extfile", f"{at}/v3.cnf", "-extensions", "v3", "-out", f"{at}/leaf.pem",
    ])


def cluster(processes: Processes) -> tuple[int, int]:
    """Three primaries; gives the plain and the TLS port of the first."""
    certificates(processes.folder)
    ports = []
    for n in range(3):
        # The cluster bus takes a port 10000 above each.
        plain, tls = free_port(55535), free_port(55535)
        folder = processes.folder / f"node-{n}"
        folder.mkdir()
        files = [word for kind, name in (("cert", "leaf.pem"), ("key", "leaf.key"), ("ca-cert", "ca.pem"))
                 for word in (f"--tls-{kind}-file", str(processes.folder / name))]
        argv = ["redis-server", "--port", str(plain), "--tls-port", str(tls), "--bind", HOST, "--dir", str(folder),
                "--save", "", "--cluster-enabled", "yes", "--tls-cluster", "yes", "--tls-auth-clients", "no", *files]
        processes.start(f"node-{n}", argv, lambda plain=plain: answers(plain, "PING"))
        ports.append((plain, tls))
    # A node tells its TLS port only if the bus speaks TLS too, and is then met by it.
    nodes = [f"{HOST}:{tls}" for _, tls in ports]
    authority = str(processes.folder / "ca.pem")
    run_bounded(["redis-cli", "--tls", "--cacert", authority, "--cluster", "create", *nodes, "--cluster-yes"])

    wait_until("the cluster is whole", lambda: all(is_ok(plain) for plain, _ in ports))
    return ports[0]


def proxy(processes: Processes, program: Path, name: str, argv: list[str]) -> tuple[int, int]:
    """Its port and process id."""
    port = free_port()

    pid = processes.start(name, [str(program), *argv, "--no-iam-auth", "--port", str(port)],
                          lambda: answers(port, "SET", "key", "value"))
    return port, pid


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(program: Path, rounds: int, logs: Path) -> None:
    with Processes(logs) as processes:
        plain, tls = cluster(processes)
        authority = str(processes.folder / "ca.pem")
        targets = {
            "plain": proxy(processes, program, "plain", [f"{HOST}:{plain}"]),
            "TLS": proxy(processes, program, "tls", [f"{HOST}:{tls}", "--server-ca-file", authority]),
        }
        costs: dict[str, list[float]] = {name: [] for name in targets}
        for _ in range(rounds):
            for name, (port, pid) in targets.items():
                before = cpu_seconds(pid)
                run_bounded(["redis-benchmark", "-p", str(port), "-c", str(CLIENTS), "-n", str(COMMANDS), "-r",
                             "100000", "-t", "get", "-q"])
                costs[name].append((cpu_seconds(pid) - before) / COMMANDS * 1e6)
        ratio = statistics.median(t / p for p, t in zip(costs["plain"], costs["TLS"]))
        for name, values in costs.items():
            print(f"{name:6} {statistics.median(values):6.2f} µs of the proxy's CPU for one GET, {CLIENTS} clients")
        print(f"TLS costs {ratio:.2f} times plain (median of {rounds} rounds)")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--proxy", type=Path, default=ROOT / "target/release/memorystore-auth-proxy")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    logs = ROOT / "target/bench"
    logs.mkdir(parents=True, exist_ok=True)
    try:
        measure(options.proxy.resolve(), options.rounds, logs)
    except Failed as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
