"""`prinz-enricher models` and `prinz-enricher signature`, and the tables of models, signatures and scores."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prinz_enricher.cli.service_connection import (
    call_when_loaded,
    connect,
    connection_options,
    model_argument,
    print_line,
    printable,
    wait_option,
    waiting_display,
)
from prinz_enricher.contract import model_pb2
from prinz_enricher.signature import Signature, type_text

_UNLIMITED_WIDTH: Final = 10_000


@click.command()
@click.option(
    "--filter",
    "filter_",
    default="",
    show_default=False,
    help='Which models, such as \'name LIKE "wine%" AND tags.team = "a"\'.',
)
@connection_options
def models(filter_: str, **connection: Any) -> None:
    """List the models of a service, with every version."""
    with connect(**connection) as client:
        print_models(client.list_models(filter_))


@click.command()
@model_argument
@wait_option
@connection_options
def signature(model: str, wait: float, **connection: Any) -> None:
    """Show the inputs, outputs and parameters of a model: NAME, NAME/version or NAME@alias.

    A model whose name holds an @ is written as it is, or with an alias after it: a@b, a@b/3, a@b@champion.
    """
    with connect(**connection) as client:
        with waiting_display(Console(stderr=True)) as show:
            resolved, found = call_when_loaded(lambda _: client.signature(model), wait, show)
        print_signature(resolved.name, resolved.version or "", found)


def print_models(models: Iterable[model_pb2.Model]) -> None:
    """Print a line for each version."""
    table = _table("Model", "Version", "Aliases", "State", "Flavors", "Remarks")
    for model in models:
        for version in model.versions:
            mark = "*" if version.version == model.default_version else ""
            elsewhere = "scored elsewhere" if version.route == model_pb2.ModelVersion.ROUTE_REMOTE else ""
            _add_row(
                table,
                model.name,
                version.version + mark,
                ", ".join(version.aliases),
                model_pb2.ModelVersion.State.Name(version.state).removeprefix("STATE_").lower(),
                ", ".join(version.flavors),
                "; ".join(remark for remark in (elsewhere, version.state_message) if remark),
            )
    console = _console()
    console.print(table)
    console.print("* the version that is used if none is named", style="dim")


def print_signature(name: str, version: str, signature: Signature) -> None:
    """Print inputs, outputs and parameters."""
    table = _table("", "Name", "Type", "Required")
    for kind, fields in (("input", signature.inputs), ("output", signature.outputs)):
        for field in fields:
            _add_row(table, kind, field.name, type_text(field.type), "yes" if field.required else "no")
    for param in signature.params:
        shape = "" if param.shape is None else f" {list(param.shape)}"
        _add_row(table, "param", param.name, type_text(param.type) + shape, f"default {param.default!r}")
    console = _console()
    print_line(console, f"{name}, version {version}")
    console.print(table)
    console.print(f"origin {signature.origin}, digest {signature.digest}", style="dim", markup=False)


def print_scores(title: str, row: Mapping[str, object], scores: Mapping[str, object]) -> None:
    """Print a row and its scores, a line for each value."""
    table = _table("", "Name", "Value")
    for kind, values in (("input", row), ("output", scores)):
        for name, value in values.items():
            _add_row(table, kind, name, repr(value))
    console = _console()
    print_line(console, title)
    console.print(table)


def _console() -> Console:
    """Return a console as wide as the terminal, or as wide as need be for a file or a program."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNLIMITED_WIDTH
    return console


def _table(*columns: str) -> Table:
    table = Table()
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    return table


def _add_row(table: Table, *cells: str) -> None:
    """Add a row in which no text of a registry is markup or controls the terminal."""
    table.add_row(*(Text(printable(cell)) for cell in cells))
