"""`prinz-enricher signature`: what a model takes and gives."""

from __future__ import annotations

import click

from prinz_enricher.cli.connection import connect, connection_options
from prinz_enricher.cli.loading import Patience, wait_option
from prinz_enricher.cli.tables import print_signature
from prinz_enricher.client import ModelReference


def read_reference(ctx: click.Context, param: click.Parameter, value: str) -> ModelReference:
    """Read `NAME[@alias|/version]`; what is none ends the command with what one looks like."""
    try:
        return ModelReference.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


MODEL_ARGUMENT = click.argument("model", callback=read_reference, metavar="NAME[@alias|/version]")


@click.command("signature", short_help="Show what a model takes and gives.")
@MODEL_ARGUMENT
@wait_option
@connection_options
def command(model: ModelReference, wait: float, address: str, registry: str | None, timeout: float) -> None:
    """Show the typed inputs, outputs and parameters of a model: NAME, NAME/version or NAME@alias."""
    with connect(address, registry, timeout) as client:
        patience = Patience(client, model, wait, lambda line: click.echo(line, err=True))
        resolved, signature = patience.call(lambda: client.signature(model))
        print_signature(resolved.name, resolved.version or "", signature)
