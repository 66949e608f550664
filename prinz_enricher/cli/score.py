"""`prinz-enricher score`: the rows of a file, scored part by part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from prinz_enricher.batch import batch_to_rows
from prinz_enricher.cli.connection import connect, connection_options
from prinz_enricher.cli.loading import FIRST_TRY, once_loaded, tell_line, wait_option, waiting
from prinz_enricher.cli.row_faults import RowFileError
from prinz_enricher.cli.row_sink import RowSink
from prinz_enricher.cli.row_source import RowSource, open_rows
from prinz_enricher.cli.signature import MODEL_ARGUMENT
from prinz_enricher.client import Scores
from prinz_enricher.signature import Signature
from prinz_enricher.signature.arrow import arrow_tells_all

# Scores may go to standard output one day; progress and summary are for a person.
console = Console(stderr=True)


@click.command("score", short_help="Score the rows of a file.")
@MODEL_ARGUMENT
@click.option(
    "--input",
    "source",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Rows to score: .csv, .tsv, .parquet, .json or .jsonl (an array of records, or a record a line). Values are "
    "taken where nothing of them is lost; a fault names the line and the column.",
)
@click.option(
    "--output",
    "target",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the scores go: .parquet, .csv, .json or .jsonl (a record a line).",
)
@click.option("--batch-rows", default=50_000, show_default=True, type=click.IntRange(1), help="Rows of a call.")
@click.option("--separator", help="Separator of a CSV file, one character; found by itself if left out.")
@click.option("--keep-inputs", is_flag=True, help="Keep the columns that are inputs of the model too.")
@click.option("--prefix", default="", help="Put this before the name of each output.")
@wait_option
@connection_options
def command(
    model: str,
    source: Path,
    target: Path,
    batch_rows: int,
    separator: str | None,
    keep_inputs: bool,
    prefix: str,
    wait: float,
    address: str,
    registry: str | None,
    timeout: float,
) -> None:
    """Score the rows of a file with a model: NAME, NAME/version or NAME@alias; a NAME may hold an @ of its own.

    Columns that are no inputs of the model are kept beside its scores. Every row is scored by the same version, even
    where an alias moves meanwhile. While the model is being loaded, the command waits, and says what is being done.

    Objects may be without their optional properties, which is not the same as null; in Parquet a null means just that.
    """
    try:
        with connect(address, registry, timeout) as client:
            with waiting(console) as tell:
                resolved, signature = once_loaded(lambda _: client.signature(model), wait, tell)

            def score(given: Any, first: bool) -> Scores:
                def ask(limit: float | None) -> Scores:
                    return client.score(resolved, given, timeout=limit)

                if not first:
                    # It has all its time at once, so that it is not scored twice; the bar is on the terminal already.
                    return once_loaded(ask, wait, lambda line: tell_line(console, line))
                with waiting(console) as tell:
                    return once_loaded(ask, wait, tell, min(FIRST_TRY, timeout))

            rows = open_rows(source, signature.inputs, batch_rows, separator)
            kept = kept_columns(rows.names, signature, prefix, keep_inputs=keep_inputs)
            started = time.monotonic()
            with RowSink(target) as sink:
                count = 0
                for scored in _scored(score, signature, rows, kept, prefix):
                    sink.write(scored)
                    count += scored.num_rows
    except RowFileError as error:
        raise click.ClickException(str(error)) from None
    seconds = time.monotonic() - started
    tell_line(
        console,
        f"{count:,} rows scored by {resolved.name}/{resolved.version} in {seconds:.2f} s "
        f"({count / max(seconds, 1e-9):,.0f} rows/s): {target}",
    )


def kept_columns(names: list[str], signature: Signature, prefix: str, *, keep_inputs: bool) -> list[str]:
    """Return the columns of the file that go beside the scores.

    Raises:
        RowFileError: One of them is called like an output.
    """
    inputs = {field.name for field in signature.inputs}
    kept = [name for name in names if keep_inputs or name not in inputs]
    clash = {prefix + field.name for field in signature.outputs} & set(kept)
    if clash:
        raise RowFileError(f"the file has a column called like an output ({', '.join(sorted(clash))}); use --prefix")
    return kept


def _scored(
    score: Callable[[Any, bool], Scores], signature: Signature, rows: RowSource, kept: list[str], prefix: str
) -> Iterator[pa.RecordBatch]:
    inputs = [field.name for field in signature.inputs if field.name in rows.names] or rows.names
    # What an object of JSON lacks is not what is null in it. A file that is Arrow's own does not tell the two apart,
    # and no rows at all have nothing to tell.
    in_arrow = rows.is_arrow or arrow_tells_all(signature)
    progress = Progress(
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    try:
        task = progress.add_task("", total=rows.total, speed="")
        started = time.monotonic()
        count = 0
        for batch in rows.batches:
            given = batch.select(inputs)
            as_given: Any = given
            if given.num_rows and not in_arrow:
                as_given = batch_to_rows(given)
            elif not (signature.inputs or rows.is_arrow):
                # For a model without a signature text is text, but in Arrow it would be JSON.
                as_given = dict(zip(inputs, given.columns, strict=True))
            scores = score(as_given, count == 0)
            # Until then the terminal is for what the first part waits for.
            progress.start()
            count += batch.num_rows
            share = rows.position() if rows.position else None
            progress.update(
                task,
                completed=count,
                total=rows.total if not share else max(count, round(count / share)),
                speed=f"{count / (time.monotonic() - started):,.0f} rows/s",
            )
            names = [*kept, *(prefix + name for name in scores.held.schema.names)]
            yield pa.RecordBatch.from_arrays([*(batch.column(n) for n in kept), *scores.held.columns], names=names)
    finally:
        progress.stop()
