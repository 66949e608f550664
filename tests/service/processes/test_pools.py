"""The pool of a front process over one of the main process: as if it were that one."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import replace

import pyarrow as pa
import pytest

from prinz_enricher.errors import EnricherError, ModelError, ModelLoading, ShuttingDown
from prinz_enricher.scoring import InlinePool, Job, Scores, Target
from prinz_enricher.service.score.apart import independent
from prinz_enricher.signature import Field, Scalar, ScalarKind, Signature, input_schema, output_schema
from tests.service.processes.linked import linked
from tests.support.deadline import wait_until

DOUBLE = Scalar(ScalarKind.DOUBLE)
SIGNATURE = Signature((Field("x", DOUBLE),), (Field("y", DOUBLE),))
TARGET = Target("twice", "1", "http://registry", SIGNATURE)
WAIT = 30.0
held = threading.Event()
waiting = threading.Event()


def twice(batch: pa.RecordBatch, _: Mapping[str, object]) -> pa.RecordBatch:
    """Give twice as much; rows of less than nothing fail, and 1000 waits until it is let go."""
    values = batch.column(0).to_pylist()
    if any(value < 0 for value in values):
        raise ValueError("negative")
    if 1000.0 in values:
        waiting.set()
        assert held.wait(WAIT)
    return pa.record_batch([pa.array([2 * value for value in values])], schema=output_schema(SIGNATURE))


class Caller:
    """Makes jobs, and keeps what they came to."""

    def __init__(self) -> None:
        self.outcomes: queue.SimpleQueue[Scores | EnricherError] = queue.SimpleQueue()
        self.gone = False

    def job(self, *values: float, deadline: float | None = None, target: Target = TARGET) -> Job:
        """Make a job."""
        batch = pa.record_batch([pa.array(values, pa.float64())], schema=input_schema(SIGNATURE))
        return Job(target, batch, {}, deadline, self.outcomes.put, lambda: self.gone)

    def outcome(self) -> Scores | EnricherError:
        """Wait for the next."""
        return self.outcomes.get(timeout=WAIT)

    def values(self) -> list[float]:
        """Wait for the next, which must be scores."""
        scores = self.outcome()
        assert isinstance(scores, Scores), scores
        values: list[float] = scores.batch.column(0).to_pylist()
        return values


def inline(*, batching: bool = True) -> InlinePool:
    """Make the pool of the main process."""
    held.clear()
    waiting.clear()
    return InlinePool(lambda _: twice, batching=batching)


@pytest.mark.parametrize("rows", [0, 1, 7, 500_000])
def test_scores_of_any_size(rows: int) -> None:
    """A batch of any size is scored, with its values as they are."""
    with linked(inline(), TARGET) as sides:
        caller = Caller()
        sides.pool.submit(caller.job(*(float(row) for row in range(2000, 2000 + rows))))
        assert caller.values() == [2.0 * row for row in range(2000, 2000 + rows)]
        assert sides.server.open_jobs == 0


def test_many_jobs_at_once() -> None:
    """Each of many jobs of several threads gets its own scores."""
    with linked(inline(), TARGET) as sides:
        callers = [Caller() for _ in range(500)]

        def submit(part: int) -> None:
            for number in range(part, 500, 4):
                sides.pool.submit(callers[number].job(float(number + 2000)))

        threads = [threading.Thread(target=submit, args=(part,)) for part in range(4)]
        for thread in threads:
            thread.start()
        assert [caller.values() for caller in callers] == [[2.0 * (number + 2000)] for number in range(500)]


def grouped(callers: list[Caller], *values: float) -> Job:
    """Make a job that stands for a call of each caller."""
    together = Caller().job(*values)

    def done(outcome: Scores | EnricherError) -> None:
        for row, caller in enumerate(callers):
            one = replace(outcome, batch=outcome.batch.slice(row, 1)) if isinstance(outcome, Scores) else outcome
            caller.outcomes.put(one)

    def apart() -> list[Job]:
        return [caller.job(value) for caller, value in zip(callers, values, strict=True)]

    return replace(together, done=done, calls=len(values), apart=apart)


@pytest.mark.parametrize("batching", [True, False])
def test_one_bad_call_of_a_job_fails_alone(batching: bool) -> None:
    """Where a job stands for several calls, each has its own outcome, whether they are scored together or not."""
    with linked(inline(batching=batching), TARGET) as sides:
        callers = [Caller() for _ in range(8)]
        sides.pool.submit(grouped(callers, 1, 2, 3, -4, 5, 6, 7, 8))
        for number, caller in enumerate(callers, start=1):
            if number == 4:
                assert isinstance(caller.outcome(), ModelError)
            else:
                assert caller.values() == [2.0 * number]
        # A version that can be batched now has scored apart; it still does together.
        sides.pool.submit(grouped(callers, *range(8)))
        assert [caller.values() for caller in callers] == [[2.0 * number] for number in range(8)]
        wait_until(lambda: sides.server.open_jobs == 0)


@pytest.mark.parametrize("batching", [True, False])
def test_rows_of_one_request(batching: bool) -> None:
    """A request of independent rows has one outcome for all of them."""
    with linked(inline(batching=batching), TARGET) as sides:
        caller = Caller()
        for job in independent(caller.job(1, 2, 3)):
            sides.pool.submit(job)
        assert caller.values() == [2.0, 4.0, 6.0]
        for job in independent(caller.job(1, -2, 3)):
            sides.pool.submit(job)
        assert isinstance(caller.outcome(), ModelError)
        assert caller.outcomes.empty()


def test_a_deadline_holds_across_processes() -> None:
    """A job whose time is up is told so, while the worker is still busy with it."""
    with linked(inline(), TARGET) as sides:
        caller = Caller()
        try:
            sides.pool.submit(caller.job(1.0))
            assert caller.values() == [2.0]
            sides.pool.submit(caller.job(1000.0, deadline=time.monotonic() + 0.2))
            outcome = caller.outcome()
            assert isinstance(outcome, EnricherError)
            assert outcome.reason == "DEADLINE_EXCEEDED"
        finally:
            held.set()


def test_callers_that_have_gone_are_told_of() -> None:
    """A job whose caller has gone is not scored any more."""
    with linked(inline(batching=False), TARGET) as sides:
        busy, gone, other = Caller(), Caller(), Caller()
        try:
            sides.pool.submit(busy.job(1000.0))
            # Or both would be taken together, once the worker is loaded.
            assert waiting.wait(WAIT)
            sides.pool.submit(gone.job(1.0))
            gone.gone = True
            wait_until(lambda: any(taken.gone for taken in list(sides.server._open.values())))
        finally:
            held.set()
        sides.pool.submit(other.job(2.0))
        assert busy.values() == [2000.0]
        assert other.values() == [4.0]
        wait_until(lambda: sides.server.open_jobs == 0)
        assert gone.outcomes.empty() or isinstance(gone.outcome(), EnricherError)


def test_a_target_that_left_the_catalog() -> None:
    """A version that the main process does not know any more is to be asked for again."""
    with linked(inline(), TARGET) as sides:
        caller = Caller()
        sides.pool.submit(caller.job(1.0, target=replace(TARGET, fingerprint="another")))
        outcome = caller.outcome()
        assert isinstance(outcome, ModelLoading)
        assert outcome.metadata["version"] == "1"


def test_after_the_end() -> None:
    """A pool that is closed answers what is open, and what comes later."""
    with linked(inline(), TARGET) as sides:
        caller = Caller()
        try:
            sides.pool.submit(caller.job(1000.0))
            sides.pool.close(0.0)
            assert isinstance(caller.outcome(), ShuttingDown)
            sides.pool.submit(caller.job(1.0))
            assert isinstance(caller.outcome(), ShuttingDown)
        finally:
            held.set()
