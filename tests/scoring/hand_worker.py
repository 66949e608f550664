"""A worker that scores when a test tells it to."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import pyarrow as pa

from prinz_enricher.scoring.cost import CallCost
from prinz_enricher.scoring.ports import Loaded, ModelCall, WorkerAnswer, WorkerDied
from prinz_enricher.scoring.runtime.version_pool import VersionPool
from tests.scoring.scripted import FAST, Call, rows, scripted, target_of, until

QUICK = replace(FAST, watch_interval=0.01, max_workers=4)


class HandWorker:
    """A worker that scores when it is told to, and knows what it was given."""

    def __init__(self, memory: int = 0) -> None:
        self.given: deque[tuple[int, pa.RecordBatch, Mapping[str, object]]] = deque()
        self.sizes: list[int] = []
        self.held = memory
        self.ended = False
        self._changed = threading.Condition()
        self._may_score = 0
        self._woken = False
        self._dead = False

    def start(self) -> Loaded:
        """Load at once."""
        return Loaded("by hand", batching=True)

    def send(self, id: int, call: ModelCall) -> bool:
        """Keep a batch."""
        with self._changed:
            if self._dead:
                raise WorkerDied("killed")
            self.given.append((id, call.batch, call.params))
            self.sizes.append(call.batch.num_rows)
            self._changed.notify_all()
            return True

    def sends_at_once(self, batch: pa.RecordBatch) -> bool:
        """Take any batch."""
        return True

    def receive(self, seconds: float | None = None) -> WorkerAnswer | None:
        """Score the next batch once that is allowed."""
        with self._changed:
            self._changed.wait_for(lambda: self._woken or self._dead or (self.given and self._may_score), seconds)
            if self._dead:
                raise WorkerDied("killed")
            self._woken = False
            if not (self.given and self._may_score):
                return None
            self._may_score -= 1
            id_, batch, params = self.given.popleft()
        return WorkerAnswer(id_, scripted(batch, params), 0.001)

    def score(self, calls: int = 1) -> None:
        """Allow some calls."""
        with self._changed:
            self._may_score += calls
            self._changed.notify_all()

    def wake(self) -> None:
        """End a `receive`."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def memory(self) -> int:
        """Tell what the test says."""
        return self.held

    def kill(self) -> None:
        """Die."""
        with self._changed:
            self._dead = True
            self._changed.notify_all()

    def end(self) -> str:
        """End."""
        self.ended = True
        self.kill()
        return "ended"


@contextmanager
def closing(pool: VersionPool) -> Iterator[VersionPool]:
    """End a pool whatever happens."""
    try:
        yield pool
    finally:
        pool.close(1.0)


def settle_cost(pool: VersionPool, seconds: float) -> None:
    """Load the version, and have its calls cost so much, whatever this machine does meanwhile."""
    assert Call(pool, target_of(), rows(("", 1.0))).values() == [2.0]
    version = pool._versions[target_of().key]
    until(lambda: version.idle_since is not None)
    with version.group.lock:
        version.group.cost = CallCost()
        for _ in range(8):
            version.group.cost.observe(1, seconds)
