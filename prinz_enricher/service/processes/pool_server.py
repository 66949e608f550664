"""The jobs of one front process in the pool of the main one."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace

import structlog

from prinz_enricher.errors import EnricherError, InternalError, ModelLoading
from prinz_enricher.scoring import Job, Scores, Target, WorkerPool
from prinz_enricher.service.processes.codec import Batches, Key, read_job, read_key, write_error, write_scores
from prinz_enricher.service.processes.frames import Frame, Kind
from prinz_enricher.service.processes.sender import Sender

log = structlog.stdlib.get_logger(__name__)

RETRY_SECONDS = 1.0


class PoolServer:
    """Takes the jobs of one front process, and sends back what they came to.

    Args:
        pool: Where they are scored.
        target_of: Gives the target of a key; None for one that the catalog does not have any more.
        sender: To the front process.
    """

    def __init__(self, pool: WorkerPool, target_of: Callable[[Key], Target | None], sender: Sender) -> None:
        self._pool = pool
        self._target_of = target_of
        self._sender = sender
        self._batches = Batches()
        self._open: dict[int, _Taken] = {}

    @property
    def open_jobs(self) -> int:
        """How many jobs have no answer yet."""
        return len(self._open)

    def submit(self, frame: Frame) -> None:
        """Take a job.

        Raises:
            FrameError: The frame holds none.
        """
        # Read even where it is of no use: later batches may rely on its schema.
        batch = self._batches.read(frame)
        asked = read_job(frame.meta)
        taken = _Taken(self, frame.id)
        self._open[frame.id] = taken
        target = self._target_of(asked.key)
        if target is None:
            _, name, version, _ = asked.key
            # It left the catalog long ago; the front process will know soon.
            taken.done(ModelLoading(name, version.partition(" ")[0], RETRY_SECONDS, "it was registered anew"))
            return
        job = Job(target, batch, asked.params, asked.deadline, taken.done, taken.is_gone)
        if asked.calls > 1:
            job = replace(job, calls=asked.calls, apart=lambda: taken.apart(job))
        self._pool.submit(job)

    def load(self, frame: Frame) -> None:
        """Begin to load what the front process wants.

        Raises:
            FrameError: The frame names no target.
        """
        meta = frame.meta
        target = self._target_of(read_key(meta.get("target")))
        if target is not None:
            self._pool.load(target, instead=meta.get("instead") is True)

    def cancel(self, number: int) -> None:
        """Note that the callers of a job have gone: no work is spent on it any more."""
        taken = self._open.get(number)
        if taken is not None:
            taken.gone = True

    def close(self) -> None:
        """Drop all jobs: the front process has gone."""
        for taken in list(self._open.values()):
            taken.gone = True
        self._open.clear()

    def finish(self, number: int, outcome: Scores | EnricherError) -> None:
        """Send back what a job came to."""
        if self._open.pop(number, None) is not None:
            self.answer(number, None, outcome)

    def forget(self, number: int) -> None:
        """Note that each call of a job has its answer."""
        self._open.pop(number, None)

    def answer(self, number: int, row: int | None, outcome: Scores | EnricherError) -> None:
        """Send back what a job, or one of its calls, came to.

        Args:
            number: The job's.
            row: The call; None for all of the job.
            outcome: What it came to.
        """
        if isinstance(outcome, EnricherError):
            self._sender.send(Kind.FAILED, id=number, meta=write_error(outcome, row))
            return
        try:
            self._sender.send(Kind.SCORES, id=number, meta=write_scores(outcome, row), batch=outcome.batch)
        except Exception:
            correlation_id = uuid.uuid4().hex
            log.exception("scores could not be sent", correlation_id=correlation_id)
            self._sender.send(Kind.FAILED, id=number, meta=write_error(InternalError(correlation_id), row))


class _Taken:
    """A job that has no answer yet."""

    __slots__ = ("_left", "_number", "_server", "gone")

    def __init__(self, server: PoolServer, number: int) -> None:
        self._server = server
        self._number = number
        self._left: list[int] = []
        self.gone = False

    def is_gone(self) -> bool:
        return self.gone

    def done(self, outcome: Scores | EnricherError) -> None:
        self._server.finish(self._number, outcome)

    def apart(self, job: Job) -> list[Job]:
        """Make a job of each call."""
        rows = range(job.batch.num_rows)
        self._left = list(rows)
        return [
            replace(job, batch=job.batch.slice(row, 1), done=self._done_of(row), calls=1, apart=tuple) for row in rows
        ]

    def _done_of(self, row: int) -> Callable[[Scores | EnricherError], None]:
        def done(outcome: Scores | EnricherError) -> None:
            self._server.answer(self._number, row, outcome)
            # Taking out of a list is atomic: of several threads, one takes the last, which is 0.
            if not self._left.pop():
                self._server.forget(self._number)

        return done
