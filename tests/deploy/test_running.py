"""The proxy is started as each manifest starts it, probed as the manifest probes it, and ended."""

from __future__ import annotations

import re

import pytest

from names import Names
from place import DEPLOY, PROBES, TOP, Document, every_proxy
from running import Bed

PROXIES = every_proxy()


@pytest.mark.parametrize("container", [p[1] for p in PROXIES], ids=[p[0] for p in PROXIES])
def test_the_manifests_start_a_proxy_whose_probes_succeed(bed: Bed, container: Document) -> None:
    instance, *flags = container["args"]
    assert not instance.startswith("-"), "the instance comes first"
    # The certificate is a Secret of the user's.
    flags = [flag for flag in flags if not flag.startswith("--tls-")]
    with bed.start(bed.arguments(flags), {}) as proxy:
        for kind in PROBES:
            if kind in container:
                proxy.get(container[kind]["httpGet"]["path"])
        if "--health-check" in flags:
            proxy.get("/startup")
        proxy.ping()
        if "--prometheus" in flags:
            assert re.search(r"^memorystore_proxy_commands_total\S* 1$", proxy.get("/metrics"), re.M)
        assert proxy.terminate() == 0


def test_the_configuration_of_the_service_starts_a_proxy(bed: Bed, names: Names) -> None:
    """ExecStart with the packaged files, every commented example of the environment file on."""
    lines = (DEPLOY / "systemd" / "memorystore-auth-proxy.default").read_text().splitlines()
    pairs = (line.removeprefix("#").split("=", 1) for line in lines if line.startswith("#MEMORYSTORE_PROXY_"))
    variables = dict(pairs)
    assert variables.keys() <= names.variables
    variables["MEMORYSTORE_PROXY_UNIX_SOCKET"] = str(bed.folder / "redis.sock")
    # The packaged file names the ports, which variables win over.
    with bed.start([f"--config-file={TOP / 'config' / 'proxy.toml'}"], variables) as proxy:
        proxy.get("/readiness")
        proxy.ping()
        assert (bed.folder / "redis.sock").is_socket()
        assert proxy.terminate() in (0, 143), "SuccessExitStatus of the unit"
