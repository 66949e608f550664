"""The model calls of one worker: jobs that are scored together, and apart where they fail together."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from prinz_enricher.errors import EnricherError, InternalError
from prinz_enricher.scoring.pending import Pending
from prinz_enricher.scoring.pool import Scores
from prinz_enricher.scoring.settings import PoolSettings
from prinz_enricher.scoring.shared import apart, halves, together
from prinz_enricher.scoring.timer import Timer
from prinz_enricher.scoring.worker import Worker, WorkerDied


class Calls:
    """Makes model calls, and knows which jobs it has in hand.

    Args:
        lock: Held wherever the jobs in hand are looked at or changed.
        timer: Ends a worker that hangs.
        settings: When it does.
        log: Of the version.

    Attributes:
        running: The jobs that are scored now; set by who takes them out of the queue.
    """

    def __init__(self, lock: threading.Condition, timer: Timer, settings: PoolSettings, log: Any) -> None:
        self._lock = lock
        self._timer = timer
        self._settings = settings
        self._log = log
        self.running: list[Pending] = []
        self._rest: list[list[Pending]] = []

    @property
    def busy(self) -> bool:
        """Whether there are jobs in hand. Call with the lock held."""
        return bool(self.running or self._rest)

    @property
    def in_hand(self) -> list[Pending]:
        """The jobs that were taken out of the queue and are not answered. Call with the lock held."""
        return [*self.running, *self._waiting()]

    def let_go(self) -> tuple[list[Pending], list[Pending]]:
        """Give back the jobs in hand: those that are scored now, and those that wait. Call with the lock held."""
        running, waiting = self.running, self._waiting()
        self.running, self._rest = [], []
        return running, waiting

    def run(self, worker: Worker, jobs: list[Pending]) -> bool:
        """Score jobs together; where they fail, score their halves, so that one bad row fails alone.

        Returns:
            Whether the worker lives. Where not, the jobs that it died of, and those that wait for their halves' turn,
            are still in hand.
        """
        left = [jobs]
        while left:
            part = left.pop()
            with self._lock:
                self.running, self._rest = part, left
            try:
                outcomes = self._call(worker, part)
            except WorkerDied as exc:
                self._log.warning("a worker died of a job", why=str(exc), correlation_id=part[0].correlation)
                return False
            if outcomes is None:
                left.extend(reversed(halves(part)))
                continue
            with self._lock:
                self.running = []
            for pending, outcome in zip(part, outcomes, strict=True):
                pending.answer(outcome)
        return True

    def _call(self, worker: Worker, jobs: list[Pending]) -> Sequence[Scores | EnricherError] | None:
        """Make one model call; gives the outcome of each job, or None where several failed together.

        Raises:
            WorkerDied: The worker ended meanwhile.
        """
        began = time.monotonic()
        first = jobs[0]
        # By the first of the deadlines: whoever is in a call with a row that never ends must not wait for the last one.
        deadlines = (pending.job.deadline for pending in jobs)
        end = min(began + self._settings.max_compute if one is None else one for one in deadlines)
        hang = self._timer.at(end + self._settings.hang_grace, lambda: self._kill_if_still(worker, jobs))
        failure: EnricherError
        try:
            batch, compute = worker.score(together(jobs), first.job.params, first.correlation)
            return apart(jobs, batch, began, compute)
        except EnricherError as exc:
            failure = exc
        except WorkerDied:
            raise
        except Exception:  # noqa: BLE001 - the worker goes on with the next job
            self._log.exception("a job could not be given to its worker", correlation_id=first.correlation)
            failure = InternalError(first.correlation)
        finally:
            hang.cancel()
        return [failure] if len(jobs) == 1 else None

    def _kill_if_still(self, worker: Worker, jobs: list[Pending]) -> None:
        with self._lock:
            still = self.running is jobs
            if still:
                worker.kill()
        if still:
            self._log.warning("a worker hangs and is killed", correlation_id=jobs[0].correlation)

    def _waiting(self) -> list[Pending]:
        return [pending for part in reversed(self._rest) for pending in part]
