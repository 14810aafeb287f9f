"""The documents' blocks of code, as they stand in it."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from documents import TEXT

SHELL = ("sh", "bash")
PROGRAMS = ("python", "js", "javascript")
# What is shown, and not run.
SHOWN = ("json", "text", "yaml", "nginx", "caddy", "haproxy", "toml", "dockerfile", "py", "shell")


class Block(NamedTuple):
    """A block of code; ``line`` is that of the whole text, from 1."""

    line: int
    language: str
    text: str

    @property
    def first(self) -> str:
        """Its first line: its name among the others."""
        return self.text.splitlines()[0]


def blocks() -> list[Block]:
    """All of them, in their order; what is part of a list is moved to the left."""
    return list(_read(TEXT.splitlines()))


def _read(lines: list[str]) -> Iterator[Block]:
    begun: Block | None = None
    indent = 0
    for number, line in enumerate(lines, 1):
        fence = re.fullmatch(r"( *)```(\S*)", line)
        if fence is None:
            begun = begun and begun._replace(text=begun.text + line[indent:] + "\n")
        elif begun is None:
            begun, indent = Block(number + 1, fence[2], ""), len(fence[1])
        else:
            yield begun
            begun = None
    assert begun is None, f"the block at line {begun.line} has no end" if begun else ""
