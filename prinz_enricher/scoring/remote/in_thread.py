"""Workers that make their calls in the thread that takes the answers."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque

import pyarrow as pa

from prinz_enricher.errors import EnricherError
from prinz_enricher.scoring.ports import ModelCall, WorkerAnswer, WorkerDied


class InThreadWorker(ABC):
    """Keeps what it is given until `receive` makes the calls, one after the other; it is a part of this process."""

    def __init__(self) -> None:
        self._given: deque[tuple[int, ModelCall]] = deque()
        self._woken = threading.Event()
        self._killed = False

    @abstractmethod
    def score(self, call: ModelCall) -> pa.RecordBatch:
        """Make a call; blocks.

        Returns the outputs by the target's output schema. Raises EnricherError if there are none, and WorkerDied.
        """

    def send(self, id: int, call: ModelCall) -> bool:
        """Keep a call until `receive` makes it."""
        self.check_alive()
        self._given.append((id, call))
        return True

    def sends_at_once(self, batch: pa.RecordBatch) -> bool:
        """Return False: the thread that receives makes the call."""
        return False

    def receive(self, seconds: float | None = None) -> WorkerAnswer | None:
        """Score the earliest batch; block until woken where there is none."""
        if not self._given:
            self._woken.wait(seconds)
            self._woken.clear()
            self.check_alive()
            return None
        id_, call = self._given.popleft()
        began = time.monotonic()
        try:
            outcome: pa.RecordBatch | EnricherError = self.score(call)
        except EnricherError as error:
            outcome = error
        self.check_alive()
        return WorkerAnswer(id_, outcome, time.monotonic() - began)

    def wake(self) -> None:
        """End a `receive` that waits."""
        self._woken.set()

    def memory(self) -> int:
        """Return 0: what it holds can't be measured apart from the rest of the process."""
        return 0

    def kill(self) -> None:
        """Count as dead from now on."""
        self._killed = True
        self._woken.set()

    def end(self) -> str:
        """Return how it ended."""
        return "killed" if self._killed else "ended"

    def check_alive(self) -> None:
        """Raise WorkerDied if it counts as dead."""
        if self._killed:
            raise WorkerDied("killed")
