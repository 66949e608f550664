"""`prinz-enricher loadtest`: how much a server carries, and how quickly it answers meanwhile."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, get_args

import click
from rich.console import Console

from prinz_enricher.cli.row_files import RowFileError, open_rows
from prinz_enricher.cli.service_connection import hints, invalid_input, model_argument, security_options
from prinz_enricher.client import ModelReference, ServiceError, Tls
from prinz_enricher.errors import InvalidInput
from prinz_enricher.loadtest.callers import LoadTestError, Mode, ServerUnderTest
from prinz_enricher.loadtest.rendering import ProgressDisplay, html_page, print_report
from prinz_enricher.loadtest.report import Arguments
from prinz_enricher.loadtest.request_pool import find_model, generated_pool, read_pool
from prinz_enricher.loadtest.run import Rate, Schedule, parse_concurrencies, parse_rates, run

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_COUNT = click.IntRange(1)
_TARGET_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)


def _parse_loads(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, ...] | tuple[Rate, ...]:
    try:
        if value is None:
            return ()
        return parse_rates(value) if param.name == "rate" else parse_concurrencies(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from None


@click.command()
@model_argument
@click.option(
    "--concurrency",
    callback=_parse_loads,
    metavar="N,…",
    help="Closed loops with these numbers of callers, one after the other.  [default: 1,16,64 without --rate]",
)
@click.option(
    "--rate",
    callback=_parse_loads,
    metavar="N,…",
    help="Then open loops with these calls a second; 70% is a share of what the closed loops reached.",
)
@click.option("--mode", type=click.Choice(get_args(Mode)), default="unary", help="How rows travel.")
@click.option(
    "--form", type=click.Choice(["columns", "dense"]), default="columns", help="Form of rows in unary and stream."
)
@click.option("--rows", default=1, type=_COUNT, help="Rows of a call.")
@click.option(
    "--input", "source", type=_FILE, help="Rows to send: .csv, .tsv, .parquet, .json or .jsonl.  [default: generated]"
)
@click.option("--separator", help="Separator of a CSV file.  [default: detected]")
@click.option("--seed", default=0, help="Random seed for generated rows and arrival times.")
@click.option("--duration", default=10.0, type=click.FloatRange(0.05), help="Seconds of each step.")
@click.option("--warm-up", default=2.0, type=click.FloatRange(0), help="Seconds of load before each measured step.")
@click.option("--processes", default=1, type=click.IntRange(1, 256), help="Processes that generate the load.")
@click.option("--connections", default=1, type=_COUNT, help="Connections of each process to each address.")
@click.option(
    "--check",
    type=click.Choice(["scores", "rows"]),
    default="scores",
    help="What is checked of each answer: all scores, or the number of rows, for models that are not deterministic.",
)
@click.option(
    "--max-in-flight",
    default=10_000,
    type=_COUNT,
    help="Most unanswered calls of an open loop; others count as unsent.",
)
@click.option("--json", "json_file", type=_TARGET_FILE, help="Write the report to this file as JSON.")
@click.option("--html", "html_file", type=_TARGET_FILE, help="Write the report to this file as an HTML page.")
@click.option(
    "--address",
    "addresses",
    multiple=True,
    default=["localhost:50051"],
    envvar="PRINZ_ADDRESS",
    show_envvar=True,
    help="Address of the server. Repeatable: calls alternate between addresses.",
)
@click.option("--timeout", default=30.0, type=click.FloatRange(0.001), help="Seconds of a call.")
@security_options
@click.pass_context
def loadtest(
    ctx: click.Context,
    /,
    model: str,
    concurrency: tuple[int, ...],
    rate: tuple[Rate, ...],
    json_file: Path | None,
    html_file: Path | None,
    source: Path | None,
    separator: str | None,
    tls: Tls | None,
    token: Path | None,
    insecure: bool,
    **rest: Any,
) -> None:
    """Measure the throughput and latency of a server with calls of a model: NAME, NAME/version or NAME@alias.

    Each answer is compared with the scores that the same rows had before the test. The exit code is 0 if every call had
    its correct answer, and 1 otherwise.
    """
    arguments = _arguments(rest, source, tls=tls is not None)
    addresses = tuple(arguments.addresses)
    server = ServerUnderTest(addresses, arguments.connections, tls, token, arguments.timeout, insecure)
    schedule = Schedule.of(concurrency, rate)
    try:
        server.check()
        found = find_model(server, ModelReference.parse(model).to_message())
        if source is None:
            rows = generated_pool(found.signature, arguments.rows, arguments.seed)
        else:
            batches = open_rows(source, found.signature.inputs, 65_536, separator).batches
            rows = read_pool(batches, found.signature, arguments.rows)
        display = ProgressDisplay(len(schedule), arguments.warm_up, arguments.duration)
        with display, _stopped_by_signals(display) as stopped:
            report = run(server, found, rows, schedule, arguments, stopped, display.on_step, display.on_progress)
    except (LoadTestError, RowFileError) as error:
        cause = error.__cause__
        what_to_do = hints(cause, ", ".join(addresses)) if isinstance(cause, ServiceError) else ()
        raise click.ClickException("\n".join([str(error), *what_to_do])) from None
    except InvalidInput as error:
        raise invalid_input(error) from None
    print_report(Console(), report, len(schedule))
    if json_file:
        _write(json_file, report.model_dump_json(indent=2) + "\n")
    if html_file:
        _write(html_file, html_page(report))
    ctx.exit(1 if report.errors or not report.steps else 0)


def _arguments(given: dict[str, Any], source: Path | None, *, tls: bool) -> Arguments:
    mode = given["mode"]
    if mode in {"arrow", "coalesced"} and given["form"] == "dense":
        raise click.UsageError(f"--form dense is for the modes unary and stream, not for {mode}")
    if mode == "coalesced" and given["rows"] != 1:
        raise click.UsageError("--mode coalesced is for calls of single rows: use --rows 1")
    form = "arrow" if mode == "arrow" else given["form"]
    fields = {**given, "form": form, "addresses": list(given["addresses"])}
    return Arguments(**fields, input=None if source is None else str(source), tls=tls)


@contextlib.contextmanager
def _stopped_by_signals(display: ProgressDisplay) -> Iterator[threading.Event]:
    """Yield what Ctrl-C or SIGTERM sets, so that the test ends and reports; a second one ends the command at once."""
    stopped = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        if stopped.is_set() or not display.measuring:
            raise KeyboardInterrupt
        stopped.set()

    # Python lets only the main thread handle signals; a program that runs the command in another one has no Ctrl-C.
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
