"""A pool that scores in this process by given functions: for the tests of everything above the port."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

import pyarrow as pa
import structlog

from prinz_enricher.errors import EnricherError, ModelError
from prinz_enricher.scoring.lifecycle import VersionPool
from prinz_enricher.scoring.pool import Target
from prinz_enricher.scoring.settings import PoolSettings
from prinz_enricher.scoring.worker import Answer, Loaded, LoadFailed, WorkerDied

log = structlog.get_logger(__name__)

ScoreFunction = Callable[[pa.RecordBatch, Mapping[str, object]], pa.RecordBatch]
"""Gives the outputs, by the target's output schema, for a batch and the parameters."""


class InlinePool(VersionPool):
    """Scores with a function for each target, each in a thread of its own; answers come from that thread."""

    def __init__(
        self, find: Callable[[Target], ScoreFunction], settings: PoolSettings | None = None, *, batching: bool = True
    ) -> None:
        """Make a pool without workers.

        Args:
            find: Gives a target's function. An exception of it is a failed load; one of the function a model error.
            settings: Limits and times.
            batching: Whether several jobs may share a call of a function.
        """
        super().__init__(lambda target: InlineWorker(target, find, batching=batching), settings)


class InlineWorker:
    """A worker that is a function. It can't be killed in the middle of a call, only abandoned after it."""

    def __init__(self, target: Target, find: Callable[[Target], ScoreFunction], *, batching: bool) -> None:
        self._target = target
        self._batching = batching
        self._find = find
        self._score: ScoreFunction | None = None
        self._given: deque[tuple[int, pa.RecordBatch, Mapping[str, object], str]] = deque()
        self._woken = threading.Event()
        self._killed = False

    def start(self) -> Loaded:
        """Find the target's function."""
        try:
            self._score = self._find(self._target)
        except (LoadFailed, WorkerDied):
            raise
        except Exception as exc:
            raise LoadFailed(f"{type(exc).__name__}: {exc}") from exc
        self._live()
        return Loaded("inline", self._batching)

    def give(
        self, id: int, batch: pa.RecordBatch, params: Mapping[str, object], correlation: str, deadline: float | None
    ) -> bool:
        """Keep a batch until `take` scores it."""
        self._live()
        self._given.append((id, batch, params, correlation))
        return True

    def take(self, seconds: float | None = None) -> Answer | None:
        """Call the function for the earliest batch; block until woken where there is none."""
        if not self._given:
            self._woken.wait(seconds)
            self._woken.clear()
            self._live()
            return None
        id_, batch, params, correlation = self._given.popleft()
        began = time.monotonic()
        outcome = self._call(batch, params, correlation)
        self._live()
        return Answer(id_, outcome, time.monotonic() - began)

    def _call(
        self, batch: pa.RecordBatch, params: Mapping[str, object], correlation: str
    ) -> pa.RecordBatch | EnricherError:
        if self._score is None:
            raise WorkerDied("not started")
        try:
            return self._score(batch, params)
        except EnricherError as exc:
            return exc
        except (WorkerDied, SystemExit) as exc:
            raise WorkerDied(str(exc)) from exc
        except Exception as exc:
            log.exception("a model raised", model=self._target.name, correlation_id=correlation)
            return ModelError(self._target.name, self._target.version, type(exc).__name__, correlation)

    def wake(self) -> None:
        """End a `take`."""
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

    def _live(self) -> None:
        if self._killed:
            raise WorkerDied("killed")
