"""`prinz-enricher signature`: what a model takes and gives."""

from __future__ import annotations

import click
from rich.console import Console

from prinz_enricher.cli.connection import connect, connection_options
from prinz_enricher.cli.loading import once_loaded, wait_option, waiting
from prinz_enricher.cli.tables import print_signature
from prinz_enricher.client import ModelReference


def check_reference(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """Let `NAME[@alias|/version]` through; what is none ends the command with what one looks like."""
    try:
        ModelReference.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None
    return value


MODEL_ARGUMENT = click.argument("model", callback=check_reference, metavar="NAME[@alias|/version]")


@click.command("signature", short_help="Show what a model takes and gives.")
@MODEL_ARGUMENT
@wait_option
@connection_options
def command(model: str, wait: float, address: str, registry: str | None, timeout: float) -> None:
    """Show the typed inputs, outputs and parameters of a model: NAME, NAME/version or NAME@alias.

    A model whose name holds an @ is written as it is, or with an alias after it: a@b, a@b/3, a@b@champion.
    """
    with connect(address, registry, timeout) as client:
        with waiting(Console(stderr=True)) as tell:
            resolved, signature = once_loaded(lambda _: client.signature(model), wait, tell)
        print_signature(resolved.name, resolved.version or "", signature)
