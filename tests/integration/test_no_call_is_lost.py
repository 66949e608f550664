"""While callers score without pause, workers are killed and an alias moves: nobody notices."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from prinz_enricher.client import Client
from tests.support.deadline import wait_until
from tests.support.own_service import own_service, register
from tests.support.registry_writer import RegistryWriter
from tests.support.running_service import LONG, Service
from tests.support.worker_processes import workers_of

pytestmark = pytest.mark.slow

CALLERS = 64
TIMES = 20

REGISTER = """
import sys
import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

mlflow.set_tracking_uri(sys.argv[1])


class Times(mlflow.pyfunc.PythonModel):
    def __init__(self, factor):
        self.factor = factor

    def predict(self, context, model_input, params=None):
        return model_input["x"] * self.factor


signature = ModelSignature(Schema([ColSpec("double", "x")]), Schema([ColSpec("double", "y")]))
for factor in (2.0, 3.0, 5.0):
    mlflow.pyfunc.log_model(
        name="times", python_model=Times(factor), signature=signature, registered_model_name="steady",
        pip_requirements=["mlflow"],
    )
mlflow.MlflowClient().set_registered_model_alias("steady", "live", "1")
"""
FACTORS = {"1": 2.0, "2": 3.0}


@pytest.fixture(scope="module")
def strangers() -> set[int]:
    """The workers of other services in this process, which are none of these tests' business."""
    return set(workers_of())


@pytest.fixture(scope="module")
def steady(
    scratch_registry: RegistryWriter,
    tmp_path_factory: pytest.TempPathFactory,
    strangers: set[int],  # noqa: ARG001 - they are counted before there are others
) -> Iterator[Service]:
    """A service whose model `steady` has two workers of each version."""
    register(scratch_registry.url, REGISTER, tmp_path_factory.mktemp("steady"))
    with own_service(
        scratch_registry.url,
        registry={"include": ["steady"]},
        scoring={"replicas": 2, "max_workers": 6},
    ) as service:
        with Client(service.address, timeout=LONG) as client:
            assert client.score("steady@live", [{"x": 1.0}]).to_rows() == [{"y": 2.0}]
        yield service


class Callers:
    """Threads that score without pause, and what came of it."""

    def __init__(self, address: str, callers: int = CALLERS) -> None:
        self._callers = callers
        self.answers: Counter[str] = Counter()
        self.faults: list[str] = []
        self._stop = threading.Event()
        self._address = address

    def call(self, caller: int) -> None:
        """Score one row after the other until told to stop."""
        chance = random.Random(caller)  # noqa: S311 - no secret
        with Client(self._address, timeout=LONG) as client:
            while not self._stop.is_set():
                x = chance.uniform(-1e6, 1e6)
                try:
                    scores = client.score("steady@live", [{"x": x}])
                except Exception as error:  # noqa: BLE001 - any is what must not be
                    self.faults.append(f"{type(error).__name__}: {error}")
                    return
                if scores.to_rows() != [{"y": x * FACTORS.get(scores.version, 0.0)}]:
                    self.faults.append(f"version {scores.version} gave {scores.to_rows()} for {x}")
                    return
                self.answers[scores.version] += 1

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Have them score while the test does something."""
        with ThreadPoolExecutor(self._callers) as threads:
            calls = [threads.submit(self.call, caller) for caller in range(self._callers)]
            try:
                yield
            finally:
                self._stop.set()
            for call in calls:
                call.result()

    def see_moves(self, registry: RegistryWriter, times: int) -> None:
        """Move the alias between two versions, each time once there are answers of the one before."""
        with self.calling():
            self.more("1")
            for move in range(times):
                number = "2" if move % 2 == 0 else "1"
                registry.set_alias("steady", "live", number)
                self.more(number)
        assert self.faults == []
        assert set(self.answers) == {"1", "2"}

    def more(self, version: str | None = None) -> None:
        """Wait for more answers, of a version if one is given."""
        before = self._count(version)
        # A version that is loaded on the way shares the cores with all of them.
        wait_until(lambda: bool(self.faults) or self._count(version) > before + self._callers, 90)

    def _count(self, version: str | None) -> int:
        return self.answers[version] if version is not None else self.answers.total()


@pytest.mark.timeout(400)
def test_workers_are_killed(steady: Service, strangers: set[int]) -> None:
    """Twenty times a worker is killed in the middle of its work: no call fails, and every answer is exact."""
    callers = Callers(steady.address)
    chance = random.Random(0)  # noqa: S311 - no secret
    killed: set[int] = set()
    with callers.calling():
        callers.more()
        while len(killed) < TIMES and not callers.faults:
            wait_until(lambda: bool(set(workers_of()) - killed - strangers))
            pid = chance.choice(sorted(set(workers_of()) - killed - strangers))
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
            callers.more()
    assert callers.faults == []
    assert len(killed) == TIMES


@pytest.mark.timeout(400)
def test_an_alias_moves(steady: Service, scratch_registry: RegistryWriter) -> None:
    """Twenty times an alias moves between two versions: no call fails, no answer is of a version that never was it."""
    Callers(steady.address).see_moves(scratch_registry, TIMES)
