"""What is being done until a model can be scored, told to those who wait for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_tell: ContextVar[Callable[[str], object]] = ContextVar("tell_step", default=lambda _: None)


@contextmanager
def steps_told_to(tell: Callable[[str], object]) -> Iterator[None]:
    """Report this thread's steps to `tell`."""
    token = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(token)


def tell_step(step: str) -> None:
    """Say what begins now, such as `downloading the model`."""
    _tell.get()(step)
