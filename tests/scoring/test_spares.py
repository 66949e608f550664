"""Workers that are forked from a process that has imported what they need."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from structlog.typing import EventDict

from prinz_enricher.config import WorkerSettings
from prinz_enricher.provision.child_process import ForkServer, can_fork
from prinz_enricher.provision.variables import worker_variables
from prinz_enricher.scoring.launch.process_pool import ProcessPool
from prinz_enricher.scoring.pool_settings import PoolSettings
from prinz_enricher.scoring.ports import Provisions, Target, WorkerState
from prinz_enricher.scoring.runtime.spares import Spares
from tests.scoring.scripted import FAST, PATIENCE, Call, rows, target_of, until
from tests.support.processes import memory_of, named
from tests.support.worker_processes import workers_of

pytestmark = pytest.mark.slow

THERE: set[int] = set()


@pytest.fixture
def logged() -> Iterator[list[EventDict]]:
    """What the pools log."""
    with structlog.testing.capture_logs() as logs:
        yield logs


@pytest.fixture
def open_pool(model_folder: Path, logged: list[EventDict]) -> Iterator[Callable[..., ProcessPool]]:
    """Makes pools of the scripted model, and closes them."""
    pools: list[ProcessPool] = []
    assert logged == []
    # Those of a service that other tests of this process share.
    THERE.update(named("prinz-spare"), workers_of())

    def make(settings: PoolSettings = FAST, spares: int = 1, python: Path | None = None) -> ProcessPool:
        code = Path(__file__).parents[2] if python is not None else None
        made = ProcessPool(
            lambda _target, _cancelled: Provisions(model_folder, python, code),
            replace(settings, spare_workers=spares),
            workers=WorkerSettings(environment="auto" if python is None else "isolated"),
        )
        pools.append(made)
        return made

    yield make
    for pool in pools:
        pool.close(PATIENCE)


def spares() -> list[int]:
    """Return the ids of the spares that a test has started."""
    return [pid for pid in named("prinz-spare") if pid not in THERE]


def workers() -> list[int]:
    """Return the ids of the workers that a test has started."""
    return [pid for pid in workers_of() if pid not in THERE]


def name_of(pid: int) -> str:
    """Return what `ps` calls a process."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


def import_seconds(logged: list[EventDict]) -> list[float]:
    """Return what each worker that became ready took for its imports."""
    return [entry["seconds"]["import"] for entry in logged if entry["event"] == "a worker is ready"]


def test_a_worker_is_forked_from_a_spare_and_imports_nothing(
    open_pool: Callable[..., ProcessPool], logged: list[EventDict]
) -> None:
    """Once the catalog is known there is a spare; the first worker of a version is a fork of it that scores."""
    pool = open_pool()
    pool.retain([replace(target_of(), loader="mlflow.sklearn")])
    until(lambda: len(spares()) == 1)
    assert Call(pool, target_of(), rows(("", 1.0))).values() == [2.0]
    (worker,) = workers()
    assert name_of(worker) == "prinz-worker"
    assert import_seconds(logged)[0] < 0.5
    assert len(spares()) == 1


def test_without_spares_a_worker_is_started_by_itself(open_pool: Callable[..., ProcessPool]) -> None:
    """With `scoring.spare_workers` = 0 there is none, and models score all the same."""
    pool = open_pool(spares=0)
    pool.retain([target_of()])
    assert Call(pool, target_of(), rows(("", 1.0))).values() == [2.0]
    assert spares() == []
    assert name_of(workers()[0]).startswith("python")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_spare_that_is_killed_or_stopped_harms_nothing(
    open_pool: Callable[..., ProcessPool], number: signal.Signals
) -> None:
    """Its workers go on, the next version is loaded, and soon there is another spare."""
    pool = open_pool()
    pool.retain([target_of(), target_of("2")])
    assert Call(pool, target_of(), rows(("", 1.0))).values() == [2.0]
    (spare,) = spares()
    os.kill(spare, number)
    assert Call(pool, target_of("2"), rows(("", 1.0))).values() == [2.0]
    assert Call(pool, target_of(), rows(("", 2.0))).values() == [4.0]
    until(lambda: len(spares()) == 1 and spares() != [spare])
    assert len(workers()) == 2


def test_a_forked_worker_that_dies_at_loading_is_started_by_itself_the_next_time(
    open_pool: Callable[..., ProcessPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some libraries do not bear a fork; the second try of a version does without one."""
    pool = open_pool()
    served: list[object] = []
    acquire = Spares.acquire

    def note(self: Spares, target: Target, python: Path | None, code: Path | None) -> ForkServer | None:
        served.append(acquire(self, target, python, code))
        return served[-1]  # type: ignore[return-value]

    def kill_the_first(step: str) -> None:
        if len(served) == 1 and step == "loading the model":
            os.kill(workers()[0], signal.SIGKILL)

    monkeypatch.setattr(Spares, "acquire", note)
    monkeypatch.setattr("prinz_enricher.scoring.launch.process_pool.report_step", kill_the_first)
    assert Call(pool, target_of(), rows(("", 1.0))).values() == [2.0]
    assert served[0] is not None
    assert served[1] is None
    assert name_of(workers()[0]).startswith("python")


def test_the_spare_goes_first_where_memory_is_short(open_pool: Callable[..., ProcessPool]) -> None:
    """It counts in the budget; models that are loaded stay, and while there is no room there is no other spare."""
    # A worker by itself fits, together with what it is forked from it does not.
    pool = open_pool(replace(FAST, memory_budget=200 << 20))
    pool.retain([target_of()])
    assert Call(pool, target_of(), rows(("", 1.0))).values() == [2.0]
    until(lambda: spares() == [])
    assert pool.status(target_of()).state is WorkerState.AVAILABLE
    assert Call(pool, target_of(), rows(("", 2.0))).values() == [4.0]


def test_a_worker_has_nothing_of_another_models(open_pool: Callable[..., ProcessPool]) -> None:
    """What one was given is neither in what it was forked from, nor in what is forked after it."""
    pool = open_pool()
    needle = "needle-" + "of-one-model"
    assert Call(pool, target_of(), rows((needle, 1.0))).values() == [2.0]
    (first,) = workers()
    assert needle.encode() in memory_of(first)
    assert Call(pool, target_of("2"), rows(("", 1.0))).values() == [2.0]
    (second,) = set(workers()) - {first}
    for process in (second, *spares()):
        assert needle.encode() not in memory_of(process)
    folders = {Path(f"/proc/{pid}/cwd").readlink() for pid in (first, second, *spares())}
    assert len(folders) == 3
    assert all(folder.stat().st_mode & 0o077 == 0 for folder in folders)


def test_an_environment_of_its_own_has_a_spare_while_it_is_in_use(
    open_pool: Callable[..., ProcessPool], logged: list[EventDict]
) -> None:
    """Two versions in one environment share its imports; with the last of them its spare ends."""
    pool = open_pool(python=Path(sys.executable))
    assert Call(pool, target_of(), rows(("", 1.0))).values() == [2.0]
    assert Call(pool, target_of("2"), rows(("", 1.0))).values() == [2.0]
    assert len(spares()) == 1
    assert max(import_seconds(logged)) < 0.5
    pool.retain([target_of("2")])
    until(lambda: len(workers()) == 1)
    assert len(spares()) == 1
    pool.retain([])
    until(lambda: spares() == [])


def test_spares_that_were_dropped_come_back_with_room() -> None:
    """Where memory is free for twice of what they held, there is a spare again; before that there is none."""
    assert can_fork()
    THERE.update(named("prinz-spare"))
    spare = Spares(lambda folder, code: worker_variables(os.environ, folder, (), code=code))
    try:
        spare.expect([])
        until(lambda: spare.memory() > 1 << 20)
        held = spare.memory()
        assert spare.drop()
        assert not spare.drop()
        assert spare.acquire(target_of(), None, None) is None
        spare.restore(held)
        assert spares() == []
        spare.restore(1 << 60)
        until(lambda: len(spares()) == 1)
        assert spare.acquire(target_of(), None, None) is not None
    finally:
        spare.close()
    assert spares() == []
