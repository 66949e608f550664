"""How many requests are under way at once, where waiting ends with the deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prinz_enricher.scoring.remote.errors import CallCancelled, UpstreamTimeout
from prinz_enricher.scoring.remote.network import SLICE_SECONDS


class Turns:
    """Lets so many requests at once be under way; for all threads of an endpoint."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._free = threading.Semaphore(places)

    @contextmanager
    def turn(self, deadline: float, cancelled: Callable[[], bool], *, again: bool = False) -> Iterator[None]:
        """Wait for a place, and hold it.

        Args:
            deadline: By `time.monotonic()`.
            cancelled: Tells whether nobody waits for it any more.
            again: Whether it had a turn before.

        Raises:
            UpstreamTimeout: There was none in time.
            CallCancelled: Nobody waits for it any more.
        """
        while True:
            if cancelled():
                raise CallCancelled("the call was cancelled while it waited for its turn")
            left = deadline - time.monotonic()
            if left <= 0:
                why = f"its time was over before its turn; {self._places} requests at once are allowed"
                raise UpstreamTimeout(why, asked=again)
            if self._free.acquire(timeout=min(left, SLICE_SECONDS)):
                break
        try:
            yield
        finally:
            self._free.release()
