"""Fixtures: the proxy's program, what its --help lists, and one that runs before a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from names import Names
from running import Bed


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--proxy", type=Path, required=True, help="the built proxy")


@pytest.fixture(scope="session")
def proxy(request: pytest.FixtureRequest) -> Path:
    path: Path = request.config.getoption("--proxy").resolve()
    return path


@pytest.fixture(scope="session")
def names(proxy: Path) -> Names:
    return Names.of(proxy)


@pytest.fixture(scope="session")
def bed(proxy: Path, names: Names, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    with Bed(proxy, names, tmp_path_factory.mktemp("bed")) as bed:
        yield bed


@pytest.fixture(scope="session")
def metrics(bed: Bed) -> str:
    """`/metrics` of a proxy that has a token with an end, a slot map, and has served a command."""
    with bed.start(["--prometheus", "--health-check"], {}) as proxy:
        proxy.get("/startup")
        proxy.ping()
        return proxy.get("/metrics")
