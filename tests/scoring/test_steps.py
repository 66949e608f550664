"""What a pool says of a version while it is being loaded."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

from prinz_enricher.errors import ModelLoading
from prinz_enricher.provision.progress import report_step
from prinz_enricher.scoring.launch.process_pool import ProcessPool
from prinz_enricher.scoring.ports import Loaded, Provisions, WorkerState
from prinz_enricher.scoring.runtime.version_pool import VersionPool
from tests.scoring.hand_worker import QUICK, HandWorker, closing
from tests.scoring.scripted import FAST, PATIENCE, Call, rows, target_of, until


class Stepwise(HandWorker):
    """Loads step by step, as a test allows."""

    def __init__(self, *steps: str) -> None:
        super().__init__()
        self.steps = steps
        self.told: list[str] = []
        self.go = threading.Semaphore(0)

    def start(self) -> Loaded:
        """Tell each step, and wait until the test lets it end."""
        for step in self.steps:
            report_step(step)
            self.told.append(step)
            assert self.go.acquire(timeout=PATIENCE)
        return super().start()


def test_each_step_is_the_message_of_the_state_and_a_change() -> None:
    """A watcher is told of each, a caller whose time is up as well, and nothing of it is left once it is loaded."""
    worker = Stepwise("downloading the model", "building its environment")
    changes: list[None] = []
    with closing(VersionPool(lambda _: worker, FAST, lambda: changes.append(None))) as pool:
        pool.load(target_of())
        for step in worker.steps:
            until(lambda step=step: pool.status(target_of()).message == step)  # type: ignore[misc]
            assert pool.status(target_of()).state is WorkerState.LOADING
            outcome = Call(pool, target_of(), rows(("", 1.0)), within=0.1).outcome()
            assert isinstance(outcome, ModelLoading)
            assert outcome.metadata["step"] == step
            assert f"is still being loaded ({step})" in outcome.message
            seen = len(changes)
            worker.go.release()
            until(lambda seen=seen: len(changes) > seen)  # type: ignore[misc]
        until(lambda: pool.status(target_of()).state is WorkerState.AVAILABLE)
        assert pool.status(target_of()).message == ""


def test_steps_of_one_more_worker_are_nobodys_business() -> None:
    """While a worker can score, what another one does to become ready does not change the state."""
    workers = [Stepwise(), Stepwise("loading the model", "loading it still")]
    made = iter(workers)
    with closing(VersionPool(lambda _: next(made), QUICK)) as pool:
        pool.load(replace(target_of(), replicas=2))
        until(lambda: pool.status(target_of()).state is WorkerState.AVAILABLE)
        workers[1].go.release()
        until(lambda: workers[1].told == [*workers[1].steps])
        assert pool.status(target_of()) == replace(pool.status(target_of()), state=WorkerState.AVAILABLE, message="")
        workers[1].go.release()


def test_a_worker_process_tells_what_it_does(model_folder: Path) -> None:
    """What its provisions tell is told, and that it loads, for as long as its process takes."""
    told: list[str] = []

    def provide(_target: object, _cancelled: object) -> Provisions:
        report_step("downloading the model")
        told.append(pool.status(target_of()).message)
        return Provisions(model_folder)

    pool = ProcessPool(provide, FAST)
    try:
        pool.load(target_of())
        until(lambda: pool.status(target_of()).message == "loading the model")
        assert told == ["downloading the model"]
    finally:
        pool.close(PATIENCE)
