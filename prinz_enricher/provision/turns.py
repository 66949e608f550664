"""How many do the same at once in one process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prinz_enricher.provision.errors import Cancelled

_POLL_SECONDS = 0.05


class Turns:
    """Lets some threads in at a time; the others wait for their turn."""

    def __init__(self, most: int) -> None:
        """Let nobody in yet.

        Args:
            most: How many may be in at once.
        """
        self._free = threading.BoundedSemaphore(most)

    @contextmanager
    def take(self, cancelled: Callable[[], bool]) -> Iterator[None]:
        """Wait for a turn, and have it.

        Raises:
            Cancelled: The caller does not wait any more.
        """
        while not self._free.acquire(timeout=_POLL_SECONDS):
            if cancelled():
                raise Cancelled
        try:
            yield
        finally:
            self._free.release()
