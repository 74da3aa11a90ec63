"""The Helm chart beyond what it renders: lint, the schema of its values, its notes."""

from __future__ import annotations

import json

import jsonschema
import pytest
import yaml

from place import CHART, TOOLS, must, run, version

HELM = TOOLS / "helm"
LEAST = CHART / "ci" / "least.yaml"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


@pytest.mark.parametrize("values", sorted((CHART / "ci").glob("*.yaml")), ids=lambda p: p.stem)
def test_lint(values: object) -> None:
    must(HELM, "lint", "--strict", CHART, "-f", str(values))


def test_the_schema_is_one_and_takes_the_defaults_with_what_is_required() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for example in (CHART / "ci").glob("*.yaml"):
        jsonschema.validate({**values, **yaml.safe_load(example.read_text())}, SCHEMA)
    assert values.keys() | {"global"} == SCHEMA["properties"].keys()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("instance=my-cluster", "/instance"),
        ("image.repository=", "/image/repository"),
        ("image.repositry=x", "repositry"),
        ("replicas=0", "/replicas"),
        ("settings.Port=1", "Port"),
        ("networkPolicy.instanceRanges={10.0.0.3}", "/networkPolicy/instanceRanges"),
        ("serviceMonitor.interval=often", "/serviceMonitor/interval"),
    ],
)
def test_wrong_values_are_refused_by_name(setting: str, says: str) -> None:
    done = run(HELM, "template", "release", CHART, "-f", LEAST, "--set", setting)
    assert done.returncode != 0 and says in done.stderr, done.stderr


def test_without_values_it_names_what_it_needs() -> None:
    done = run(HELM, "template", "release", CHART)
    assert done.returncode != 0
    assert "/instance" in done.stderr and "/image/repository" in done.stderr


def test_settings_become_flags_as_they_are_written() -> None:
    settings = "settings.max-redirects=1000000,settings.quiet=true,settings.op-timeout=2s"
    text = must(HELM, "template", "release", CHART, "-f", LEAST, "--set", settings)
    for flag in ("--max-redirects=1000000", "--quiet=true", "--op-timeout=2s"):
        assert f'- "{flag}"' in text


def test_it_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == version()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], ["redis://release-memorystore-auth-proxy:6379", "gcpServiceAccount is empty"]),
        (["-f", str(CHART / "ci" / "everything.yaml")], ["rediss://gateway:6380"]),
        (["--set", "networkPolicy.enabled=false"], ["whoever reaches the gateway"]),
    ],
)
def test_the_notes_say_where_to_connect(options: list[str], says: list[str]) -> None:
    done = must(HELM, "install", "release", CHART, "-f", LEAST, *options, "--dry-run=client")
    notes = done.split("\nNOTES:\n")[1]
    for text in says:
        assert text in notes
    assert ("gcpServiceAccount is empty" in notes) != ("everything" in str(options))
