"""Models, signatures and scores as tables for a person, on standard output."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prinz_enricher.contract import model_pb2
from prinz_enricher.signature import AnyValue, ListOf, MapOf, Record, Scalar, Signature, Tensor, Type

_UNFOLDED = 10_000
"""Characters of a line where it is not for a terminal."""


def print_models(models: Iterable[model_pb2.Model]) -> None:
    """Print one line for each version."""
    console = _console()
    table = _table("Model", "Version", "Aliases", "State", "Flavors", "Remarks")
    for model in models:
        for version in model.versions:
            mark = "*" if version.version == model.default_version else ""
            table.add_row(
                *_plain(
                    model.name,
                    version.version + mark,
                    ", ".join(version.aliases),
                    model_pb2.ModelVersion.State.Name(version.state).removeprefix("STATE_").lower(),
                    ", ".join(version.flavors),
                    _remarks(version),
                )
            )
    console.print(table)
    console.print("* the version that is meant where none is named", style="dim")


def _remarks(version: model_pb2.ModelVersion) -> str:
    elsewhere = "scored elsewhere" if version.route == model_pb2.ModelVersion.ROUTE_REMOTE else ""
    return "; ".join(one for one in (elsewhere, version.state_message) if one)


def print_signature(name: str, version: str, signature: Signature) -> None:
    """Print inputs, outputs and parameters."""
    console = _console()
    _print_title(console, f"{name}, version {version}")
    table = _table("", "Name", "Type", "Required")
    for kind, fields in (("input", signature.inputs), ("output", signature.outputs)):
        for field in fields:
            table.add_row(*_plain(kind, field.name, type_text(field.type), "yes" if field.required else "no"))
    for param in signature.params:
        shape = "" if param.shape is None else f" {list(param.shape)}"
        table.add_row(*_plain("param", param.name, type_text(param.type) + shape, f"default {param.default!r}"))
    console.print(table)
    console.print(f"origin {signature.origin}, digest {signature.digest}", style="dim", markup=False)


def print_scores(title: str, row: Mapping[str, object], scores: Mapping[str, object]) -> None:
    """Print a row and its scores, a line for each value."""
    console = _console()
    _print_title(console, title)
    table = _table("", "Name", "Value")
    for kind, values in (("input", row), ("output", scores)):
        for name, value in values.items():
            table.add_row(*_plain(kind, name, repr(value)))
    console.print(table)


def type_text(type_: Type) -> str:
    """Return a type as a person writes it, such as `array(double)`."""
    match type_:
        case Scalar(kind):
            return kind.value
        case ListOf(items):
            return f"array({type_text(items)})"
        case MapOf(values):
            return f"map({type_text(values)})"
        case Record(fields):
            return (
                "object(" + ", ".join(f"{f.name}{'' if f.required else '?'}: {type_text(f.type)}" for f in fields) + ")"
            )
        case Tensor(dtype, shape):
            return f"tensor({dtype}, {list(shape)})"
        case AnyValue():
            return "any"


def _console() -> Console:
    """Return where to print: as wide as the terminal, or as wide as need be where a file or a program takes it."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _UNFOLDED
    return console


def _print_title(console: Console, title: str) -> None:
    console.print(title, soft_wrap=True, markup=False, highlight=False)


def _table(*columns: str) -> Table:
    table = Table()
    for column in columns:
        table.add_column(Text(column), overflow="fold")
    return table


def _plain(*cells: str) -> list[Text]:
    """Return cells in which nothing of a registry's text is taken for markup or for control of the terminal."""
    return [Text(printable(cell)) for cell in cells]


def printable(text: str) -> str:
    """Return text of a registry without what would control the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
