"""Jobs that stand for several calls: scored together, or each call for itself, and each answered once."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.errors import DeadlineExceeded
from prinz_enricher.scoring.ports import Job, WorkerDied
from prinz_enricher.scoring.queue import Pending, single_calls
from prinz_enricher.scoring.runtime.restart_backoff import digest_of
from prinz_enricher.scoring.runtime.version_pool import VersionPool
from tests.scoring.calls import SEPARATELY, Calls, plain, scripted_pool
from tests.scoring.hand_worker import QUICK, HandWorker, closing, settle_cost
from tests.scoring.scripted import FAST, PATIENCE, Call, rows, scripted, target_of, until
from tests.support.inline_pool import InlinePool


@pytest.mark.parametrize("how", SEPARATELY)
def test_where_calls_are_not_shared_each_row_is_scored_alone(how: str) -> None:
    """In their order, and each is answered once, by a model call of its own row."""
    settings, batching = SEPARATELY[how]
    with scripted_pool(settings, batching=batching) as (pool, workers):
        calls = Calls(*plain(20)).submit(pool)
        assert calls.told() == [2.0 * value for value in range(20)]
        assert workers.sizes == [1] * 20
        assert {one.batch_rows for one in calls.scores()} == {1}
        # Those that came together count from when they came.
        waits = [one.queue for one in calls.scores()]
        assert waits == sorted(waits)
        assert calls.answered_once()
        assert calls.taken_apart == 1


def test_where_calls_are_shared_the_job_is_one_model_call() -> None:
    """It is not taken apart."""
    with scripted_pool() as (pool, workers):
        calls = Calls(*plain(20)).submit(pool)
        assert calls.told() == [2.0 * value for value in range(20)]
        assert workers.sizes == [20]
        assert calls.taken_apart == 0


@pytest.mark.parametrize("count", [2, 3, 8, 33])
@pytest.mark.parametrize("beside", [0, 3])
def test_a_row_that_the_model_fails_on_fails_alone(count: int, beside: int) -> None:
    """Whichever it is of the job's calls, and whoever shares the model call with it."""
    for at in {0, count // 2, count - 1}:
        with scripted_pool() as (pool, _):
            pairs = plain(count)
            pairs[at] = ("raise", 1.0)
            # They come while it loads, and so they come together.
            calls = Calls(*pairs).submit(pool)
            others = [Call(pool, target_of(), rows(("", 100.0 + one))) for one in range(beside)]
            wanted: list[Any] = [2.0 * value for value in range(count)]
            wanted[at] = "MODEL_ERROR"
            assert calls.told() == wanted
            assert [one.values() for one in others] == [[200.0 + 2 * one] for one in range(beside)]
            assert calls.answered_once()


def test_rows_that_all_fail_are_each_told() -> None:
    """Once."""
    with scripted_pool() as (pool, _):
        calls = Calls(*[("raise", 1.0)] * 9).submit(pool)
        assert calls.told() == ["MODEL_ERROR"] * 9
        assert calls.answered_once()


@pytest.mark.parametrize("how", ["shared", *SEPARATELY])
def test_of_calls_that_a_worker_dies_of_the_guilty_alone_is_told(how: str) -> None:
    """The others get their scores from the workers after it."""
    settings, batching = SEPARATELY.get(how, (FAST, True))
    with scripted_pool(settings, batching=batching) as (pool, workers):
        calls = Calls(("", 1.0), ("", 2.0), ("exit", 3.0), ("", 4.0)).submit(pool)
        assert calls.told() == [2.0, 4.0, "MODEL_ERROR", 8.0]
        assert calls.answered_once()
        # Once among others, where it was, and twice alone.
        assert len(workers.made) == (4 if how == "shared" else 3)


def test_poison_is_refused_within_a_job_of_calls() -> None:
    """What killed workers kills no more of them, and its neighbours are scored; whoever sent it, and however."""
    with scripted_pool() as (pool, workers):
        assert Calls(("", 1.0), ("exit", 3.0)).submit(pool).told() == [2.0, "MODEL_ERROR"]
        until(lambda: len(workers.made) == 4)
        again = Calls(("", 1.0), ("exit", 3.0), ("", 2.0)).submit(pool)
        assert again.told() == [2.0, "MODEL_ERROR", 4.0]
        assert again.answered_once()
        assert Call(pool, target_of(), rows(("exit", 3.0))).reason() == "MODEL_ERROR"
        assert len(workers.made) == 4


def test_what_killed_workers_alone_is_poison_among_calls() -> None:
    """The digest of a row is the same, wherever it lies in a batch."""
    with scripted_pool() as (pool, workers):
        assert Call(pool, target_of(), rows(("exit", 3.0))).reason() == "MODEL_ERROR"
        until(lambda: len(workers.made) == 3)
        assert Calls(*plain(9), ("exit", 3.0), ("", 9.0)).submit(pool).told() == [
            *(2.0 * value for value in range(9)),
            "MODEL_ERROR",
            18.0,
        ]
        assert len(workers.made) == 3


@given(st.lists(st.tuples(st.text(max_size=20), st.floats(), st.booleans(), st.none() | st.integers(0, 9)), min_size=1))
def test_a_row_has_the_same_digest_in_a_slice_as_alone(table: list[tuple[str, float, bool, int | None]]) -> None:
    """Of text, numbers and booleans, with nulls beside it too."""
    types = [pa.utf8(), pa.float64(), pa.bool_(), pa.int64()]
    names = ["a", "b", "c", "d"]

    def batch_of(some: list[tuple[str, float, bool, int | None]]) -> pa.RecordBatch:
        columns = [pa.array(list(values), type) for values, type in zip(zip(*some, strict=True), types, strict=True)]
        return pa.RecordBatch.from_arrays(columns, names=names)

    def digest(batch: pa.RecordBatch) -> bytes:
        return digest_of(Pending(Job(target_of(), batch, {}, None, lambda _: None), "id"))

    every = batch_of(table)
    for place, row in enumerate(table):
        assert digest(every.slice(place, 1)) == digest(batch_of([row]))


def test_the_alarm_of_a_job_that_was_taken_apart_tells_whoever_is_left() -> None:
    """Those that were scored in time keep their scores."""
    worker = HandWorker()
    settings = replace(FAST, batching="off", hang_grace=PATIENCE)
    with closing(VersionPool(lambda _: worker, settings)) as pool:
        pool.load(target_of())
        until(lambda: pool.status(target_of()).state == "available")
        calls = Calls(*plain(4), within=1.0).submit(pool)
        until(lambda: len(worker.given) == 2)
        worker.score(2)
        assert calls.told() == [0.0, 2.0, "DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED"]
        until(lambda: not len(pool._versions[target_of().key].group.queue))
        worker.score(10)
        assert Call(pool, target_of(), rows(("", 5.0))).values() == [10.0]


class Rung:
    """Stands for an alarm."""

    cancelled = False

    def cancel(self) -> None:
        """Note it."""
        self.cancelled = True


def test_the_alarm_is_cancelled_with_the_last_part_and_not_before() -> None:
    """Whatever the order of the answers, and once more changes nothing."""
    calls = Calls(*plain(5))
    whole = Pending(calls.job(), "id")
    alarm: Any = Rung()
    whole.cancel_alarm = alarm.cancel
    parts = whole.split()
    error = DeadlineExceeded("queue")
    for place in (3, 0, 4, 1):
        assert parts[place].answer(error)
        assert not parts[place].answer(error)
        assert not alarm.cancelled
    assert parts[2].answer(error)
    assert alarm.cancelled
    assert calls.answered_once()
    assert [(part.submitted, part.correlation, part.rows) for part in parts] == [(whole.submitted, "id", 1)] * 5


def test_each_part_asks_its_own_caller() -> None:
    """Whether it has gone."""
    calls = Calls(*plain(3), cancelled=lambda row: row == 1)
    whole = Pending(calls.job(), "id")
    assert not whole.unwanted(time.monotonic())
    assert [part.unwanted(time.monotonic()) for part in whole.split()] == [False, True, False]
    gone = Pending(Calls(*plain(3), cancelled=lambda _: True).job(), "id")
    assert gone.unwanted(time.monotonic())


def test_a_job_that_has_its_answer_is_not_taken_apart_any_more() -> None:
    """Its calls were told with it: none is scored for nobody."""
    calls = Calls(*plain(3))
    whole, other = Pending(calls.job(), "id"), Pending(Calls(("", 1.0)).job(), "id")
    whole.answer(DeadlineExceeded("compute"))
    assert single_calls([whole, other]) == [whole, other]
    assert calls.taken_apart == 0


def test_a_worker_that_hangs_on_calls_whose_time_is_up_is_not_given_them_again() -> None:
    """They have been told by then; and none of them twice."""
    workers: list[HandWorker] = []

    def make(_: object) -> HandWorker:
        workers.append(HandWorker())
        return workers[-1]

    with closing(VersionPool(make, replace(FAST, hang_grace=0.05))) as pool:
        pool.load(target_of())
        until(lambda: pool.status(target_of()).state == "available")
        calls = Calls(*plain(5), within=0.2).submit(pool)
        assert calls.told() == ["DEADLINE_EXCEEDED"] * 5
        until(lambda: len(workers) == 2 and pool.status(target_of()).state == "available")
        workers[1].score(1)
        assert Call(pool, target_of(), rows(("", 5.0))).values() == [10.0]
        assert workers[1].sizes == [1]
        assert calls.answered_once()


def test_the_calls_of_a_job_are_told_when_all_is_broken_off() -> None:
    """Also those that were taken apart, each once."""
    worker = HandWorker()
    pool = VersionPool(lambda _: worker, replace(FAST, batching="off", end_grace=0.1))
    calls = Calls(*plain(6)).submit(pool)
    until(lambda: len(worker.given) == 2)
    pool.close(0.01)
    assert set(calls.told()) == {"SHUTTING_DOWN"}
    assert calls.answered_once()


def test_callers_that_have_gone_cost_nothing() -> None:
    """Of calls that are scored alone only those are scored that somebody waits for."""
    gone = {1, 3}
    with scripted_pool(replace(FAST, batching="off")) as (pool, workers):
        calls = Calls(*plain(5), cancelled=lambda row: row in gone).submit(pool)
        assert [one for row, one in enumerate(calls.told()) if row not in gone] == [0.0, 4.0, 8.0]
        assert workers.sizes == [1, 1, 1]


def test_calls_that_wait_count_each_where_they_are_not_shared() -> None:
    """One job of many calls is as much work as many jobs: later ones are refused for it, as for those."""
    worker = HandWorker()
    with closing(VersionPool(lambda _: worker, replace(FAST, batching="off", max_wait=1.0))) as pool:
        worker.score(1)
        settle_cost(pool, 0.1)
        assert pool.refusal(target_of(), 1, None) is None
        first = Calls(*plain(2)).submit(pool)
        until(lambda: len(worker.given) == 2)
        calls = Calls(*plain(50)).submit(pool)
        refusal = pool.refusal(target_of(), 1, None)
        assert refusal is not None
        assert refusal.reason == "OVERLOADED"
        assert Call(pool, target_of(), rows(("", 1.0))).reason() == "OVERLOADED"
        worker.score(52)
        assert first.told() == [0.0, 2.0]
        assert calls.told() == [2.0 * value for value in range(50)]


def test_inline_pools_take_jobs_of_calls() -> None:
    """With the function that a test or a notebook gives them."""

    def score(batch: pa.RecordBatch, params: Mapping[str, object]) -> pa.RecordBatch:
        if batch.num_rows > 1 and 3.0 in batch.column(1).to_pylist():
            raise WorkerDied("it does not like company")
        return scripted(batch, params)

    with closing(InlinePool(lambda _: score, QUICK)) as pool:
        assert Calls(*plain(6)).submit(pool).told() == [2.0 * value for value in range(6)]
