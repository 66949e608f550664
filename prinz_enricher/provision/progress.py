"""Slow steps before a model can be scored: reported to whoever waits, and limited in number."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from prinz_enricher.provision.provision_errors import Cancelled

_POLL_SECONDS = 0.05
_report: ContextVar[Callable[[str], object]] = ContextVar("report_step", default=lambda _: None)


@contextmanager
def steps_reported_to(report: Callable[[str], object]) -> Iterator[None]:
    """Report this thread's steps to `report`."""
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


def report_step(step: str) -> None:
    """Report what begins now, such as `downloading the model`."""
    _report.get()(step)


@contextmanager
def acquired(slots: threading.Semaphore, cancelled: Callable[[], bool]) -> Iterator[None]:
    """Hold one of the slots of a semaphore; raises Cancelled where the caller stops waiting for it."""
    while not slots.acquire(timeout=_POLL_SECONDS):
        if cancelled():
            raise Cancelled
    try:
        yield
    finally:
        slots.release()
