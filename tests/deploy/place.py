"""Where things are, and how the programs that check them are run."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

TOP = Path(__file__).resolve().parents[2]
DEPLOY = TOP / "deploy"
CHART = DEPLOY / "helm" / "memorystore-auth-proxy"
OVERLAYS = DEPLOY / "kubernetes" / "overlays"
TOOLS = TOP / "target" / "validate"

# Of the program, of its containers and of the chart.
NAME = "memorystore-auth-proxy"
Document = dict[str, Any]


def run(*command: str | Path, cwd: Path | None = None, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], cwd=cwd, input=text, text=True, capture_output=True)


def must(*command: str | Path, cwd: Path | None = None, text: str | None = None) -> str:
    """The standard output of a command that has to succeed."""
    done = run(*command, cwd=cwd, text=text)
    assert done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}"
    return done.stdout


def documents(text: str) -> list[Document]:
    return [document for document in yaml.safe_load_all(text) if document]


@cache
def version() -> str:
    found = re.search(r'^version = "(.+)"', (TOP / "Cargo.toml").read_text(), re.M)
    assert found
    return found[1]


@dataclass(frozen=True)
class Rendering:
    """What one way of deploying gives, and the oldest and newest Kubernetes it is for."""

    name: str
    oldest: str
    newest: str

    @property
    def documents(self) -> list[Document]:
        return rendered(self.name)

    def of_kind(self, kind: str) -> list[Document]:
        return [document for document in self.documents if document["kind"] == kind]

    def pods(self) -> Iterator[tuple[str, Document]]:
        """Specifications of pods, with the name of what owns them."""
        for document in self.documents:
            if document["kind"] in ("Deployment", "StatefulSet", "Job"):
                yield document["metadata"]["name"], document["spec"]["template"]["spec"]


RENDERINGS = [
    Rendering("sidecar", "1.29", "1.37"),
    Rendering("job", "1.29", "1.37"),
    Rendering("job-before-1.29", "1.25", "1.28"),
    Rendering("gateway", "1.25", "1.37"),
    Rendering("chart/least", "1.25", "1.37"),
    Rendering("chart/everything", "1.25", "1.37"),
]


@cache
def rendered(name: str) -> list[Document]:
    if name.startswith("chart/"):
        values = CHART / "ci" / f"{name.removeprefix('chart/')}.yaml"
        return documents(must(TOOLS / "helm", "template", "release", CHART, "-f", values, "--namespace", "shop"))
    return documents(must(TOOLS / "kubectl", "kustomize", OVERLAYS / name))


@cache
def cloud_run_service() -> Document:
    document: Document = yaml.safe_load((DEPLOY / "cloud-run" / "service.yaml").read_text())
    return document


def containers(pod: Document) -> list[Document]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def ours(pod: Document) -> Document:
    """The proxy's container, which every pod here has once."""
    (container,) = [c for c in containers(pod) if c["name"] == NAME]
    return container


def every_proxy() -> list[tuple[str, Document]]:
    """The proxy's container of every pod in every rendering."""
    found = [(f"{rendering.name}:{owner}", ours(pod)) for rendering in RENDERINGS for owner, pod in rendering.pods()]
    return [*found, ("cloud-run", ours(cloud_run_service()["spec"]["template"]["spec"]))]


PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
