"""A Prometheus that scrapes a proxy under a little load: every query of the dashboard gives something,
and the alerts are evaluated and quiet."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from place import NAME, TOOLS, Document
from running import Bed, ended, free_port, wait_for
from test_monitoring import ALERTS, queries, rules


class Prometheus:
    """Its API."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/api/v1/"

    def ask(self, path: str, **parameters: str) -> Any:
        try:
            with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}", timeout=30) as reply:
                return json.load(reply)["data"]
        except OSError:
            return None

    def query(self, query: str) -> list[Document] | None:
        """What an expression gives, once it gives something."""
        answer = self.ask("query", query=query)
        return answer["result"] if answer and answer["result"] else None

    def evaluated(self) -> list[Document] | None:
        """The alerting rules, once all have been evaluated."""
        answer = self.ask("rules")
        found = [rule for group in answer["groups"] for rule in group["rules"]] if answer else []
        return found if found and all(rule["health"] != "unknown" for rule in found) else None


@pytest.fixture(scope="module")
def prometheus(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder: Path = tmp_path_factory.mktemp("prometheus")
    port = free_port()
    with bed.start(["--prometheus"], {}) as proxy:
        proxy.ping()
        target = "{}:{}".format(*proxy.http())
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": [{"job_name": NAME, "static_configs": [{"targets": [target]}]}],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [
                    TOOLS / "prometheus",
                    f"--config.file={folder / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
            )
        try:
            yield Prometheus(port)
        finally:
            server.terminate()
            ended(server)


def test_every_query_of_the_dashboard_gives_something(prometheus: Prometheus) -> None:
    for panel, query in queries():
        wait_for(f"the panel {panel!r}: {query}", partial(prometheus.query, query))


def test_the_alerts_are_evaluated_and_quiet(prometheus: Prometheus) -> None:
    found = wait_for("the rules", prometheus.evaluated)
    assert {rule["name"] for rule in found} == {rule["alert"] for rule in rules()}
    for rule in found:
        assert (rule["health"], rule["state"]) == ("ok", "inactive"), rule
