"""The life of a version in a pool: loading, failing, crashing, making room, and every job answered once."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import pyarrow as pa
import pytest

from prinz_enricher.errors import EnricherError, ModelError, ModelLoadFailed, ModelLoading, RegistryUnavailable
from prinz_enricher.scoring.pool_settings import PoolSettings
from prinz_enricher.scoring.ports import Job, RegistryAway, ScoreResult, Target, WorkerDied, WorkerState
from tests.scoring.scripted import FAST, PATIENCE, Call, rows, scripted, target_of, until
from tests.support.inline_pool import InlinePool, ScoreFunction

pytestmark = pytest.mark.usefixtures("lone")


@contextmanager
def closing(pool: InlinePool) -> Iterator[InlinePool]:
    """End a pool whatever happens."""
    try:
        yield pool
    finally:
        pool.close(2.0)


def test_a_job_that_can_not_wait_for_loading_is_told_so_before_its_deadline() -> None:
    """The caller learns MODEL_LOADING and when to retry while it still listens."""
    loaded = threading.Event()

    def find(_: Target) -> ScoreFunction:
        loaded.wait(PATIENCE)
        return scripted

    with closing(InlinePool(find, FAST)) as pool:
        call = Call(pool, target_of(), rows(("", 1.0)), within=0.3)
        patient = Call(pool, target_of(), rows(("", 1.0)))
        outcome = call.outcome()
        assert isinstance(outcome, ModelLoading)
        assert outcome.retry_after
        assert call.answered_at < call.began + 0.3
        assert pool.status(target_of()).state is WorkerState.LOADING
        loaded.set()
        assert patient.values() == [2.0]


def test_a_registry_that_is_away_is_no_fault_of_the_model() -> None:
    """Jobs are told REGISTRY_UNAVAILABLE and when to come back; once the registry answers, the version loads."""
    away = threading.Event()
    away.set()

    def find(_: Target) -> ScoreFunction:
        if away.is_set():
            raise RegistryAway("the registry gives no answer")
        return scripted

    with closing(InlinePool(find, FAST)) as pool:
        for _ in range(2):
            outcome = Call(pool, target_of(), rows(("", 1.0))).outcome()
            assert isinstance(outcome, RegistryUnavailable)
            assert outcome.retry_after
        away.clear()
        until(lambda: isinstance(Call(pool, target_of(), rows(("", 1.0))).outcome(), ScoreResult))


def test_a_failed_load_is_kept_with_its_reason_and_tried_again_after_a_pause() -> None:
    """Jobs get the reason at once while the pause lasts; after it the next job loads again."""
    tries: list[float] = []

    def find(_: Target) -> ScoreFunction:
        tries.append(time.monotonic())
        if len(tries) < 3:
            message = "no such artifact"
            raise FileNotFoundError(message)
        return scripted

    with closing(InlinePool(find, FAST)) as pool:
        outcome = Call(pool, target_of(), rows(("", 1.0))).outcome()
        assert isinstance(outcome, ModelLoadFailed)
        assert "no such artifact" in outcome.message
        assert pool.status(target_of()).state is WorkerState.FAILED
        assert "no such artifact" in pool.status(target_of()).message
        assert Call(pool, target_of(), rows(("", 1.0))).reason() == "MODEL_LOAD_FAILED"
        assert len(tries) == 1
        until(lambda: Call(pool, target_of(), rows(("", 1.0))).outcomes != [] and len(tries) > 1)
        until(lambda: isinstance(Call(pool, target_of(), rows(("", 1.0))).outcome(), ScoreResult))
        assert tries[1] - tries[0] >= FAST.backoff_initial
        assert tries[2] - tries[1] >= FAST.backoff_initial * 2


def test_a_worker_that_dies_each_time_ends_as_failed() -> None:
    """A crash loop backs off and says so, instead of spawning workers forever; callers learn when to come back."""
    starts: list[float] = []

    def find(_: Target) -> ScoreFunction:
        starts.append(time.monotonic())
        return scripted

    with closing(InlinePool(find, FAST)) as pool:
        # Each job gets two workers.
        for i in range(FAST.crash_limit // 2):
            assert isinstance(Call(pool, target_of(), rows(("exit", float(i)))).outcome(), ModelError)
        last = Call(pool, target_of(), rows(("exit", 9.0)))
        assert last.reason() == "MODEL_LOADING"
        until(lambda: pool.status(target_of()).state is WorkerState.FAILED)
        assert "5 times in a row" in pool.status(target_of()).message
        outcome = Call(pool, target_of(), rows(("", 1.0))).outcome()
        assert isinstance(outcome, ModelLoading)
        assert outcome.retry_after
        assert "5 times in a row" in outcome.message
        assert len(starts) == FAST.crash_limit
        until(lambda: isinstance(Call(pool, target_of(), rows(("", 1.0))).outcome(), ScoreResult))


def test_a_score_between_deaths_ends_the_row_of_them() -> None:
    """Only deaths without an answer in between count as a crash loop."""
    with closing(InlinePool(lambda _: scripted, FAST)) as pool:
        for i in range(FAST.crash_limit + 1):
            assert Call(pool, target_of(), rows(("exit", float(i)))).reason() == "MODEL_ERROR"
            assert Call(pool, target_of(), rows(("", 1.0))).values() == [2.0]


def test_rows_that_killed_two_workers_kill_no_more() -> None:
    """Their retries are refused at once, with the same error; rows beside them are scored."""
    starts: list[float] = []

    def find(_: Target) -> ScoreFunction:
        starts.append(time.monotonic())
        return scripted

    with closing(InlinePool(find, FAST)) as pool:
        assert Call(pool, target_of(), rows(("exit", 3.0))).reason() == "MODEL_ERROR"
        until(lambda: pool.status(target_of()).state is WorkerState.AVAILABLE)
        for _ in range(5):
            assert Call(pool, target_of(), rows(("exit", 3.0))).reason() == "MODEL_ERROR"
            assert Call(pool, target_of(), rows(("", 1.0))).values() == [2.0]
        assert len(starts) == 3


def test_a_worker_that_dies_while_loading_is_tried_once_more() -> None:
    """One death may be chance: callers wait for the second worker instead of being told that the model is broken."""
    tries: list[int] = []

    def find(_: Target) -> ScoreFunction:
        tries.append(1)
        if len(tries) < 2:
            raise WorkerDied
        return scripted

    with closing(InlinePool(find, FAST)) as pool:
        assert Call(pool, target_of(), rows(("", 1.0))).values() == [2.0]

    def never(_: Target) -> ScoreFunction:
        tries.append(1)
        raise WorkerDied

    tries.clear()
    with closing(InlinePool(never, FAST)) as pool:
        assert Call(pool, target_of(), rows(("", 1.0))).reason() == "MODEL_LOAD_FAILED"
        assert len(tries) == 2


def test_the_least_recently_used_idle_version_makes_room() -> None:
    """A limit of two workers serves three versions one after the other."""
    with closing(InlinePool(lambda _: scripted, FAST)) as pool:
        first, second, third = (target_of(version=str(i)) for i in range(3))
        assert Call(pool, first, rows(("", 1.0))).values() == [2.0]
        assert Call(pool, second, rows(("", 1.0))).values() == [2.0]
        assert Call(pool, first, rows(("", 1.0))).values() == [2.0]
        assert Call(pool, third, rows(("", 1.0))).values() == [2.0]
        assert pool.status(second).state is WorkerState.DISCOVERED
        assert pool.status(first).state is WorkerState.AVAILABLE


def test_no_version_is_unloaded_while_it_works() -> None:
    """Where every worker is busy, another version is refused as overload."""
    with closing(InlinePool(lambda _: scripted, FAST)) as pool:
        busy = [Call(pool, target_of(version=str(i)), rows(("sleep", 0.5))) for i in range(2)]
        assert Call(pool, target_of(version="2"), rows(("", 1.0))).reason() == "OVERLOADED"
        pool.load(target_of(version="3"))
        assert pool.status(target_of(version="3")).state is WorkerState.DISCOVERED
        assert [call.values() for call in busy] == [[1.0], [1.0]]


def test_a_version_that_leaves_makes_room_for_one_that_comes() -> None:
    """The newcomer waits for the end of the last job of the one that leaves, and no third one has to go."""
    with closing(InlinePool(lambda _: scripted, FAST)) as pool:
        first, second, third = (target_of(version=str(i)) for i in range(3))
        assert Call(pool, second, rows(("", 1.0))).values() == [2.0]
        last = Call(pool, first, rows(("sleep", 0.2)))
        pool.retain([second])
        assert pool.status(first).state is WorkerState.UNLOADING
        assert Call(pool, third, rows(("", 1.0))).values() == [2.0]
        assert last.answered
        assert last.values() == [0.4]
        assert pool.status(second).state is WorkerState.AVAILABLE


def test_a_signature_that_changed_is_another_target() -> None:
    """The key holds the signature's digest, so that a batch never meets a worker of another schema."""
    target = target_of()
    assert target.key == target_of().key
    assert target.key[3] == target.signature.digest


def test_close_tells_those_it_can_not_finish() -> None:
    """After the grace, whoever still waits is told that the service ends."""
    pool = InlinePool(lambda _: scripted, FAST)
    running = Call(pool, target_of(), rows(("sleep", 0.6)))
    waiting = Call(pool, target_of(), rows(("", 1.0)))
    pool.close(0.1)
    assert running.reason() == "SHUTTING_DOWN"
    assert waiting.reason() == "SHUTTING_DOWN"


def test_a_callback_that_raises_harms_nobody_else() -> None:
    """The thread that serves a version survives a caller's fault."""

    def broken(_: ScoreResult | EnricherError) -> None:
        raise RuntimeError

    with closing(InlinePool(lambda _: scripted, FAST)) as pool:
        pool.submit(Job(target_of(), rows(("", 1.0)), {"factor": 2.0}, None, broken))
        assert Call(pool, target_of(), rows(("", 1.0))).values() == [2.0]


def test_a_callback_may_submit_again() -> None:
    """No lock is held while a caller is told."""
    with closing(InlinePool(lambda _: scripted, FAST)) as pool:
        calls: list[Call] = []
        more = threading.Event()

        def again(_: ScoreResult | EnricherError) -> None:
            calls.append(Call(pool, target_of(), rows(("", 1.0))))
            pool.status(target_of())
            more.set()

        pool.submit(Job(target_of(), rows(("", 1.0)), {"factor": 2.0}, None, again))
        assert more.wait(PATIENCE)
        assert calls[0].values() == [2.0]


@pytest.mark.parametrize("seed", range(3))
def test_every_job_is_answered_exactly_once_whatever_happens(seed: int) -> None:
    """Threads submit while workers die, jobs expire, versions are unloaded, limits change and the pool closes."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    lock = threading.Lock()

    def flaky(batch: pa.RecordBatch, params: Mapping[str, object]) -> pa.RecordBatch:
        with lock:
            drawn = chance.random()
        if drawn < 0.02:
            raise WorkerDied
        if drawn < 0.05:
            raise ValueError
        return scripted(batch, params)

    settings = PoolSettings(
        max_workers=3, max_queue_rows=50, hang_grace=0.02, backoff_initial=0.002, backoff_max=0.01, crash_limit=2
    )
    pool = InlinePool(lambda _: flaky, settings)
    calls: list[list[Call]] = [[] for _ in range(6)]

    def submit(mine: list[Call], own: random.Random) -> None:
        for _ in range(300):
            within = own.choice([None, 5.0, 0.005, 0.0005])
            what = ("sleep", 0.001) if own.random() < 0.1 else ("", float(own.randrange(1000)))
            gone = own.random() < 0.05
            mine.append(
                Call(
                    pool,
                    target_of(version=str(own.randrange(4))),
                    rows(what),
                    within=within,
                    cancelled=partial(bool, gone),
                )
            )
            if own.random() < 0.01:
                pool.retain([target_of(version="1")])
            if own.random() < 0.05:
                pool.change(replace(settings, max_shared_rows=own.choice([1, 2, 1024]), max_workers=own.choice([2, 3])))

    threads = [
        threading.Thread(target=submit, args=(mine, random.Random(seed * 100 + i)))  # noqa: S311 - no secret
        for i, mine in enumerate(calls)
    ]
    for thread in threads:
        thread.start()
    for thread in threads[:3]:
        thread.join(PATIENCE)
    pool.close(1.0)
    for thread in threads[3:]:
        thread.join(PATIENCE)
    every = [call for mine in calls for call in mine]
    assert len(every) == 1800
    for call in every:
        call.outcome()
    assert all(len(call.outcomes) == 1 for call in every)
    assert sum(isinstance(call.outcomes[0], ScoreResult) for call in every) > 100


def test_other_limits_for_versions_in_use() -> None:
    """Workers come and go by the numbers of now, without a call, and a version that is idle for long is unloaded."""
    target = target_of()

    def available() -> int:
        return dict(pool.usage())[target.name, target.version].available

    with closing(InlinePool(lambda _: scripted, FAST)) as pool:
        assert Call(pool, target, rows(("", 1.0))).values() == [2.0]
        for replicas in (2, 1):
            pool.change(replace(FAST, replicas=replicas))
            pool.retain([target])
            until(lambda wanted=replicas: available() == wanted)  # type: ignore[misc]  # mypy infers no default
        assert Call(pool, target, rows(("", 1.0))).values() == [2.0]
        pool.change(replace(FAST, idle_unload=0.01))
        until(lambda: pool.status(target).state is WorkerState.DISCOVERED)
