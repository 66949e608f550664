"""The policy of coalescing: which calls share a message, and when it leaves; without threads, clocks or I/O.

Calls of one lane differ in their rows alone. The first leaves at once; those that come while its message is in flight
leave together in the next one. There is no timer. One message of a lane is in flight at a time: with two, 256 callers
were no quicker, since they come back together, and so leave together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

W = TypeVar("W")


@dataclass(slots=True, eq=False)
class RowCall(Generic[W]):
    """A caller with one row.

    Attributes:
        row: The values.
        deadline: When it gives up, by `time.monotonic()`.
        waiter: What it waits on.
        gone: Whether it has given up.
        message: The message in flight with its row, if any.
    """

    row: tuple[object, ...]
    deadline: float
    waiter: W
    gone: bool = False
    message: RowMessage[W] | None = None


@dataclass(slots=True, eq=False)
class RowMessage(Generic[W]):
    """Rows that are in flight together.

    Attributes:
        calls: Their callers, in order.
        deadline: The latest of the callers' deadlines, by `time.monotonic()`.
        task: The task that sends it, if any.
    """

    calls: list[RowCall[W]]
    deadline: float
    task: Any = None

    @property
    def is_unwanted(self) -> bool:
        """Whether all callers have given up."""
        return all(call.gone for call in self.calls)


class Lane(Generic[W]):
    """The calls that may share messages of up to `max_rows` rows. Not safe for threads.

    `join` and `finish` say that a message may leave; it gets its rows when it does, with `next_message`.
    """

    __slots__ = ("_leaving", "_max_rows", "_message", "_waiting")

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._waiting: list[RowCall[W]] = []
        self._message: RowMessage[W] | None = None
        self._leaving = False

    def join(self, call: RowCall[W]) -> bool:
        """Add a call; returns whether its caller must send the next message."""
        self._waiting.append(call)
        if self._leaving or self._message is not None:
            return False
        self._leaving = True
        return True

    def next_message(self) -> RowMessage[W] | None:
        """Return the message to send, with the rows that have waited longest; None where no caller is left."""
        self._leaving = False
        self._drop_gone()
        calls = self._waiting[: self._max_rows]
        if not calls:
            return None
        del self._waiting[: self._max_rows]
        self._message = message = RowMessage(calls, max(call.deadline for call in calls))
        for call in calls:
            call.message = message
        return message

    def finish(self) -> RowCall[W] | None:
        """End the message in flight; returns the caller that must send the next one, if any."""
        if self._message is not None:
            for call in self._message.calls:
                # A reference cycle would last until a garbage collection.
                call.message = None
        self._message = None
        return self.relay()

    def relay(self) -> RowCall[W] | None:
        """Return another caller that must send the next message, if any."""
        self._drop_gone()
        self._leaving = bool(self._waiting)
        return self._waiting[0] if self._waiting else None

    def _drop_gone(self) -> None:
        if any(call.gone for call in self._waiting):
            self._waiting = [call for call in self._waiting if not call.gone]

    @property
    def is_idle(self) -> bool:
        """Whether no call waits, and none is in flight."""
        return not self._waiting and self._message is None and not self._leaving

    def calls(self) -> Iterator[RowCall[W]]:
        """Yield the calls that have not given up."""
        for group in (self._waiting, self._message.calls if self._message else ()):
            yield from (call for call in group if not call.gone)
