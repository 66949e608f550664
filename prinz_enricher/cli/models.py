"""`prinz-enricher models`: what a service serves."""

from __future__ import annotations

import click

from prinz_enricher.cli.connection import connect, connection_options
from prinz_enricher.cli.tables import print_models


@click.command("models", short_help="List the models that a service serves.")
@click.option(
    "--filter", "filter_", default="", help='Which models, such as \'name LIKE "wine%" AND tags.team = "a"\'.'
)
@connection_options
def command(filter_: str, address: str, registry: str | None, timeout: float) -> None:
    """List the models that a service serves, with every version."""
    with connect(address, registry, timeout) as client:
        print_models(client.list_models(filter_))
