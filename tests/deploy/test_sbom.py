"""The bill of materials: CycloneDX by its own schema, made of what Cargo.lock has and nothing else."""

from __future__ import annotations

import json
import sys
import tomllib

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from place import DEPLOY, NAME, TOP, must, version


@pytest.fixture(scope="module")
def text() -> str:
    return must(sys.executable, DEPLOY / "sbom.py")


def test_it_is_cyclonedx(text: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_it_names_what_is_linked_and_where_it_is_from(text: str) -> None:
    made = json.loads(text)
    program = made["metadata"]["component"]
    assert (program["name"], program["version"]) == (NAME, version())
    lock = tomllib.loads((TOP / "Cargo.lock").read_text())["package"]
    locked = {(package["name"], package["version"]): package.get("checksum") for package in lock}
    for component in made["components"]:
        [checksum] = component["hashes"]
        assert locked[component["name"], component["version"]] == checksum["content"]
        assert component["licenses"], component["name"]
    names = {component["name"] for component in made["components"]}
    assert {"rustls", "ring", "tokio", "redis-protocol"} <= names
    # Of tests, of builds, and macros.
    assert not {"proptest", "redis", "cc", "serde_derive"} & names


def test_it_says_who_needs_what(text: str) -> None:
    made = json.loads(text)
    known = {c["bom-ref"] for c in [*made["components"], made["metadata"]["component"]]}
    edges = {entry["ref"]: entry["dependsOn"] for entry in made["dependencies"]}
    assert edges.keys() == known and {on for all_on in edges.values() for on in all_on} < known


def test_the_same_sources_give_the_same_bytes(text: str) -> None:
    assert must(sys.executable, DEPLOY / "sbom.py") == text
    assert str(TOP) not in text
