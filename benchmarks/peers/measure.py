"""The same loads on any server that runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.peers.call import NotThere, Refused, WrongScores, call, compare
from benchmarks.peers.figure import Figure
from benchmarks.peers.generator import Expectation, Generator, LoadFailed
from benchmarks.peers.loads import FRAUD_64, LOADS, SINGLE, Load
from benchmarks.peers.models import Models
from benchmarks.peers.protocols import Asks, Echo
from benchmarks.peers.results import Row
from benchmarks.peers.roster import Running


def measure(
    row: Row,
    asks: Callable[[Load], Asks],
    running: Running,
    models: Models,
    generator: Generator,
    tell: Callable[[str], None],
    loads: Sequence[Load] = LOADS,
) -> None:
    """Put every load on a server, and take note of what it gave.

    Args:
        row: Takes the figures.
        asks: How the server is asked under a load.
        running: The server.
        models: What it serves.
        generator: Makes the loads.
        tell: Takes a line of progress for each load.
        loads: Which ones; of a limit, those of the wine model are enough.
    """
    for load in loads:
        how = asks(load)
        if isinstance(how, Echo) and load is FRAUD_64:
            continue
        figure = one(how, running.addresses[load.model], models, load, generator)
        row.loads[load.name] = figure
        if load in SINGLE:
            row.memory_mb = sum(server.memory_mb() for server in running.servers)
        tell(f"  {load.title:<18} {describe(figure)}")


def one(asks: Asks, address: str, models: Models, load: Load, generator: Generator, more: Sequence[str] = ()) -> Figure:
    """Put one load on a server, after a call whose scores are compared with the model's own.

    Returns:
        The figure; where there is none, it says why as its error.
    """
    request = asks.encode(load.model, models.rows(load.model, load.rows))
    try:
        compare(asks, call(asks, address, load.model, request), models, load.model, load.rows)
        make = generator.grpc if asks.transport == "grpc" else generator.http
        path = asks.path(load.model)
        flags = {"more": more} if more else {}
        return make(
            address, path, request, load.rows, callers=load.callers, expected=expectation(asks, models, load), **flags
        )
    except (NotThere, Refused, WrongScores, LoadFailed) as error:
        return failed(error, load.rows)


def failed(error: Exception, rows: int) -> Figure:
    """Return what stands for a figure that could not be had."""
    return Figure(0.0, -1.0, -1.0, rows, errors=1, error=str(error)[:400])


def expectation(asks: Asks, models: Models, load: Load) -> Expectation | None:
    """Return what each answer must have in it: the first row's score.

    A label has no bytes that could not stand there by chance; for those the status must do.
    """
    if isinstance(asks, Echo) or load.model == "fraud":
        return None
    score = float(models.expected(load.model, 1)[0])
    # The last digits depend on how many rows were scored together.
    return Expectation(number=score) if asks.transport == "grpc" else Expectation(text=repr(score)[:10])


def describe(figure: Figure) -> str:
    """Return a figure in one line of progress."""
    if figure.calls_per_second <= 0:
        return f"none: {figure.error}"
    rate = f"{figure.calls_per_second:>10,.1f}/s" + (
        f" = {figure.rows_per_second:,.0f} rows/s" if figure.rows > 1 else ""
    )
    errors = f", {figure.errors} errors: {figure.error}" if figure.errors else ""
    return f"{rate}, p50 {figure.p50_ms:.2f} ms, p99 {figure.p99_ms:.2f} ms ({figure.generator}){errors}"
