"""The Dockerfile, as far as no engine is needed: hadolint, and whether cargo finds in the context what
it asks for before it compiles. The image itself is not built here."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from place import TOP, must, version

DOCKERFILE = TOP / "Dockerfile"


def test_hadolint_finds_nothing() -> None:
    must(Path(sys.executable).parent / "hadolint", DOCKERFILE)


def context(folder: Path) -> None:
    """What .dockerignore, which lets through what it names, leaves of the repository."""
    lines = [line for line in (TOP / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*" and all(line.startswith("!") for line in lines[1:])
    for name in (line.removeprefix("!") for line in lines[1:]):
        source, copy = TOP / name, folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy)
        else:
            shutil.copy(source, copy)


def test_the_context_holds_what_cargo_asks_for(tmp_path: Path) -> None:
    context(tmp_path)
    metadata = must("cargo", "metadata", "--no-deps", "--offline", "--locked", "--format-version=1", cwd=tmp_path)
    assert '"name":"memorystore-auth-proxy"' in metadata
    for source in (tmp_path / "src").rglob("*.rs"):
        for included in re.findall(r'include_(?:str|bytes)!\("(.+?)"\)', source.read_text()):
            assert (source.parent / included).exists(), f"{source} includes {included}"


def test_the_image_runs_as_nobody_and_tells_its_version() -> None:
    text = DOCKERFILE.read_text()
    final = text[text.rindex("\nFROM ") :]
    assert "\nUSER 65532:65532\n" in final and "distroless/static" in final
    assert f"\nARG VERSION={version()}\n" in final
    assert "\nRUN " not in final, "there is no shell"
    assert f":{version()} --push" in text
    for source in re.findall(r"^COPY (?!--from)(\S+) ", final, re.M):
        assert f"!{source}" in (TOP / ".dockerignore").read_text().split(), source
