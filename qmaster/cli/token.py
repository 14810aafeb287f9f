"""The command ``token``: a new token, and its entry for the tokens file."""

from __future__ import annotations

import secrets

import click

from ..auth.tokens import NAME, SCOPES, digest
from ..models.responses import ROOT

OCTETS = 32
PREFIX = "qm_"  # so that scanners for secrets find it


@click.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    default=SCOPES,
    help="A scope of the token; repeat it for several. [default: all]",
)
def token(name: str, scopes: tuple[str, ...]) -> None:
    """Make a token for NAME.

    The token is shown once, on standard error. Its entry for the tokens file goes to standard output, with its digest:
    python -m qmaster token alice >>tokens.toml
    """
    if not NAME.fullmatch(name) or name == ROOT:
        raise click.BadParameter(
            f"expected up to 63 characters of a-z, 0-9, - and _, and not {ROOT}; got {name!r}", param_hint="NAME"
        )
    made = PREFIX + secrets.token_urlsafe(OCTETS)
    click.echo(made, err=True)
    click.echo(entry(name, made, scopes))


def entry(name: str, made: str, scopes: tuple[str, ...]) -> str:
    """Return a table of the tokens file."""
    listed = ", ".join(f'"{scope}"' for scope in dict.fromkeys(scopes))
    return f'\n[{name}]\nsha256 = "{digest(made.encode()).hex()}"\nscopes = [{listed}]'
