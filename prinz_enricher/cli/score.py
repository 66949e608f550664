"""`prinz-enricher score`: the rows of a file, scored part by part."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import click
import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from prinz_enricher.batch import batch_to_rows
from prinz_enricher.cli.row_files import RowFileError, RowSink, RowSource, open_rows
from prinz_enricher.cli.service_connection import (
    FIRST_TRY,
    call_when_loaded,
    connect,
    connection_options,
    model_argument,
    print_line,
    wait_option,
    waiting_display,
)
from prinz_enricher.client import Scores
from prinz_enricher.signature import Signature
from prinz_enricher.signature.arrow import lossless_in_arrow

# Standard output is left free; progress and summary are for a person.
console = Console(stderr=True)

_IN_FLIGHT: Final = 2
"""Parts that are scored at once: a worker goes on with the second while the answer to the first is on its way."""

_MANY_ROWS: Final = 10_000
"""Rows of parts that are: smaller ones might share a model call, and so differ in their last bits from run to run."""


@click.command()
@model_argument
@click.option(
    "--input",
    "source",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Rows to score: .csv, .tsv, .parquet, .json or .jsonl (an array of records, or a record a line). Values are "
    "converted where nothing of them is lost; an error names the line and the column.",
)
@click.option(
    "--output",
    "target",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for the scores: .parquet, .csv, .json or .jsonl (a record a line).",
)
@click.option("--batch-rows", default=50_000, type=click.IntRange(1), help="Rows of a call.")
@click.option("--separator", help="Separator of a CSV file, one character.  [default: detected]")
@click.option("--keep-inputs", is_flag=True, help="Also write the columns that are inputs of the model.")
@click.option("--prefix", default="", show_default=False, help="Prefix for the name of each output.")
@wait_option
@connection_options
def score(
    model: str,
    source: Path,
    target: Path,
    batch_rows: int,
    separator: str | None,
    keep_inputs: bool,
    prefix: str,
    wait: float,
    **connection: Any,
) -> None:
    """Score the rows of a file with a model: NAME, NAME/version or NAME@alias; a NAME may hold an @ of its own.

    Columns that are not inputs of the model are written beside its scores. Every row is scored by the same version,
    even if an alias moves meanwhile. While the model is being loaded, the command waits, and shows what is being done.

    An object may lack its optional properties, which is not the same as null; in Parquet they are null.
    """
    try:
        with connect(**connection) as client:
            with waiting_display(console) as show:
                resolved, signature = call_when_loaded(lambda _: client.signature(model), wait, show)

            def score_part(part: Any, first: bool) -> Scores:
                def call(limit: float | None) -> Scores:
                    return client.score(resolved, part, timeout=limit)

                if not first:
                    # With all its time at once, so that it is not scored twice; the bar is on the terminal already.
                    return call_when_loaded(call, wait, lambda line: print_line(console, line))
                with waiting_display(console) as show:
                    return call_when_loaded(call, wait, show, min(FIRST_TRY, connection["timeout"]))

            rows = open_rows(source, signature.inputs, batch_rows, separator)
            kept = _kept_columns(rows.names, signature, prefix, keep_inputs=keep_inputs)
            started, count = time.monotonic(), 0
            with RowSink(target) as sink:
                most = _IN_FLIGHT if batch_rows >= _MANY_ROWS else 0
                for scored in _score_parts(score_part, signature, rows, kept, prefix, most):
                    sink.write(scored)
                    count += scored.num_rows
    except RowFileError as error:
        raise click.ClickException(str(error)) from None
    seconds = time.monotonic() - started
    speed = f"{seconds:.2f} s ({count / max(seconds, 1e-9):,.0f} rows/s)"
    print_line(console, f"{count:,} rows scored by {resolved.name}/{resolved.version} in {speed}: {target}")


def _kept_columns(names: list[str], signature: Signature, prefix: str, *, keep_inputs: bool) -> list[str]:
    """Return the columns of the file that are written beside the scores."""
    inputs = {field.name for field in signature.inputs}
    kept = [name for name in names if keep_inputs or name not in inputs]
    clash = {prefix + field.name for field in signature.outputs} & set(kept)
    if clash:
        raise RowFileError(f"the file has a column named like an output ({', '.join(sorted(clash))}); use --prefix")
    return kept


def _in_advance(
    score_batch: Callable[[pa.RecordBatch, bool], Scores], batches: Iterator[pa.RecordBatch], most: int
) -> Iterator[tuple[pa.RecordBatch, Scores]]:
    """Yield batches with their scores; while one is written, up to `most` others are scored, and the next is read."""
    waiting: deque[tuple[pa.RecordBatch, Future[Scores]]] = deque()
    threads = ThreadPoolExecutor(max(1, most))
    try:
        for first in batches:
            # Alone: it waits for the model to be loaded.
            yield first, score_batch(first, True)
            break
        for batch in batches:
            waiting.append((batch, threads.submit(score_batch, batch, False)))
            if len(waiting) > most:
                scored, future = waiting.popleft()
                yield scored, future.result()
        for scored, future in waiting:
            yield scored, future.result()
    finally:
        # Those that are being scored end with the connection.
        threads.shutdown(wait=False, cancel_futures=True)


def _score_parts(
    score_part: Callable[[Any, bool], Scores],
    signature: Signature,
    rows: RowSource,
    kept: list[str],
    prefix: str,
    most: int,
) -> Iterator[pa.RecordBatch]:
    inputs = [field.name for field in signature.inputs if field.name in rows.names] or rows.names
    # In JSON what an object lacks is not what is null in it. An Arrow file does not distinguish the two.
    in_arrow = rows.is_arrow or lossless_in_arrow(signature)
    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    progress = Progress(*columns, TimeRemainingColumn(), console=console, transient=True)
    task = progress.add_task("", total=None, speed="")
    started, count = time.monotonic(), 0

    def score_batch(batch: pa.RecordBatch, first: bool) -> Scores:
        part: Any = batch.select(inputs)
        # No rows at all have nothing that Arrow could not express.
        if batch.num_rows and not in_arrow:
            part = batch_to_rows(part)
        elif not (signature.inputs or rows.is_arrow):
            # For a model without a signature text is text, but in Arrow it would be JSON.
            part = dict(zip(inputs, part.columns, strict=True))
        return score_part(part, first)

    try:
        for batch, scores in _in_advance(score_batch, rows.batches, most):
            # Until then the terminal shows what the first part waits for.
            progress.start()
            count += batch.num_rows
            share = rows.position()
            total = max(count, round(count / share)) if share else None
            speed = f"{count / (time.monotonic() - started):,.0f} rows/s"
            progress.update(task, completed=count, total=total, speed=speed)
            names = [*kept, *(prefix + name for name in scores.held.schema.names)]
            yield pa.RecordBatch.from_arrays([*map(batch.column, kept), *scores.held.columns], names=names)
    finally:
        progress.stop()
