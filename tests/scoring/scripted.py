"""A model that does what its rows say, and calls of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

import pyarrow as pa

from prinz_enricher.errors import EnricherError
from prinz_enricher.scoring.pool_settings import PoolSettings
from prinz_enricher.scoring.ports import Job, ScoreResult, Target, WorkerDied, WorkerPool
from prinz_enricher.signature import Field, Param, Scalar, ScalarKind, Signature, input_schema, output_schema

PATIENCE = 60.0
"""Seconds after which what should have come counts as lost."""

SIGNATURE = Signature(
    inputs=(Field("do", Scalar(ScalarKind.STRING)), Field("value", Scalar(ScalarKind.DOUBLE))),
    outputs=(Field("output_0", Scalar(ScalarKind.DOUBLE)),),
    params=(Param("factor", Scalar(ScalarKind.DOUBLE), 2.0),),
)

FAST = PoolSettings(
    max_workers=2, max_queue_rows=100, hang_grace=0.2, backoff_initial=0.05, backoff_max=0.2, crash_limit=5
)

MODEL = """
import os, sys, time
import mlflow.models
from mlflow.pyfunc import PythonModel


class Scripted(PythonModel):
    def predict(self, context, model_input, params=None):
        for do, value in zip(model_input["do"], model_input["value"]):
            if do == "raise":
                raise ValueError(f"the caller's {value}")
            if do == "leave":
                sys.exit(7)
            if do == "exit":
                os._exit(int(value))
            if do == "sleep":
                time.sleep(value)
            if do == "print":
                print("a line of the model", flush=True)
                os.write(1, b"a raw line of the model\\n")
            if do == "fork":
                if os.fork() == 0:
                    time.sleep(value)
                    os._exit(0)
                os._exit(4)
            if do == "few":
                return [1.0]
        return (model_input["value"] * params["factor"]).to_numpy()


mlflow.models.set_model(Scripted())
"""


SAVE = """
import pathlib, sys
import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

mlflow.pyfunc.save_model(
    sys.argv[1],
    python_model=sys.argv[2],
    signature=ModelSignature(
        Schema([ColSpec("string", "do"), ColSpec("double", "value")]),
        Schema([ColSpec("double")]),
        ParamSchema([ParamSpec("factor", "double", 2.0)]),
    ),
    pip_requirements=["mlflow"],
)
"""


def scripted(batch: pa.RecordBatch, params: Mapping[str, object]) -> pa.RecordBatch:
    """Do what the model does, as far as a function can."""
    values = batch.column(1).to_numpy()
    for do, value in zip(batch.column(0).to_pylist(), values, strict=True):
        if do == "raise":
            raise ValueError
        if do == "exit":
            message = f"exit code {int(value)}"
            raise WorkerDied(message)
        if do == "sleep":
            threading.Event().wait(value)
    return pa.RecordBatch.from_arrays([pa.array(values * params["factor"])], schema=output_schema(SIGNATURE))


def rows(*pairs: tuple[str | None, float]) -> pa.RecordBatch:
    """Make a batch of what to do."""
    dos, values = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return pa.RecordBatch.from_arrays(
        [pa.array(dos, pa.utf8()), pa.array(values, pa.float64())], schema=input_schema(SIGNATURE)
    )


class Call:
    """A job that was submitted; all are `lone` while a test of the fixture `lone` says so."""

    lone = False

    def __init__(
        self,
        pool: WorkerPool,
        target: Target,
        batch: pa.RecordBatch,
        *,
        within: float | None = PATIENCE,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self.outcomes: list[ScoreResult | EnricherError] = []
        self.answered_at = 0.0
        self._answered = threading.Event()
        self.began = time.monotonic()
        deadline = None if within is None else self.began + within
        pool.submit(Job(target, batch, {"factor": 2.0}, deadline, self._done, cancelled, lone=self.lone))

    def _done(self, outcome: ScoreResult | EnricherError) -> None:
        self.answered_at = time.monotonic()
        self.outcomes.append(outcome)
        self._answered.set()

    @property
    def answered(self) -> bool:
        """Whether there is an answer."""
        return self._answered.is_set()

    def outcome(self) -> ScoreResult | EnricherError:
        """Wait for the answer."""
        assert self._answered.wait(PATIENCE), "no answer came"
        return self.outcomes[0]

    def values(self) -> list[float]:
        """Wait for scores."""
        outcome = self.outcome()
        assert isinstance(outcome, ScoreResult), outcome
        return list(outcome.batch.column(0).to_pylist())

    def reason(self) -> str:
        """Wait for an error and give its reason."""
        outcome = self.outcome()
        assert isinstance(outcome, EnricherError), outcome
        return outcome.reason


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    end = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        pause.wait(0.005)


def target_of(name: str = "scripted", version: str = "1") -> Target:
    """Make a target with the signature of the scripted model."""
    return Target(name, version, "http://registry", SIGNATURE)
