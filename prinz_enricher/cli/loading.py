"""Waiting for a model that is being loaded, and saying meanwhile what is being done."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import click
import grpc
from rich.console import Console
from rich.progress import Progress, TextColumn

from prinz_enricher.cli.tables import printable
from prinz_enricher.client import ServiceError

FIRST_TRY: Final = 2.0
"""Seconds after which a call that waits for its model hears what is being done."""

_GRACE: Final = 10.0
"""Seconds after MODEL_LOADING in which an answer may be late on a busy machine."""

_RETRIES: Final = 3
"""Of a call that finds no service. Those of gRPC would let the deadline pass before MODEL_LOADING is told."""

_R = TypeVar("_R")

wait_option = click.option(
    "--wait",
    default=1200.0,
    show_default=True,
    type=click.FloatRange(0),
    help="Seconds to wait while the model is being downloaded, gets its environment, and is loaded.",
)


def tell_line(console: Console, line: str) -> None:
    """Print a line as it is."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def waiting(console: Console) -> Iterator[Callable[[str], None]]:
    """Yield what shows a step: on a terminal in one line, with the seconds of the waiting, else in a line for each."""
    if not console.is_interactive:
        yield lambda line: tell_line(console, line)
        return
    shown = TextColumn("{task.description} ({task.elapsed:.0f} s)", markup=False)
    progress = Progress(shown, console=console, transient=True)

    def tell(line: str) -> None:
        if not progress.tasks:
            progress.add_task(line)
            # Not before there is something to wait for.
            progress.start()
        progress.update(progress.tasks[0].id, description=line)

    try:
        yield tell
    finally:
        progress.stop()


def once_loaded(
    ask: Callable[[float | None], _R], seconds: float, tell: Callable[[str], Any], timeout: float | None = None
) -> _R:
    """Make a call, and again for as long as the model is being loaded.

    Args:
        ask: Makes the call within so many seconds; None means all that a call may take.
        seconds: How long to wait in all.
        tell: Shows what is being done.
        timeout: Of the first call: short for one that waits where its model is not loaded.

    Raises:
        ServiceError: The call failed otherwise.
        click.ClickException: The model was not loaded in time.
    """
    end = time.monotonic() + seconds
    told, lost, heard = "", 0, -math.inf
    while True:
        try:
            return ask(timeout)
        except ServiceError as error:
            if error.reason == "MODEL_LOADING":
                timeout, heard = FIRST_TRY, time.monotonic()
                known = error.metadata
                line = known.get("step") or known.get("why") or "waiting until it is loaded"
                line = printable(f"{known['model']}/{known['version']}: {line}")
                pause = min(error.retry_after or 1.0, 1.0)
                if time.monotonic() + pause > end:
                    raise click.ClickException(f"{line}. It was not loaded in time; --wait gives it more") from None
                if line != told:
                    tell(line)
                told = line
                time.sleep(pause)
            elif error.code is grpc.StatusCode.DEADLINE_EXCEEDED and (timeout or time.monotonic() < heard + _GRACE):
                # A model that is loaded and slow has all the time of a call.
                timeout = None
            elif error.code is grpc.StatusCode.UNAVAILABLE and lost < _RETRIES:
                lost += 1
                time.sleep(0.1 * lost)
            else:
                raise
