"""Calls that are one job, and workers that score at once what their rows say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from prinz_enricher.errors import EnricherError, ModelError
from prinz_enricher.scoring.pool_settings import PoolSettings
from prinz_enricher.scoring.ports import Job, Loaded, ScoreResult, WorkerAnswer
from prinz_enricher.scoring.runtime.version_pool import VersionPool
from tests.scoring.hand_worker import HandWorker, closing
from tests.scoring.scripted import FAST, PATIENCE, rows, target_of


class Calls:
    """Calls that are one job, with what became of each."""

    def __init__(
        self,
        *pairs: tuple[str, float],
        within: float | None = PATIENCE,
        cancelled: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self.batch = rows(*pairs)
        self.outcomes: list[list[ScoreResult | EnricherError]] = [[] for _ in pairs]
        self.taken_apart = 0
        self._deadline = None if within is None else time.monotonic() + within
        self._cancelled = cancelled
        self._changed = threading.Condition()

    def job(self) -> Job:
        """Make the job."""
        every = range(len(self.outcomes))
        return Job(
            target_of(),
            self.batch,
            {"factor": 2.0},
            self._deadline,
            lambda outcome: self._done(every, outcome),
            lambda: all(map(self._cancelled, every)),
            calls=len(self.outcomes),
            split_calls=self._apart,
        )

    def submit(self, pool: VersionPool) -> Calls:
        """Submit them."""
        pool.submit(self.job())
        return self

    def _apart(self) -> list[Job]:
        self.taken_apart += 1
        return [
            replace(
                self.job(),
                batch=self.batch.slice(row, 1),
                done=partial(self._done, [row]),
                cancelled=partial(self._cancelled, row),
                calls=1,
                split_calls=tuple,
            )
            for row in range(len(self.outcomes))
        ]

    def _done(self, which: Sequence[int], outcome: ScoreResult | EnricherError) -> None:
        with self._changed:
            for place, row in enumerate(which):
                its = outcome
                if isinstance(outcome, ScoreResult):
                    its = replace(outcome, batch=outcome.batch.slice(place, 1))
                # As a front has it, the first answer counts.
                self.outcomes[row].append(its)
            self._changed.notify_all()

    def told(self) -> list[Any]:
        """Wait until each has an answer; gives its value, or the reason of its error."""
        with self._changed:
            assert self._changed.wait_for(lambda: all(self.outcomes), PATIENCE), "a call has no answer"
            return [_value(outcomes[0]) for outcomes in self.outcomes]

    def scores(self) -> list[ScoreResult]:
        """Wait until each has scores."""
        self.told()
        found = [outcomes[0] for outcomes in self.outcomes]
        assert all(isinstance(one, ScoreResult) for one in found), found
        return [one for one in found if isinstance(one, ScoreResult)]

    def answered_once(self) -> bool:
        """Tell whether each has just one answer."""
        return [len(outcomes) for outcomes in self.outcomes] == [1] * len(self.outcomes)


def _value(outcome: ScoreResult | EnricherError) -> Any:
    if isinstance(outcome, EnricherError):
        return outcome.reason
    [value] = outcome.batch.column(0).to_pylist()
    return value


class ScriptedWorker(HandWorker):
    """Scores at once, and does what its rows say."""

    def __init__(self, *, batching: bool = True) -> None:
        super().__init__()
        self._batching = batching
        self.score(10_000)

    def start(self) -> Loaded:
        """Load at once."""
        return Loaded("scripted", batching=self._batching)

    def receive(self, seconds: float | None = None) -> WorkerAnswer | None:
        """Score the next batch; one that raises is the model's fault."""
        at = self.given[0] if self.given else None
        try:
            return super().receive(seconds)
        except ValueError:
            assert at is not None
            return WorkerAnswer(at[0], ModelError("scripted", "1", "ValueError", "id"), 0.001)


class Workers:
    """Makes workers, and knows those that it made."""

    def __init__(self, *, batching: bool = True) -> None:
        self.made: list[ScriptedWorker] = []
        self._batching = batching

    def __call__(self, _: object) -> ScriptedWorker:
        """Make one."""
        self.made.append(ScriptedWorker(batching=self._batching))
        return self.made[-1]

    @property
    def sizes(self) -> list[int]:
        """The rows of each call that was given to any of them."""
        return [size for worker in self.made for size in worker.sizes]


@contextmanager
def scripted_pool(settings: PoolSettings = FAST, *, batching: bool = True) -> Iterator[tuple[VersionPool, Workers]]:
    """Make a pool of scripted workers."""
    workers = Workers(batching=batching)
    with closing(VersionPool(workers, settings)) as pool:
        yield pool, workers


def plain(count: int) -> list[tuple[str, float]]:
    """Give rows of which nothing is to be feared."""
    return [("", float(value)) for value in range(count)]


SEPARATELY = {
    "not shown": (FAST, False),
    "off": (replace(FAST, batching="off"), True),
}
