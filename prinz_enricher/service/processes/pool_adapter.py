"""The `WorkerPool` of a front process: jobs go to the main process, and what they came to comes back in any order."""

from __future__ import annotations

import contextlib
import itertools
import threading
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import structlog

from prinz_enricher.errors import EnricherError, InternalError, ShuttingDown
from prinz_enricher.scoring import Job, Scores, Status, Target, WorkerState
from prinz_enricher.service.processes.codec import Key, write_job
from prinz_enricher.service.processes.frames import Kind
from prinz_enricher.service.processes.sender import Sender
from prinz_enricher.worker.batches import has_at_most

log = structlog.stdlib.get_logger(__name__)

LOOK_SECONDS = 0.1
"""Between two looks at whose callers have gone. A pool asks a job that itself; across processes it has to be told."""

LARGE_BATCH = 256 * 1024
"""Bytes of scores from which they are written in a thread of their own, so that small ones do not wait behind them."""

_DISCOVERED = Status(WorkerState.DISCOVERED)


class _Open:
    """A job that has no answer yet."""

    __slots__ = ("gone", "job", "left", "parts")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.parts: Sequence[Job] | None = None
        self.left = job.calls
        self.gone = False


class SharedPool:
    """Hands jobs to the pool of the main process.

    Args:
        sender: To the main process.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._numbers = itertools.count(1)
        self._open: dict[int, _Open] = {}
        self._statuses: dict[Key, Status] = {}
        self._closed = False
        self._large = ThreadPoolExecutor(max_workers=2, thread_name_prefix="large-scores")
        self._submitted = threading.Event()
        self._closing = threading.Event()
        self._looker = threading.Thread(target=self._look, name="gone-callers", daemon=True)
        self._looker.start()

    def submit(self, job: Job) -> None:
        """Take a job; never blocks, and never raises for a fault of the job: `job.done` is told."""
        number = next(self._numbers)
        self._open[number] = _Open(job)
        try:
            self._sender.send(Kind.SUBMIT, id=number, meta=write_job(job), batch=job.batch)
        except Exception:
            correlation_id = uuid.uuid4().hex
            log.exception("a job could not be sent", model=job.target.name, correlation_id=correlation_id)
            self.settle(number, None, InternalError(correlation_id))
        if self._closed:
            self.settle(number, None, ShuttingDown())
        elif not self._submitted.is_set():
            self._submitted.set()

    def refusal(self, target: Target, rows: int, deadline: float | None) -> EnricherError | None:
        """Tell that a job may be taken: the main process decides once it has it."""
        return None

    def load(self, target: Target, *, instead: bool = False, if_room: bool = False) -> None:
        """Have the main process begin to load a target if it is not loaded; never blocks."""
        self._sender.send(Kind.LOAD, meta={"target": target.key, "instead": instead})

    def used(self) -> list[Target]:
        """Return nothing: what is in use is for the main process to keep, which has the workers."""
        return []

    def retain(self, targets: Collection[Target]) -> None:
        """Do nothing: what stays loaded is for the main process to say, which has the same catalog."""

    def status(self, target: Target) -> Status:
        """Tell where a target is in its life, as the main process last told."""
        return self._statuses.get(target.key, _DISCOVERED)

    def close(self, grace: float) -> None:
        """Take no more jobs; those that are open are told that the service ends. The workers are not ours."""
        self._closed = True
        for number in list(self._open):
            self.settle(number, None, ShuttingDown())
        self._closing.set()
        self._submitted.set()
        self._looker.join()
        self._large.shutdown()

    def settle(self, number: int, row: int | None, outcome: Scores | EnricherError) -> None:
        """Tell a job, or one of its calls, what it came to; once it has been told, more is of no use.

        Args:
            number: The job's.
            row: The call, where the main process scored them apart; None for all of the job.
            outcome: What it came to.
        """
        if row is None:
            one = self._open.pop(number, None)
            if one is not None:
                self._tell(one.job.done, outcome)
            return
        one = self._open.get(number)
        if one is None:
            return
        if one.parts is None:
            one.parts = one.job.apart()
        one.left -= 1
        if not one.left:
            self._open.pop(number, None)
        if row < len(one.parts):
            self._tell(one.parts[row].done, outcome)

    def know(self, statuses: Mapping[Key, Status], gone: Collection[Key]) -> None:
        """Take over what the main process tells of targets."""
        # Readers have the one or the other, and never one that changes under them.
        known = {key: status for key, status in self._statuses.items() if key not in gone}
        self._statuses = known | dict(statuses)

    def _tell(self, done: Callable[[Scores | EnricherError], None], outcome: Scores | EnricherError) -> None:
        if isinstance(outcome, Scores) and not has_at_most(outcome.batch, LARGE_BATCH):
            # Once the pool is closed, the callers have been told already.
            with contextlib.suppress(RuntimeError):
                self._large.submit(done, outcome)
        else:
            done(outcome)

    def _look(self) -> None:
        """Tell the main process which jobs have lost their callers, for as long as there are jobs."""
        while not self._closing.is_set():
            self._submitted.wait()
            while self._open and not self._closing.wait(LOOK_SECONDS):
                for number, one in list(self._open.items()):
                    if not one.gone and one.job.cancelled():
                        one.gone = True
                        self._sender.send(Kind.CANCEL, id=number)
            self._submitted.clear()
            if self._open:
                # One that came between the two steps.
                self._submitted.set()
