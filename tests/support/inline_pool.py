"""A pool that scores in this process by given functions: for the tests of everything above the port."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa
import structlog

from prinz_enricher.errors import EnricherError, ModelError
from prinz_enricher.scoring.pool_settings import PoolSettings
from prinz_enricher.scoring.ports import Loaded, LoadFailed, ModelCall, Target, WorkerDied
from prinz_enricher.scoring.remote.in_thread import InThreadWorker
from prinz_enricher.scoring.runtime.version_pool import VersionPool
from prinz_enricher.telemetry.series import Series

log = structlog.get_logger(__name__)

ScoreFunction = Callable[[pa.RecordBatch, Mapping[str, object]], pa.RecordBatch]
"""Gives the outputs, by the target's output schema, for a batch and the parameters."""


class InlinePool(VersionPool):
    """Scores with a function for each target, each in a thread of its own; answers come from that thread."""

    def __init__(
        self,
        find: Callable[[Target], ScoreFunction],
        settings: PoolSettings | None = None,
        *,
        batching: bool = True,
        series: Series | None = None,
    ) -> None:
        """Make a pool without workers.

        Args:
            find: Gives a target's function. An exception of it is a failed load; one of the function a model error.
            settings: Limits and times.
            batching: Whether several jobs may share a call of a function.
            series: Counts what workers do.
        """
        super().__init__(lambda target: InlineWorker(target, find, batching=batching), settings, series=series)


class InlineWorker(InThreadWorker):
    """A worker that is a function. It can't be killed in the middle of a call, only abandoned after it."""

    def __init__(self, target: Target, find: Callable[[Target], ScoreFunction], *, batching: bool) -> None:
        super().__init__()
        self._target = target
        self._batching = batching and target.batching != "off"
        self._find = find
        self._function: ScoreFunction | None = None

    def start(self) -> Loaded:
        """Find the target's function."""
        try:
            self._function = self._find(self._target)
        except (LoadFailed, WorkerDied):
            raise
        except Exception as exc:
            raise LoadFailed(f"{type(exc).__name__}: {exc}") from exc
        self.check_alive()
        return Loaded("inline", self._batching)

    def score(self, call: ModelCall) -> pa.RecordBatch:
        """Call the function."""
        if self._function is None:
            raise WorkerDied("not started")
        try:
            return self._function(call.batch, call.params)
        except EnricherError:
            raise
        except (WorkerDied, SystemExit) as exc:
            raise WorkerDied(str(exc)) from exc
        except Exception as exc:
            log.exception("a model raised", model=self._target.name, correlation_id=call.correlation)
            raise ModelError(self._target.name, self._target.version, type(exc).__name__, call.correlation) from exc
