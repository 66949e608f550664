"""What is seen of a model behind a server when it is found, and on the first request of several rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from prinz_enricher.errors import ModelError, OutputMismatch
from prinz_enricher.scoring.pool_settings import PoolSettings
from prinz_enricher.scoring.ports import LoadFailed, ModelCall, OutputsObserved, ServerAway, Target
from prinz_enricher.scoring.remote.remote_pool import EndpointContext, RemoteWorker
from prinz_enricher.signature import Field, Scalar, ScalarKind, Signature, input_schema
from tests.scoring.remote.conftest import Open
from tests.support.model_server import ModelServer, Reply, Request

DOUBLE, LONG, STRING = Scalar(ScalarKind.DOUBLE), Scalar(ScalarKind.LONG), Scalar(ScalarKind.STRING)
NUMBERS = Signature((Field("x", DOUBLE),), (Field("y", DOUBLE),))
TEXTS = Signature((Field("x", STRING),), (Field("y", DOUBLE),))
KNOWN = {"cat": 1.0, "dog": 2.0}

Predict = Callable[[list[object]], object]
Start = Callable[..., RemoteWorker]

RAISED = {
    "error_code": "BAD_REQUEST",
    "message": "Encountered an unexpected error while evaluating the model.",
    "stack_trace": "Traceback (most recent call last):\nKeyError: 'ab'\n",
}


@pytest.fixture
def start(model_server: ModelServer, open_client: Open) -> Iterator[Start]:
    """Has a worker find a model at a server that predicts by a function of the values of its column."""
    with ThreadPoolExecutor(2) as parts:

        def start_one(predict: Predict, signature: Signature, *, observe: bool = False, fails: int = 0) -> RemoteWorker:
            def respond(request: Request) -> Reply:
                if len(model_server.requests) == fails:
                    return Reply(b"", 503)
                sent = json.loads(request.body)
                values = (
                    sent["inputs"]["x"] if "inputs" in sent else [row[0] for row in sent["dataframe_split"]["data"]]
                )
                try:
                    return Reply(json.dumps({"predictions": predict(values)}).encode())
                except KeyError:
                    return Reply(json.dumps(RAISED).encode(), 400)

            model_server.respond = respond
            target = Target("m", "1", "r", signature, observe=observe)
            client = open_client(model_server, max_retries=0, convention=("/invocations",))
            context = EndpointContext("farm", client, parts, PoolSettings())
            worker = RemoteWorker(target, context)
            worker.start()
            return worker

        yield start_one


def score(worker: RemoteWorker, signature: Signature, values: list[object]) -> list[object]:
    """Score rows of one column."""
    batch = pa.RecordBatch.from_arrays([pa.array(values)], schema=input_schema(signature))
    return list(worker.score(ModelCall(batch, {}, "c", time.monotonic() + 20)).column(0).to_pylist())


@pytest.mark.parametrize(
    ("predict", "why"),
    [
        (sorted, "the answers of other rows"),
        (lambda values: [f"{one}" for one in values], "has a value that is text, where double is declared"),
        (lambda values: [*values, 1.0], "rows came back in"),
    ],
    ids=["sorted", "text", "one more row"],
)
def test_a_model_whose_answers_would_be_wrong_is_refused(start: Start, predict: Predict, why: str) -> None:
    """As one in a worker of our own."""
    with pytest.raises(LoadFailed, match=why):
        start(predict, NUMBERS)


@pytest.mark.parametrize("fails", range(4, 10))
def test_a_server_that_goes_away_meanwhile_is_asked_again_later(start: Start, fails: int) -> None:
    """Whatever was seen until then: nothing is served that was not shown."""
    with pytest.raises(ServerAway, match="farm"):
        start(list, NUMBERS, fails=fails)
    with pytest.raises(LoadFailed):
        start(sorted, NUMBERS, fails=2 * fails)


def test_outputs_are_observed_where_they_may_be(start: Start) -> None:
    """A number for a text; of an object of lists it does not show whether it is one row."""
    wrong = Signature(NUMBERS.inputs, (Field("y", STRING),))
    with pytest.raises(OutputsObserved) as caught:
        start(lambda values: [{"half": one} for one in values], wrong, observe=True)
    assert json.loads(caught.value.outputs) == [{"type": "double", "name": "half", "required": True}]
    with pytest.raises(LoadFailed) as refused:
        start(lambda values: {"half": values}, wrong, observe=True)
    assert not isinstance(refused.value, OutputsObserved)


@pytest.mark.parametrize(
    ("predict", "requests"),
    [
        (lambda values: sorted(KNOWN[str(one)] for one in values), 2),
        (lambda values: [KNOWN[str(values[0])]] * len(values), 2),
        (lambda values: [KNOWN[str(one)] for one in values], 1),
    ],
    ids=["sorted", "first row for all", "each its own"],
)
def test_the_first_request_of_several_rows_shows_what_no_sample_did(
    start: Start, model_server: ModelServer, predict: Predict, requests: int
) -> None:
    """The model raises on rows that were made up; from the second request on it is known how to ask."""
    worker = start(predict, TEXTS)
    assert score(worker, TEXTS, ["dog", "cat"]) == [2.0, 1.0]
    before = len(model_server.requests)
    assert score(worker, TEXTS, ["dog", "cat"]) == [2.0, 1.0]
    assert len(model_server.requests) - before == requests
    with pytest.raises(ModelError):
        score(worker, TEXTS, ["dog", "fox"])


def test_an_answer_of_another_size_is_a_mismatch(start: Start) -> None:
    """Also where it came to light late."""
    worker = start(lambda values: [one for one in values if one != 7.0], NUMBERS)
    with pytest.raises(OutputMismatch):
        score(worker, NUMBERS, [7.0, 1.0])
