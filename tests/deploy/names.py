"""The flags, variables and commands that the built proxy knows, as its --help, and that of each of its
commands, tell."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from place import must


@dataclass(frozen=True)
class Names:
    """What the helps list."""

    flags: frozenset[str]
    variables: frozenset[str]
    commands: frozenset[str]

    @classmethod
    def of(cls, program: Path) -> Names:
        text = must(program, "--help")
        listed = re.search(r"^Commands:\n((?:  .*\n|\n)+)", text, re.M)
        commands = frozenset(re.findall(r"^  ([a-z]+)", listed[1] if listed else "", re.M)) - {"help"}
        text += "".join(must(program, command, "--help") for command in sorted(commands))
        return cls(
            flags=frozenset(re.findall(r"^\s+(?:-\w, )?(--[a-z][a-z0-9-]*)", text, re.M)),
            variables=frozenset(re.findall(r"\bMEMORYSTORE_PROXY_[A-Z0-9_]+", text)),
            commands=commands,
        )

    def knows(self, flag: str) -> bool:
        return flag in self.flags
