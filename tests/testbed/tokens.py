"""Tokens files."""

from collections.abc import Mapping
from pathlib import Path

from qmaster.auth.tokens import digest


def tokens_file(folder: Path, tables: Mapping[str, str]) -> str:
    """The path of a new file in which each name is its own token; `tables` has more lines for each."""
    scopes = 'scopes = ["run", "stop", "read"]'
    path = folder / "tokens.toml"
    path.write_text(
        "\n".join(
            f'[{name}]\nsha256 = "{digest(name.encode()).hex()}"\n{scopes}\n{more}\n' for name, more in tables.items()
        )
    )
    path.chmod(0o600)
    return str(path)
