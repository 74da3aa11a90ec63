"""Alerts, dashboard and scrape against Prometheus, against the types of Grafana and of the Prometheus
operator, and against `/metrics` of a proxy that runs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from place import DEPLOY, RENDERINGS, TOOLS, Document, must, run

PROMTOOL = TOOLS / "promtool"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
ALERT_TESTS = DEPLOY / "prometheus" / "alerts_test.yaml"
DASHBOARD = DEPLOY / "grafana" / "dashboard.json"
# Labels that Prometheus itself adds; and the one that tells several instances of a proxy apart, which
# is built on another branch: until then the series have none, and expressions do without.
OF_THE_SCRAPE = {"job", "instance"}
# Prometheus's own metric of whether a scrape succeeds.
NOT_THE_PROXYS = {"up"}


def rules() -> list[Document]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def dashboard() -> Document:
    board: Document = json.loads(DASHBOARD.read_text())
    return board


def queries() -> list[tuple[str, str]]:
    """The dashboard's queries with its variables put in, by panel."""
    values = {"$__rate_interval": "5m", "$instance_name": ".*", "$job": ".*", "$instance": ".*"}
    found = []
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            query = target["expr"]
            for variable, value in values.items():
                query = query.replace(variable, value)
            assert "$" not in query, query
            found.append((panel["title"], query))
    return found


def expressions() -> list[tuple[str, str]]:
    return [(rule["alert"], rule["expr"]) for rule in rules()] + queries()


def scraped(metrics: str) -> tuple[dict[str, dict[str, set[str]]], set[str]]:
    """Of every sample's name the labels and their values, and the names of the families."""
    samples: dict[str, dict[str, set[str]]] = {}
    for line in metrics.splitlines():
        if not line.startswith("#"):
            name, _, labels = line.rpartition(" ")[0].partition("{")
            known = samples.setdefault(name, {})
            for label, value in re.findall(r'(\w+)="([^"]*)"', labels):
                known.setdefault(label, set()).add(value)
    return samples, set(re.findall(r"^# TYPE (\S+)", metrics, re.M))


def selectors(expression: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """The metrics of an expression, each with its label matchers."""
    found = re.findall(r"\b(memorystore_proxy_\w+|up)\b(?:\{([^}]*)\})?", expression)
    return [(name, re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', labels)) for name, labels in found]


def check_types(documents: list[tuple[str, Document]], folder: Path) -> list[str]:
    """What tsc says of JSON taken for a type of types.ts."""
    home = TOOLS / "types"
    shutil.copy(Path(__file__).parent / "types" / "types.ts", home)
    lines = [f'import type * as types from "{home / "types.ts"}";']
    for number, (kind, document) in enumerate(documents):
        lines.append(f"export const n{number}: types.{kind} = {json.dumps(document, indent=1)};")
    source = folder / "documents.ts"
    source.write_text("\n".join(lines))
    options = ["--noEmit", "--strict", "--skipLibCheck", "--allowImportingTsExtensions", "--module", "nodenext"]
    return run(home / "node_modules" / ".bin" / "tsc", *options, source).stdout.splitlines()


def parts(board: Document) -> list[tuple[str, Document]]:
    """A dashboard without panels, and the panels: tsc looks into no union for misspelt keys."""
    panels = [("RowPanel" if panel["type"] == "row" else "QueryPanel", panel) for panel in board["panels"]]
    return [("GrafanaDashboard", {**board, "panels": []}), *panels]


def operator_documents() -> list[tuple[str, Document]]:
    (everything,) = [r for r in RENDERINGS if r.name == "chart/everything"]
    return [(kind, document) for kind in ("ServiceMonitor", "PrometheusRule") for document in everything.of_kind(kind)]


def test_the_rules_are_valid_and_fire_as_their_tests_say() -> None:
    must(PROMTOOL, "check", "rules", ALERTS)
    must(PROMTOOL, "test", "rules", ALERT_TESTS)


def test_every_alert_is_tested_to_fire_and_to_be_quiet() -> None:
    cases = [case for test in yaml.safe_load(ALERT_TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in rules()}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert {"summary", "description"} <= rule["annotations"].keys()


def test_the_charts_rules_are_these() -> None:
    (rule,) = [document for kind, document in operator_documents() if kind == "PrometheusRule"]
    assert rule["spec"] == yaml.safe_load(ALERTS.read_text())


def test_every_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    recorded = [{"record": f"query:{n}", "expr": query} for n, (_, query) in enumerate(queries())]
    assert len(recorded) >= 40
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    must(PROMTOOL, "check", "rules", file)


def test_promtool_finds_nothing_in_a_scrape(metrics: str) -> None:
    must(PROMTOOL, "check", "metrics", text=metrics)


def test_every_metric_label_and_value_that_is_asked_for_exists(metrics: str) -> None:
    samples, _ = scraped(metrics)
    for where, expression in expressions():
        named = selectors(expression)
        assert named, where
        for name, matchers in named:
            if name in NOT_THE_PROXYS:
                continue
            assert name in samples, f"{where} asks for {name}"
            for label, value in matchers:
                if label not in OF_THE_SCRAPE:
                    known = samples[name].get(label, set())
                    # What a variable of the dashboard stands for is any value.
                    wanted = known if value == ".*" else set(value.split("|"))
                    assert known and wanted <= known, (
                        f"{where} asks for {name}{{{label}={value}}}, not one of {known}"
                    )
        for by in re.findall(r"\bby \(([^)]*)\)", expression):
            labels = set(by.replace(" ", "").split(",")) - OF_THE_SCRAPE
            assert labels <= set().union(*(samples.get(name, {}) for name, _ in named)), f"{where} sums by {by}"


def test_series_of_the_alerts_tests_exist(metrics: str) -> None:
    samples, _ = scraped(metrics)
    for test in yaml.safe_load(ALERT_TESTS.read_text())["tests"]:
        for series in test["input_series"]:
            for name, matchers in selectors(series["series"]):
                assert name in samples or name in NOT_THE_PROXYS
                assert {label for label, _ in matchers} - OF_THE_SCRAPE == set(samples.get(name, {})) - OF_THE_SCRAPE, (
                    name
                )


def test_the_dashboard_shows_every_family(metrics: str) -> None:
    _, families = scraped(metrics)
    shown = {name.removesuffix("_bucket") for _, query in queries() for name, _ in selectors(query)}
    assert families - shown == set()


def test_the_variables_of_the_dashboard_ask_for_what_exists(metrics: str) -> None:
    samples, _ = scraped(metrics)
    asked = [v["query"]["query"] for v in dashboard()["templating"]["list"] if v["type"] == "query"]
    assert len(asked) == 3
    for query in asked:
        assert all(name in samples for name, _ in selectors(query)) and selectors(query), query


def test_dashboard_and_operator_documents_have_their_makers_types(tmp_path: Path) -> None:
    assert check_types([*parts(dashboard()), *operator_documents()], tmp_path) == []


def test_a_misspelt_key_does_not_have_the_type(tmp_path: Path) -> None:
    board = dashboard()
    board["panels"][1]["targets"][0]["exp"] = "1"
    (monitor, *_) = [document for kind, document in operator_documents() if kind == "ServiceMonitor"]
    monitor = {**monitor, "spec": {**monitor["spec"], "endpoint": []}}
    found = check_types([*parts(board), ("ServiceMonitor", monitor)], tmp_path)
    assert all(any(f'"{key}"' in line for line in found) for key in ("exp", "endpoint")), found


def test_panels_have_numbers_of_their_own_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))


@pytest.mark.parametrize("alert", rules(), ids=lambda rule: rule["alert"])
def test_thresholds_stand_after_the_expression(alert: Document) -> None:
    """An alert without a comparison fires at every sample."""
    assert re.search(r"(==|[<>]=?) *[\d.]+\s*(\)|$|and|unless)", alert["expr"]), alert["expr"]
