"""The documents, in the order in which they are read: README.md, then docs/."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("functions", "api", "events", "page", "cli", "configuration", "deploy", "operations", "internals")
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in NAMES)]
TEXT = "".join(page.read_text(encoding="utf-8") for page in PAGES)


def place(line: int) -> str:
    """The page, and its line, of a line of the whole text; both from 1."""
    for page in PAGES:
        length = len(page.read_text(encoding="utf-8").splitlines())
        if line <= length:
            return f"{page.name}:{line}"
        line -= length
    raise ValueError("the documents have not so many lines")
