"""Starts the proxy before a real redis-server with a password, its token from a metadata server here.

All on loopback and free ports. Nothing sleeps for luck: a condition is asked for until a deadline.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from names import Names

TOKEN = "ya29.of-the-tests"
DEADLINE_SECONDS = 30.0
T = TypeVar("T")


def wait_for(what: str, attempt: Callable[[], T | None]) -> T:
    """What `attempt` gives, once it is something."""
    end = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < end:
        found = attempt()
        if found is not None:
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited {DEADLINE_SECONDS:.0f} s for {what}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Metadata(BaseHTTPRequestHandler):
    """Google's metadata server, as far as credentials ask it."""

    def do_GET(self) -> None:
        if self.path.split("?")[0].endswith("/token"):
            body = json.dumps({"access_token": TOKEN, "expires_in": 3599, "token_type": "Bearer"}).encode()
        elif self.path.endswith("/email"):
            body = b"redis-client@my-project.iam.gserviceaccount.com"
        else:
            body = b""
        self.send_response(200)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Not among the tests' output."""


def ended(process: subprocess.Popen[bytes]) -> int:
    """The code of a process that is ended if it does not end by itself."""
    try:
        return process.wait(DEADLINE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


class Proxy:
    """A running proxy; its addresses are those it logs."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _address(self, message: str) -> tuple[str, int]:
        def look() -> tuple[str, int] | None:
            assert self.process.poll() is None, self.log.read_text()
            for line in self.log.read_text().splitlines():
                found = re.search(r'address["=:]+([\d.]+):(\d+)', line)
                if message in line and found:
                    return found[1], int(found[2])
            return None

        return wait_for(f"{message!r} in the log", look)

    def http(self) -> tuple[str, int]:
        """The address of the HTTP server."""
        return self._address("serving health checks")

    def get(self, path: str) -> str:
        """The body of a path, once it is answered with 200."""
        host, port = self.http()

        def ask() -> str | None:
            try:
                with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=DEADLINE_SECONDS) as reply:
                    body: str = reply.read().decode()
                    return body
            except urllib.error.HTTPError:
                return None

        return wait_for(f"200 at {path}", ask)

    def ping(self) -> None:
        """A command, through the proxy."""
        with socket.create_connection(self._address("listening"), timeout=DEADLINE_SECONDS) as client:
            client.sendall(b"SET greeting hello\r\n")
            assert client.recv(64) == b"+OK\r\n"

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return ended(self.process)


class Bed:
    """A server, a metadata server, and proxies between them."""

    def __init__(self, program: Path, names: Names, folder: Path) -> None:
        self.program, self.names, self.folder = program, names, folder
        self.count = 0

    def __enter__(self) -> Bed:
        self.metadata = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
        threading.Thread(target=self.metadata.serve_forever, daemon=True).start()
        self.port = free_port()
        self.server = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--requirepass", TOKEN],
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
        )
        wait_for("redis-server", self._server_is_up)
        return self

    def _server_is_up(self) -> bool | None:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return True
        except OSError:
            return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.terminate()
        ended(self.server)
        self.metadata.shutdown()
        self.metadata.server_close()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, arguments: Sequence[str], variables: Mapping[str, str]) -> Proxy:
        """A proxy with these arguments, on free ports and on loopback whatever they say."""
        self.count += 1
        log = self.folder / f"proxy-{self.count}.log"
        free = {v: "0" for v in ("PORT", "HTTP_PORT", "ADMIN_PORT") if f"MEMORYSTORE_PROXY_{v}" in self.names.variables}
        environment = {
            "PATH": os.environ["PATH"],
            "GCE_METADATA_HOST": f"127.0.0.1:{self.metadata.server_address[1]}",
            **{f"MEMORYSTORE_PROXY_{name}": value for name, value in free.items()},
            **variables,
        }
        with log.open("wb") as output:
            command: list[str | Path] = [self.program, self.endpoint, *arguments]
            process = subprocess.Popen(
                command, env=environment, stdout=output, stderr=subprocess.STDOUT, cwd=self.folder
            )
        return Proxy(process, log)

    def arguments(self, container: Sequence[str]) -> list[str]:
        """The flags of a manifest, made fit for here: on loopback, and without waits."""
        kept = []
        for argument in container:
            flag, _, _ = argument.partition("=")
            if flag == "--min-sigterm-delay":
                argument = f"{flag}=0s"
            kept.append(re.sub(r"^(--(?:http-)?address)=0\.0\.0\.0$", r"\1=127.0.0.1", argument))
        return kept
