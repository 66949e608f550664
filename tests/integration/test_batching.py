"""Calls of many callers that share model calls: each gets its own answer, and only the guilty one its error."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from prinz_enricher.client import Client, ServiceError
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from tests.support.deadline import wait_until
from tests.support.running_service import LONG, Service
from tests.support.script import run_script

CALLERS = 64
ROUNDS = 5

REGISTER = """
import sys
import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

mlflow.set_tracking_uri(sys.argv[1])

class Own(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        if (model_input["x"] == 13).any():
            raise ValueError("thirteen")
        return model_input["x"] * 2

class FirstRow(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [float(model_input["x"].iloc[0])] * len(model_input)

class Mean(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input["x"] - model_input["x"].mean()

signature = ModelSignature(Schema([ColSpec("double", "x")]), Schema([ColSpec("double", "y")]))
client = mlflow.MlflowClient()
for name, model in (("batch-own", Own()), ("batch-first", FirstRow()), ("batch-mean", Mean()), ("batch-off", Own())):
    mlflow.pyfunc.log_model(
        name=name, python_model=model, signature=signature, registered_model_name=name, pip_requirements=["mlflow"]
    )
client.set_registered_model_tag("batch-off", "prinz.batching", "off")
"""


@pytest.fixture(scope="module")
def models(service: Service) -> Client:
    """A client of the service, once it knows the models."""
    run_script(REGISTER, service.registry)
    client = Client(service.address, timeout=LONG)
    wait_until(lambda: len(list(client.list_models('name LIKE "batch-%"'))) == 4)
    return client


def batching(client: Client, name: str) -> int:
    """Return what the list says of a model's batching, once it is loaded."""
    assert client.score(name, [{"x": 1.0}]).to_rows()
    (model,) = client.list_models(f'name = "{name}"')
    return int(model.versions[0].batching)


def all_at_once(question: Callable[[int], Any]) -> list[Any]:
    """Ask from many threads that begin together, several times; give the answers in order."""
    together = threading.Barrier(CALLERS)

    def ask(caller: int) -> list[Any]:
        answers = []
        for turn in range(ROUNDS):
            together.wait()
            answers.append(question(caller * ROUNDS + turn))
        return answers

    with ThreadPoolExecutor(CALLERS) as threads:
        return [answer for answers in threads.map(ask, range(CALLERS)) for answer in answers]


def test_what_is_shared_is_told(models: Client) -> None:
    """Models that give each row its own answer are BATCHING_ON, others are found at load, and a tag can say off."""
    found = {name: batching(models, name) for name in ("batch-own", "batch-first", "batch-mean", "batch-off")}
    on, off = model_pb2.ModelVersion.BATCHING_ON, model_pb2.ModelVersion.BATCHING_OFF
    assert found == {"batch-own": on, "batch-first": off, "batch-mean": off, "batch-off": off}


TWICE, ITSELF, NOTHING = (lambda x: 2 * x), (lambda x: x), (lambda _: 0.0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("batch-own", TWICE), ("batch-first", ITSELF), ("batch-mean", NOTHING), ("batch-off", TWICE)],
)
def test_everyone_gets_the_answer_to_his_own_row(models: Client, name: str, expected: Callable[[float], float]) -> None:
    """Answers among many callers are those of one caller alone, for models of each kind."""
    answers = all_at_once(lambda n: models.score(name, [{"x": 100.0 + n}]).to_rows())
    assert answers == [[{"y": expected(100.0 + number)}] for number in range(CALLERS * ROUNDS)]


@pytest.mark.usefixtures("models")
def test_calls_do_share(service: Service) -> None:
    """Calls that wait for the same worker go together, as their timing tells."""
    stub = service.stub()

    def ask(number: int) -> int:
        request = pb.ScoreRequest(model=model_pb2.ModelRef(name="batch-own"))
        request.columns.num_rows = 1
        request.columns.columns.add(name="x").doubles.values.append(float(number) + 100)
        return int(stub.Score(request, timeout=LONG).timing.batch_rows)

    assert max(all_at_once(ask)) > 1


def test_one_bad_row_fails_alone(models: Client) -> None:
    """Of many callers at once only the one whose row makes the model raise gets an error."""

    def ask(number: int) -> object:
        value = 13.0 if number % (CALLERS * ROUNDS) == 77 else 100.0 + number
        try:
            return models.score("batch-own", [{"x": value}]).to_rows()
        except ServiceError as error:
            return error.reason

    answers = all_at_once(ask)

    assert [number for number, answer in enumerate(answers) if answer == "MODEL_ERROR"] == [77]
    assert all(answer == [{"y": 2 * (100.0 + n)}] for n, answer in enumerate(answers) if n != 77)
