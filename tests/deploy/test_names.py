"""Every flag, variable, command, path and make target that deploy/ and the Dockerfile name exists.

The pages beside the code are held to the same by tests/docs.rs.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from names import Names
from place import DEPLOY, TOP, every_proxy

FILES = sorted(p for p in [*DEPLOY.rglob("*"), TOP / "Dockerfile"] if p.is_file() and not p.is_symlink())
# The flags of other programs in comments and scripts.
STRANGERS = frozenset(
    "--region --role --member --namespace --network --platform --push --from --no-cache-dir --no-install-recommends"
    " --release --locked --bin --target --config --mount --root --quiet --system --values --set --apparent-size"
    " --build --print-architecture --remove-section --root-owner-group --strip-unneeded --no-enable --help"
    " --version --format --output --prefix --edges --remap-path-prefix --cached --others --exclude-standard --parents"
    " --check".split()
)


def relative(path: Path) -> str:
    return str(path.relative_to(TOP))


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_flags_variables_and_commands_exist(path: Path, names: Names) -> None:
    text = path.read_text()
    for flag in set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)) - STRANGERS:
        assert names.knows(flag), f"{flag} is no flag of the proxy"
    variables = set(re.findall(r"\bMEMORYSTORE_PROXY_[A-Z0-9_]+", text))
    assert variables <= names.variables
    for command in re.findall(r"(?:memorystore-auth-proxy |`)(wait|shutdown|check|token|completion)\b", text):
        assert command in names.commands, command


def test_every_argument_of_a_proxy_exists(names: Names) -> None:
    checked = 0
    for where, container in every_proxy():
        for argument in container["args"][1:]:
            assert names.knows(argument.partition("=")[0]), f"{where}: {argument}"
            checked += 1
    assert checked >= 30


def test_paths_and_targets_exist() -> None:
    page = DEPLOY / "README.md"
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert len(links) >= 10
    for link in links:
        assert (page.parent / link).exists(), link
    for path in FILES:
        for named in re.findall(r"(?:kubectl apply -k |replace )(deploy/\S+)", path.read_text()):
            assert (TOP / named).exists(), f"{relative(path)}: {named}"
    for target in re.findall(r"`make (\w+)", text):
        assert f"\n{target}:" in (TOP / "Makefile").read_text(), target
