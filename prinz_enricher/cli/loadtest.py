"""`prinz-enricher loadtest`: how much a server carries, and how quickly it answers meanwhile."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click
import pyarrow as pa
from rich.console import Console

from prinz_enricher.cli.row_faults import RowFileError
from prinz_enricher.cli.row_source import open_rows
from prinz_enricher.cli.signature import MODEL_ARGUMENT
from prinz_enricher.client import ModelReference
from prinz_enricher.errors import InvalidInput
from prinz_enricher.loadtest.console import Watcher, print_report
from prinz_enricher.loadtest.errors import LoadTestError
from prinz_enricher.loadtest.ladder import Ladder, Rate, parse_concurrencies, parse_rates
from prinz_enricher.loadtest.page import html_page
from prinz_enricher.loadtest.prepared import Form, Mode
from prinz_enricher.loadtest.rehearsal import Subject, find_subject
from prinz_enricher.loadtest.report import Arguments, Report
from prinz_enricher.loadtest.row_pool import made_pool, read_pool
from prinz_enricher.loadtest.run import Plan, run
from prinz_enricher.loadtest.target import Target

_T = TypeVar("_T")

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_TARGET_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)


def _read_by(parse: Callable[[str], _T]) -> Callable[[click.Context, click.Parameter, str | None], _T | tuple[()]]:
    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> _T | tuple[()]:
        try:
            return () if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from None

    return read


@click.command("loadtest", short_help="Measure what a server carries.")
@MODEL_ARGUMENT
@click.option(
    "--concurrency",
    callback=_read_by(parse_concurrencies),
    metavar="N,…",
    help="Closed loops of so many callers, one after the other. 1,16,64 where no rate is named either.",
)
@click.option(
    "--rate",
    callback=_read_by(parse_rates),
    metavar="N,…",
    help="Then open loops of so many calls a second; 70% is a share of what the closed loops reached.",
)
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in Mode]),
    default="unary",
    show_default=True,
    help="How rows travel.",
)
@click.option(
    "--form",
    type=click.Choice(["columns", "dense"]),
    default="columns",
    show_default=True,
    help="The form of rows in the modes unary and stream.",
)
@click.option("--rows", default=1, show_default=True, type=click.IntRange(1), help="Rows of a call.")
@click.option(
    "--input", "source", type=_FILE, help="Rows to send: .csv, .tsv, .parquet, .json or .jsonl; made ones if left out."
)
@click.option("--separator", help="Separator of a CSV file; found by itself if left out.")
@click.option("--seed", default=0, show_default=True, help="Of made rows and of planned times.")
@click.option("--duration", default=10.0, show_default=True, type=click.FloatRange(0.05), help="Seconds of each step.")
@click.option(
    "--warm-up",
    default=2.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Seconds of load before each step, not measured.",
)
@click.option(
    "--processes", default=1, show_default=True, type=click.IntRange(1, 256), help="Processes that make the load."
)
@click.option(
    "--connections",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Connections of each process to each address.",
)
@click.option(
    "--check",
    type=click.Choice(["scores", "rows"]),
    default="scores",
    show_default=True,
    help="What of each answer is checked: all scores, or the number of rows, for models that answer by chance.",
)
@click.option(
    "--max-in-flight",
    default=10_000,
    show_default=True,
    type=click.IntRange(1),
    help="Calls that an open loop has on their way at most; more are counted as unsent.",
)
@click.option("--json", "json_file", type=_TARGET_FILE, help="Write the report there as JSON.")
@click.option("--html", "html_file", type=_TARGET_FILE, help="Write the report there as one HTML page with plots.")
@click.option(
    "--address",
    "addresses",
    multiple=True,
    default=["localhost:50051"],
    show_default=True,
    envvar="PRINZ_ADDRESS",
    show_envvar=True,
    help="Where the server listens; several take turns.",
)
@click.option("--timeout", default=30.0, show_default=True, type=click.FloatRange(0.001), help="Seconds of a call.")
@click.option("--tls", is_flag=True, help="Speak TLS.")
@click.option("--ca", type=_FILE, help="Who may vouch for the server (PEM); implies --tls.")
@click.option("--token-file", type=_FILE, help="A file with the bearer token that calls carry.")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    concurrency: tuple[int, ...],
    rate: tuple[Rate, ...],
    json_file: Path | None,
    html_file: Path | None,
    source: Path | None,
    separator: str | None,
    tls: bool,
    ca: Path | None,
    token_file: Path | None,
    **rest: Any,
) -> None:
    """Measure what a server carries with calls of a model: NAME, NAME/version or NAME@alias.

    Each answer is checked against a scoring of the same rows before the test. The exit code is 0 if no call was
    answered with an error or wrongly, and 1 otherwise.
    """
    arguments = _arguments(rest, source, tls=tls or ca is not None)
    target = Target(
        tuple(arguments.addresses),
        connections=arguments.connections,
        tls=arguments.tls,
        authority=ca.read_text() if ca else None,
        token=token_file.read_text().strip() if token_file else None,
        timeout=arguments.timeout,
    )
    console = Console()
    ladder = Ladder.of(concurrency, rate)
    try:
        target.check()
        subject = find_subject(target, ModelReference.parse(model).to_message())
        plan = Plan(target, subject, _rows(subject, arguments, source, separator), ladder, arguments)
        with (
            Watcher(len(ladder), arguments.warm_up, arguments.duration) as watcher,
            _ended_by_signals(watcher) as ended,
        ):
            report = run(plan, watcher, ended)
    except (LoadTestError, RowFileError) as error:
        raise click.ClickException(str(error)) from None
    except InvalidInput as error:
        faults = [f"  {fault.field}: {fault.description}" for fault in error.violations]
        raise click.ClickException("\n".join([error.message, *faults])) from None
    print_report(console, report, len(ladder))
    _write(report, json_file, html_file)
    ctx.exit(1 if report.errors or not report.steps else 0)


def _arguments(given: dict[str, Any], source: Path | None, *, tls: bool) -> Arguments:
    """Gather what was asked for.

    Raises:
        click.UsageError: Arguments do not go together.
    """
    mode, form = Mode(given["mode"]), Form(given["form"])
    if mode in {Mode.ARROW, Mode.COALESCED} and form is Form.DENSE:
        raise click.UsageError(f"--form dense is for the modes unary and stream; {mode.value} has a form of its own")
    if mode is Mode.COALESCED and given["rows"] != 1:
        raise click.UsageError("--mode coalesced puts calls of single rows together: --rows is 1 there")
    told = {name: value for name, value in given.items() if name not in {"mode", "form"}}
    return Arguments(
        **{**told, "addresses": list(given["addresses"])},
        mode=mode.value,
        form=Form.ARROW.value if mode is Mode.ARROW else form.value,
        input=None if source is None else str(source),
        tls=tls,
    )


def _rows(
    subject: Subject, arguments: Arguments, source: Path | None, separator: str | None
) -> Sequence[pa.RecordBatch]:
    """Return the rows of the calls of the pool."""
    if source is None:
        return made_pool(subject.signature, arguments.rows, arguments.seed)
    batches = open_rows(source, subject.signature.inputs, 65_536, separator).batches
    return read_pool(batches, subject.signature, arguments.rows)


@contextlib.contextmanager
def _ended_by_signals(watcher: Watcher) -> Iterator[threading.Event]:
    """Yield what Ctrl-C or SIGTERM sets, so that the test ends and reports; a second one ends the command at once."""
    ended = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        if ended.is_set() or not watcher.measuring:
            raise KeyboardInterrupt
        ended.set()

    # Python lets only the main thread handle signals; a program that runs the command in another one has no Ctrl-C.
    if threading.current_thread() is not threading.main_thread():
        yield ended
        return
    former = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _write(report: Report, json_file: Path | None, html_file: Path | None) -> None:
    for path, text in (
        (json_file, report.model_dump_json(indent=2) + "\n" if json_file else ""),
        (html_file, html_page(report) if html_file else ""),
    ):
        if path is not None:
            try:
                path.write_text(text, encoding="utf-8")
            except OSError as error:
                raise click.ClickException(f"{path}: {error.strerror}") from None
