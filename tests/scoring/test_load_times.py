"""When a caller whose model is being loaded is told to come again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prinz_enricher.errors import ModelLoading
from prinz_enricher.provision.progress import report_step
from prinz_enricher.scoring.cost import UNKNOWN_LOAD_SECONDS, LoadTimes
from prinz_enricher.scoring.ports import Loaded, WorkerState
from prinz_enricher.scoring.runtime.version_pool import VersionPool
from tests.scoring.hand_worker import HandWorker, closing
from tests.scoring.scripted import FAST, PATIENCE, Call, rows, target_of, until

SKLEARN, TORCH = replace(target_of(), loader="mlflow.sklearn"), replace(target_of(), loader="mlflow.pytorch")


def test_the_last_loads_of_the_kind_count() -> None:
    """Before there is one, those of any kind; before that, a guess; one that took long by chance moves nothing."""
    times = LoadTimes()
    assert times.estimate(SKLEARN) == UNKNOWN_LOAD_SECONDS
    for seconds in (20.0, 600.0, 30.0):
        times.add(TORCH, seconds)
    assert times.estimate(TORCH) == times.estimate(SKLEARN) == 30.0
    for seconds in (0.9, 2.0, 1.0):
        times.add(SKLEARN, seconds)
    assert times.estimate(SKLEARN) == 1.0
    assert times.estimate(TORCH) == 30.0
    for _ in range(5):
        times.add(TORCH, 8.0)
    assert times.estimate(TORCH) == 8.0


def test_an_environment_of_its_own_is_another_kind() -> None:
    """Where its owner says what it runs in."""
    times = LoadTimes()
    times.add(replace(SKLEARN, environment="isolated"), 9.0)
    times.add(replace(SKLEARN, environment="current"), 1.0)
    assert times.estimate(replace(SKLEARN, environment="isolated")) == 9.0
    assert times.estimate(replace(SKLEARN, environment="current")) == 1.0


def test_what_is_remembered_has_a_bound() -> None:
    """However many loaders there are."""
    times = LoadTimes()
    for number in range(1000):
        times.add(replace(SKLEARN, loader=f"own.{number}"), float(number))
    assert len(times._kinds) <= 64
    assert times.estimate(replace(SKLEARN, loader="own.999")) == 999.0


class Slow(HandWorker):
    """Says that an environment took long, or waits to be killed."""

    def __init__(self, seconds: float | None) -> None:
        super().__init__()
        self.seconds = seconds

    def start(self) -> Loaded:
        """Load at once, or never."""
        if self.seconds is None:
            report_step("loading the model")
            until(lambda: self._dead)
        return replace(super().start(), seconds={"environment": self.seconds or 0.0, "load": 0.0})


@pytest.mark.parametrize(("known", "told"), [(None, UNKNOWN_LOAD_SECONDS), (42.0, 42.0), (0.2, 1.0)])
def test_a_caller_is_told_what_such_a_load_took(known: float | None, told: float) -> None:
    """Less what has passed already, and never less than a second."""
    with closing(VersionPool(lambda _: Slow(None), FAST)) as pool:
        if known is not None:
            pool._load_times.add(SKLEARN, known)
        outcome = Call(pool, SKLEARN, rows(("", 1.0)), within=0.1).outcome()
        assert isinstance(outcome, ModelLoading)
        assert outcome.retry_after is not None
        assert max(1.0, told - PATIENCE) <= outcome.retry_after <= told
        assert told == 1.0 or outcome.retry_after < told


def test_an_environment_that_was_built_does_not_make_other_loads_look_slow() -> None:
    """It is built once for many loads: what it took is not counted."""
    with closing(VersionPool(lambda _: Slow(1000.0), FAST)) as pool:
        pool.load(SKLEARN)
        until(lambda: pool.status(SKLEARN).state is WorkerState.AVAILABLE)
        assert pool._load_times.estimate(SKLEARN) == 0.0
