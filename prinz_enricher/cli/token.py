"""`prinz-enricher token`: make tokens for callers."""

from __future__ import annotations

import datetime as dt
import json
import secrets

import click

from prinz_enricher.security.principal import MAX_NAME, is_name
from prinz_enricher.security.tokens import token_digest

_PREFIX = "prinz_"
"""So that people and secret scanners recognise a token."""

_BYTES = 32


@click.group()
def token() -> None:
    """Make tokens for callers; a service accepts those in the file `auth.tokens_file`."""


@token.command()
@click.argument("name")
@click.option(
    "--expires", type=click.DateTime(["%Y-%m-%d"]), help="First day on which it is refused.  [default: never]"
)
def new(name: str, expires: dt.datetime | None) -> None:
    """Make a token for the caller NAME and print it, once.

    Append the entry printed after it, which has only its digest, to the tokens file. To rotate a token, add a new entry
    of the same name, and remove the old one when no caller uses it.
    """
    if not is_name(name):
        raise click.UsageError(f"NAME must have 1 to {MAX_NAME} printable characters")
    if expires is not None and expires.replace(tzinfo=dt.UTC) <= dt.datetime.now(dt.UTC):
        raise click.UsageError("--expires must be a future day")
    made = _PREFIX + secrets.token_urlsafe(_BYTES)
    click.echo(made)
    click.echo("\n# Append this to the file auth.tokens_file:\n[[token]]")
    click.echo(f"name = {json.dumps(name, ensure_ascii=False)}")
    click.echo(f'sha256 = "{token_digest(made).hex()}"')
    if expires is not None:
        click.echo(f"expires = {expires.date().isoformat()}")
