"""Versions that make room: for others, for memory, or because nobody calls them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prinz_enricher.errors import EnricherError
from prinz_enricher.scoring.cost import LoadTimes
from prinz_enricher.scoring.ports import ScoreResult, Target, WorkerState
from prinz_enricher.scoring.runtime.timer import Timer
from prinz_enricher.scoring.runtime.version import ModelVersionRuntime
from prinz_enricher.scoring.runtime.version_pool import VersionPool
from prinz_enricher.scoring.runtime.worker_group import WorkerGroup, WorkerSlot
from prinz_enricher.telemetry.series import Series
from tests.scoring.hand_worker import QUICK, HandWorker, closing
from tests.scoring.scripted import Call, rows, scripted, target_of, until
from tests.support.inline_pool import InlinePool, ScoreFunction

pytestmark = pytest.mark.usefixtures("lone")


def test_a_version_without_work_is_unloaded_but_one_that_is_kept_stays() -> None:
    """After a while without a job the worker ends; the next job starts another."""
    with closing(InlinePool(lambda _: scripted, replace(QUICK, idle_unload=0.05))) as pool:
        kept, other = replace(target_of("kept"), keep=True), target_of("other")
        pool.retain([kept, other])
        assert Call(pool, kept, rows(("", 1.0))).values() == [2.0]
        assert Call(pool, other, rows(("", 1.0))).values() == [2.0]
        until(lambda: pool.status(other).state is WorkerState.DISCOVERED)
        assert pool.status(kept).state is WorkerState.AVAILABLE
        assert Call(pool, other, rows(("", 1.0))).values() == [2.0]


def test_a_version_that_is_kept_is_loaded_again_without_a_call() -> None:
    """A load that failed is tried again after its pause, though nobody asks."""
    tries: list[int] = []

    def find(_: Target) -> ScoreFunction:
        tries.append(1)
        if len(tries) < 3:
            raise ValueError
        return scripted

    with closing(InlinePool(find, QUICK)) as pool:
        kept = replace(target_of(), keep=True)
        pool.retain([kept])
        pool.load(kept)
        until(lambda: pool.status(kept).state is WorkerState.AVAILABLE)
        assert len(tries) == 3


def test_workers_that_hold_too_much_memory_make_room() -> None:
    """The least recently used idle version goes; one that works is restarted between two calls, and loses none."""
    workers: list[HandWorker] = []

    def make(_: Target) -> HandWorker:
        workers.append(HandWorker(40))
        workers[-1].score(1000)
        return workers[-1]

    with closing(VersionPool(make, replace(QUICK, memory_budget=100))) as pool:
        first, second = target_of(version="1"), target_of(version="2")
        assert Call(pool, first, rows(("", 1.0))).values() == [2.0]
        assert Call(pool, second, rows(("", 1.0))).values() == [2.0]
        workers[1].held = 70
        until(lambda: pool.status(first).state is WorkerState.DISCOVERED)
        assert pool.status(second).state is WorkerState.AVAILABLE
        workers[1].held = 101
        until(lambda: workers[1].ended)
        assert Call(pool, second, rows(("", 2.0))).values() == [4.0]


def test_a_busy_worker_that_holds_too_much_finishes_its_calls_first() -> None:
    """A restart for memory loses no call, and what waits is scored by the next worker."""
    workers: list[HandWorker] = []

    def make(_: Target) -> HandWorker:
        workers.append(HandWorker())
        return workers[-1]

    with closing(VersionPool(make, replace(QUICK, memory_budget=100, batching="off"))) as pool:
        calls = [Call(pool, target_of(), rows(("", float(i)))) for i in range(4)]
        until(lambda: len(workers) == 1 and len(workers[0].given) == 2)
        workers[0].held = 200
        # It is looked at a hundred times a second.
        until(lambda: pool._versions[target_of().key].group.slots[0].restart)
        workers[0].score(2)
        until(lambda: len(workers) == 2 and len(workers[1].given) == 2)
        workers[1].score(2)
        outcomes: list[ScoreResult | EnricherError] = [call.outcome() for call in calls]
        assert all(isinstance(outcome, ScoreResult) for outcome in outcomes)


def test_only_the_worker_that_grew_is_restarted() -> None:
    """Its sibling goes on meanwhile, and the version stays available."""
    workers: list[HandWorker] = []

    def make(_: Target) -> HandWorker:
        workers.append(HandWorker(10))
        workers[-1].score(1000)
        return workers[-1]

    with closing(VersionPool(make, replace(QUICK, replicas=2, memory_budget=100))) as pool:
        pool.retain([replace(target_of(), keep=True)])
        pool.load(replace(target_of(), keep=True))
        until(lambda: len(workers) == 2 and pool._versions[target_of().key].group.slots[-1].live)
        workers[0].held = 120
        until(lambda: workers[0].ended)
        assert not workers[1].ended
        assert Call(pool, target_of(), rows(("", 1.0))).values() == [2.0]


def test_versions_that_are_all_kept_do_not_take_turns() -> None:
    """Where there is no room for all that is to be kept loaded, those that are stay, and the others wait."""
    loads: list[str] = []

    def find(target: Target) -> ScoreFunction:
        loads.append(target.version)
        return scripted

    looks: list[float] = []

    class Watched(InlinePool):
        def _enforce_limits(self, now: float) -> ModelVersionRuntime | None:
            looks.append(now)
            return super()._enforce_limits(now)

    with closing(Watched(find, replace(QUICK, max_workers=2))) as pool:
        kept = [replace(target_of(version=str(number)), keep=True) for number in range(3)]
        pool.retain(kept)
        for target in kept:
            pool.load(target)
        other = target_of(version="other")
        until(lambda: len(looks) > 20)
        assert len(loads) == 2
        # A caller's version still finds room.
        assert Call(pool, other, rows(("", 1.0))).values() == [2.0]


def test_a_version_that_takes_another_s_place_is_loaded_beside_it() -> None:
    """For that time there may be one worker more than the limit; then the one without work goes."""
    with closing(InlinePool(lambda _: scripted, replace(QUICK, max_workers=1))) as pool:
        former, new = target_of(version="1"), target_of(version="2")
        assert Call(pool, former, rows(("", 1.0))).values() == [2.0]
        pool.load(new, instead=True)
        until(lambda: pool.status(new).state is WorkerState.AVAILABLE)
        until(lambda: pool.status(former).state is WorkerState.DISCOVERED)


def test_what_is_loaded_in_spare_room_unloads_nothing() -> None:
    """It is not loaded where another version would have to go; what is loaded is listed."""
    with closing(InlinePool(lambda _: scripted, replace(QUICK, max_workers=1))) as pool:
        first, second = target_of(version="1"), target_of(version="2")
        assert pool.used() == []
        pool.load(first, if_room=True)
        until(lambda: pool.status(first).state is WorkerState.AVAILABLE)
        pool.load(second, if_room=True)
        assert pool.status(second).state is WorkerState.DISCOVERED
        assert pool.used() == [first]
        pool.retain([second])
        assert pool.used() == []


def test_thousands_of_versions_are_watched_in_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All workers are counted as often for many versions as for one, by the watch and where wishes are applied."""
    counted: list[int] = []
    count = VersionPool._workers

    def workers(pool: VersionPool) -> int:
        counted.append(1)
        return count(pool)

    with closing(InlinePool(lambda _: scripted, replace(QUICK, max_workers=64, watch_interval=60.0))) as pool:
        targets = [target_of(version=str(number)) for number in range(1, 13)]
        for target in targets:
            assert Call(pool, target, rows(("", 1.0))).values() == [2.0]
        until(lambda: all(pool.status(target).state is WorkerState.AVAILABLE for target in targets))
        monkeypatch.setattr(VersionPool, "_workers", workers)
        pool._watch()
        pool.retain(targets)
    assert len(counted) <= 3


class Going(WorkerSlot):
    """A slot whose worker is gone when it is looked at a second time."""

    worker = property(lambda slot: slot.looks.pop(0), lambda slot, _: setattr(slot, "looks", [HandWorker(5), None]))


def test_a_worker_that_goes_while_a_version_is_asked() -> None:
    """A scrape gets what the version has, with the memory of a worker that was there a moment ago."""
    group = WorkerGroup(target_of(), QUICK, LoadTimes(), lambda: None, Series())
    version = ModelVersionRuntime(group, lambda _: HandWorker(), Timer("deadlines"), lambda _: False)
    group.slots.append(Going())
    assert version.usage()[1].memory == 5
