"""Which calls go together, and when: a policy, without threads, clocks or connections.

Calls of one lane differ in their rows alone. The first leaves at once; those that come while its message is on its way
leave together in the next one. Nobody waits for a timer. There is one message of a lane on its way at a time: with two,
256 callers were no quicker, since they come back together, and so leave together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

W = TypeVar("W")


@dataclass(slots=True, eq=False)
class Call(Generic[W]):
    """A caller, and its row.

    Attributes:
        row: Its values.
        deadline: When it gives up, by `time.monotonic()`.
        waiter: What it waits on.
        gone: Whether it has given up, so that no answer is of use.
        message: What its row is on its way in; None while it waits for one.
    """

    row: tuple[object, ...]
    deadline: float
    waiter: W
    gone: bool = False
    message: Message[W] | None = None


@dataclass(slots=True, eq=False)
class Message(Generic[W]):
    """Rows that are on their way together.

    Attributes:
        calls: Whose rows, in their order.
        deadline: The latest of theirs, by `time.monotonic()`.
        carrier: What carries it, for who wants to stop it.
    """

    calls: list[Call[W]]
    deadline: float
    carrier: Any = None

    @property
    def is_unwanted(self) -> bool:
        """Whether all its callers have given up."""
        return all(call.gone for call in self.calls)


class Lane(Generic[W]):
    """The calls that may share messages. Not safe for threads.

    `join` and `land` say that a message may leave; it takes its rows when it really does, with `take`.

    Args:
        max_rows: Of a message.
    """

    __slots__ = ("_leaving", "_max_rows", "_message", "_waiting")

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._waiting: list[Call[W]] = []
        self._message: Message[W] | None = None
        self._leaving = False

    def join(self, call: Call[W]) -> bool:
        """Let a call wait; tell whether its caller is to see to it that a message leaves."""
        self._waiting.append(call)
        if self._leaving or self._message is not None:
            return False
        self._leaving = True
        return True

    def take(self) -> Message[W] | None:
        """Have the message leave that may: with the rows of those who have waited longest.

        Returns:
            It; None where nobody is left who wants one.
        """
        self._leaving = False
        self._drop_gone()
        calls = self._waiting[: self._max_rows]
        if not calls:
            return None
        del self._waiting[: self._max_rows]
        self._message = message = Message(calls, max(call.deadline for call in calls))
        for call in calls:
            call.message = message
        return message

    def land(self) -> Call[W] | None:
        """End the message that is on its way.

        Returns:
            Who is to see to it that another leaves, since he has waited longest; None where nobody waits.
        """
        if self._message is not None:
            for call in self._message.calls:
                # Or the two would hold each other until a garbage collection.
                call.message = None
        self._message = None
        return self.relay()

    def relay(self) -> Call[W] | None:
        """Let another caller see to it that the next message leaves.

        Returns:
            As `land`.
        """
        self._drop_gone()
        self._leaving = bool(self._waiting)
        return self._waiting[0] if self._waiting else None

    def _drop_gone(self) -> None:
        if any(call.gone for call in self._waiting):
            self._waiting = [call for call in self._waiting if not call.gone]

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits, and nothing is on its way."""
        return not self._waiting and self._message is None and not self._leaving

    def calls(self) -> Iterator[Call[W]]:
        """Yield all who still want an answer."""
        for group in (self._waiting, self._message.calls if self._message else ()):
            yield from (call for call in group if not call.gone)
