"""The command ``token``: a new token, and its entry for the tokens file."""

from __future__ import annotations

import secrets

import click

from ..auth.tokens import NAME, SCOPES, digest
from ..models.responses import ROOT

OCTETS = 32
PREFIX = "qm_"  # so that a search for secrets finds it


@click.command()
@click.argument("name")
@click.option(
    "--scope", "scopes", type=click.Choice(SCOPES), multiple=True, default=SCOPES, help="May be given again. [all]"
)
def token(name: str, scopes: tuple[str, ...]) -> None:
    """Make a token for NAME.

    It is shown once, on standard error. Its entry for the tokens file goes to standard output, and has only its digest:
    python -m qmaster token alice >>tokens.toml
    """
    if not NAME.fullmatch(name) or name == ROOT:
        raise click.BadParameter(f"a name has up to 63 of a-z, 0-9, - and _; {ROOT} is taken", param_hint="NAME")
    made = PREFIX + secrets.token_urlsafe(OCTETS)
    click.echo(made, err=True)
    click.echo(entry(name, made, scopes))


def entry(name: str, made: str, scopes: tuple[str, ...]) -> str:
    """A table of the tokens file."""
    listed = ", ".join(f'"{scope}"' for scope in dict.fromkeys(scopes))
    return f'\n[{name}]\nsha256 = "{digest(made.encode()).hex()}"\nscopes = [{listed}]'
