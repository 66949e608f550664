"""Bounds of reading one request: what it may become in memory, and whether its caller still waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from prinz_enricher.errors import DecodedTooLarge

CHUNK: Final = 1024
"""Values that are read one by one between two looks at the caller."""

NESTED: Final = 8
"""How many times its bytes on the wire a nested value takes as Python's."""

_T = TypeVar("_T")


def _nothing(*_: int) -> None:
    pass


class ReadBounds:
    """Counts the bytes that reading a request makes, before each is made.

    Args:
        max_bytes: How many there may be; None for no limit.
        check: Raises an EnricherError once nobody waits for the answer.
        hold: Counts so many bytes more among those of all requests in flight, or raises an EnricherError.
    """

    __slots__ = ("_hold", "_max_bytes", "_taken", "check")

    def __init__(
        self,
        max_bytes: int | None = None,
        check: Callable[[], None] = _nothing,
        hold: Callable[[int], None] = _nothing,
    ) -> None:
        self._max_bytes = max_bytes
        self.check = check
        self._hold = hold
        self._taken = 0

    def take(self, size: int) -> None:
        """Count bytes that are about to be made; raises DecodedTooLarge where they are too many."""
        self.check()
        if self._max_bytes is not None:
            self._taken += size
            if self._taken > self._max_bytes:
                raise DecodedTooLarge(self._max_bytes)
        self._hold(size)

    def watched(self, values: Iterable[_T]) -> Iterator[_T]:
        """Yield values that are read one by one, as long as the caller waits."""
        for index, value in enumerate(values):
            if index % CHUNK == 0:
                self.check()
            yield value


UNBOUNDED: Final = ReadBounds()
