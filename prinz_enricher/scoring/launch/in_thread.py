"""What workers have in common that make their calls in the thread that takes the answers."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from prinz_enricher.errors import EnricherError
from prinz_enricher.scoring.ports import WorkerAnswer, WorkerDied


@dataclass(frozen=True, slots=True)
class Given:
    """A call as it was given.

    Attributes:
        batch: Checked rows.
        params: Every parameter of the signature.
        correlation: For messages.
        deadline: When the answer is of no more use, by `time.monotonic()`; None for no limit.
    """

    batch: pa.RecordBatch
    params: Mapping[str, object]
    correlation: str
    deadline: float | None


class InThreadWorker(ABC):
    """Keeps what it is given until `receive` makes the calls, one after the other."""

    def __init__(self) -> None:
        self._given: deque[tuple[int, Given]] = deque()
        self._woken = threading.Event()
        self._killed = False

    @abstractmethod
    def score(self, call: Given) -> pa.RecordBatch:
        """Make a call; blocks.

        Returns:
            The outputs by the target's output schema.

        Raises:
            EnricherError: Why there are none.
            WorkerDied: The worker has ended.
        """

    def send(
        self, id: int, batch: pa.RecordBatch, params: Mapping[str, object], correlation: str, deadline: float | None
    ) -> bool:
        """Keep a batch until `receive` scores it."""
        self.live()
        self._given.append((id, Given(batch, params, correlation, deadline)))
        return True

    def receive(self, seconds: float | None = None) -> WorkerAnswer | None:
        """Score the earliest batch; block until woken where there is none."""
        if not self._given:
            self._woken.wait(seconds)
            self._woken.clear()
            self.live()
            return None
        id_, call = self._given.popleft()
        began = time.monotonic()
        try:
            outcome: pa.RecordBatch | EnricherError = self.score(call)
        except EnricherError as error:
            outcome = error
        self.live()
        return WorkerAnswer(id_, outcome, time.monotonic() - began)

    def wake(self) -> None:
        """End a `receive` that waits."""
        self._woken.set()

    def memory(self) -> int:
        """Hold nothing that could be told from the rest of the process."""
        return 0

    def kill(self) -> None:
        """Count as dead from now on."""
        self._killed = True
        self._woken.set()

    def end(self) -> str:
        """Tell how it ended."""
        return "killed" if self._killed else "ended"

    @property
    def killed(self) -> bool:
        """Whether it counts as dead."""
        return self._killed

    def live(self) -> None:
        """Raise `WorkerDied` where it counts as dead."""
        if self._killed:
            raise WorkerDied("killed")
