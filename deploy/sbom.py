#!/usr/bin/env python3
"""The program's bill of materials: CycloneDX JSON of the crates that a release is linked from.

    sbom.py [--target TRIPLE] [--output FILE]

Asks `cargo tree`, which knows the features of that target, and Cargo.lock for checksums; needs nothing
that is not where the program is built. No build scripts, macros or test dependencies: they are not in
the binary. The same sources give the same bytes; SOURCE_DATE_EPOCH adds a time.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tomllib
import uuid
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]


def host() -> str:
    said = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    return re.search(r"^host: (\S+)$", said, re.M).group(1)


def tree(target: str) -> list[tuple[int, str, str, str, str]]:
    """Depth, name, version, licence and repository of each line; a crate's own dependencies follow it once."""
    command = ["cargo", "tree", "--locked", "--edges=normal,no-proc-macro", f"--target={target}", "--prefix=depth"]
    command.append("--format=|{p}|{l}|{r}|")
    said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=TOP).stdout
    found = []
    for line in said.splitlines():
        depth, package, licence, repository, _ = line.split("|")
        name, version = package.split(" ")[:2]
        found.append((int(depth), name, version.removeprefix("v"), licence, repository))
    return found


def component(kind: str, name: str, version: str, licence: str, repository: str, checksum: str | None) -> dict:
    reference = f"pkg:cargo/{name}@{version}"
    made = {"type": kind, "bom-ref": reference, "name": name, "version": version, "purl": reference}
    if checksum:
        made["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if licence:
        # Older crates write MIT/Apache-2.0.
        made["licenses"] = [{"expression": licence.replace("/", " OR ")}]
    if repository:
        made["externalReferences"] = [{"type": "vcs", "url": repository}]
    return made


def document(target: str) -> dict:
    lines = tree(target)
    lock = tomllib.loads((TOP / "Cargo.lock").read_text())["package"]
    checksums = {(package["name"], package["version"]): package.get("checksum") for package in lock}
    components: dict[str, dict] = {}
    edges: dict[str, set[str]] = {}
    above: list[str] = []
    for depth, name, version, licence, repository in lines:
        kind = "library" if depth else "application"
        made = component(kind, name, version, licence, repository, checksums.get((name, version)))
        reference = made["bom-ref"]
        components.setdefault(reference, made)
        edges.setdefault(reference, set())
        above[depth:] = [reference]
        if depth:
            edges[above[depth - 1]].add(reference)
    program = components.pop(above[0])
    metadata: dict = {"component": program, "properties": [{"name": "cargo:target", "value": target}]}
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        moment = datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc)
        metadata["timestamp"] = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    made = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": metadata,
        "components": [components[reference] for reference in sorted(components)],
        "dependencies": [{"ref": ref, "dependsOn": sorted(on)} for ref, on in sorted(edges.items())],
    }
    # Another content is another document.
    made["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(made, sort_keys=True)).urn
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default=None, help="the target triple; this machine's by default")
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    text = json.dumps(document(chosen.target or host()), indent=1, ensure_ascii=False) + "\n"
    if chosen.output:
        chosen.output.parent.mkdir(parents=True, exist_ok=True)
        chosen.output.write_text(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
