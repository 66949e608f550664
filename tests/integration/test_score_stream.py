"""Scorings over a stream of the real service: out of order, with deadlines and errors of their own."""

from __future__ import annotations

import queue
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from prinz_enricher.cli.demo import WINE_COLUMNS
from prinz_enricher.client import Client
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2, value_pb2
from prinz_enricher.fronts.grpc.score_stream import MAX_MESSAGES
from tests.support.front_core import KINDS
from tests.support.own_service import own_service, register
from tests.support.registry_writer import RegistryWriter
from tests.support.running_service import LONG, Service

WINE = "MLF-ElasticnetWineModel-1"
FRAUD = "MLF-FraudDetection-3"

REGISTER = """
import sys
import mlflow
import pandas
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

mlflow.set_tracking_uri(sys.argv[1])
mlflow.pyfunc.log_model(
    name="sleepy", python_model="sleepy.py", registered_model_name="sleepy", pip_requirements=["mlflow"],
    signature=ModelSignature(Schema([ColSpec("double", "seconds")]), Schema([ColSpec("double", "slept")])),
    # Rows that are made up from the signature would have it sleep for half a minute before it is loaded.
    input_example=pandas.DataFrame({"seconds": [0.0, 0.0]}),
)
for name in ("hurried", "awake"):
    mlflow.MlflowClient().copy_model_version("models:/sleepy/1", name)
"""

MODEL = """
import time
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Sleepy(PythonModel):
    def predict(self, context, model_input, params=None):
        for seconds in model_input["seconds"]:
            time.sleep(seconds)
        return model_input["seconds"]


set_model(Sleepy())
"""
NAMES = ("sleepy", "hurried", "awake")


class Caller:
    """A caller of `ScoreStream`, who sends what a test says."""

    def __init__(self, stub: Any) -> None:
        self._sent: queue.SimpleQueue[pb.ScoreStreamRequest | None] = queue.SimpleQueue()
        self.call = stub.ScoreStream(iter(self._sent.get, None), timeout=LONG)

    def send(self, sequence: int, request: pb.ScoreRequest, timeout: float | None = None) -> None:
        """Send a message."""
        message = pb.ScoreStreamRequest(sequence=sequence, request=request)
        if timeout is not None:
            message.timeout.FromNanoseconds(int(timeout * 1e9))
        self._sent.put(message)

    def close(self) -> None:
        """Say that nothing more is sent."""
        self._sent.put(None)

    def receive(self) -> pb.ScoreStreamResponse:
        """Wait for an answer."""
        answer: pb.ScoreStreamResponse = next(self.call)
        return answer


def row(model: str, values: dict[str, float]) -> pb.ScoreRequest:
    """Return a request of one row of doubles."""
    columns = [
        value_pb2.Column(name=name, doubles=value_pb2.DoubleValues(values=[value])) for name, value in values.items()
    ]
    return pb.ScoreRequest(
        model=model_pb2.ModelRef(name=model), columns=value_pb2.ColumnBatch(num_rows=1, columns=columns)
    )


def sleep(model: str, seconds: float) -> pb.ScoreRequest:
    """Return a request to sleep."""
    return row(model, {"seconds": seconds})


def scores(answer: pb.ScoreStreamResponse) -> list[float]:
    """Return the scores of an answer, which has one column of doubles."""
    assert answer.WhichOneof("result") == "response", answer
    (column,) = answer.response.columns.columns
    return list(column.doubles.values)


def reason(status: status_pb2.Status) -> str:
    """Return the reason of an error."""
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return str(info.reason)


def end(stream: Caller) -> tuple[grpc.StatusCode, str]:
    """Expect that a stream has no more answers and ends with an error; gives its code and reason."""
    with pytest.raises(grpc.RpcError) as raised:
        stream.receive()
    error: Any = raised.value
    return error.code(), reason(status_of(error))


def status_of(error: Any) -> status_pb2.Status:
    """Return the status in the trailer of an error."""
    details = next(entry.value for entry in error.trailing_metadata() if entry.key == "grpc-status-details-bin")
    return status_pb2.Status.FromString(details)


@pytest.fixture(scope="module")
def sleepers(scratch_registry: RegistryWriter, tmp_path_factory: pytest.TempPathFactory) -> RegistryWriter:
    """A registry with models that sleep as long as they are told."""
    folder = tmp_path_factory.mktemp("sleepers")
    (folder / "sleepy.py").write_text(MODEL)
    register(scratch_registry.url, REGISTER, folder)
    return scratch_registry


@pytest.fixture(scope="module", params=KINDS)
def slow_service(sleepers: RegistryWriter, request: pytest.FixtureRequest) -> Iterator[Service]:
    """A service of such models, all loaded."""
    with own_service(sleepers.url, registry={"include": NAMES}, server={"front": request.param}) as service:
        _load(service, *NAMES)
        yield service


def _load(service: Service, *names: str) -> None:
    with Client(service.address, timeout=LONG) as client:
        for name in names:
            assert client.score(name, [{"seconds": 0.0}]).to_rows() == [{"slept": 0.0}]


def test_a_slow_model_holds_up_no_other(slow_service: Service) -> None:
    """While one model is at work for long, all messages for another are answered; the slow one's own come after."""
    stream = Caller(slow_service.stub())
    stream.send(0, sleep("sleepy", 600.0))
    quick = range(1, 200)
    for sequence in quick:
        stream.send(sequence, sleep("awake", 0.0))

    answers = [stream.receive() for _ in quick]

    assert {answer.sequence for answer in answers} == set(quick)
    assert all(scores(answer) == [0.0] for answer in answers)
    stream.call.cancel()


def test_each_message_has_its_deadline(slow_service: Service) -> None:
    """A message whose time is up is DEADLINE_EXCEEDED, as the unary call is; others of its stream are scored."""
    stream = Caller(slow_service.stub())
    stream.send(1, sleep("hurried", 600.0), timeout=0.5)
    stream.send(2, sleep("awake", 0.0), timeout=LONG)
    stream.send(3, sleep("awake", 0.0), timeout=0.0)
    stream.send(4, sleep("awake", 0.0), timeout=-0.001)
    stream.close()

    answers = {answer.sequence: answer for answer in stream.call}

    assert sorted(answers) == [1, 2, 3, 4]
    assert reason(answers[1].status) == "DEADLINE_EXCEEDED"
    assert answers[1].status.code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert scores(answers[2]) == [0.0]
    assert reason(answers[3].status) in {"DEADLINE_EXCEEDED", "OVERLOADED"}
    assert reason(answers[4].status) == "INVALID_REQUEST"
    assert stream.call.code() == grpc.StatusCode.OK


def test_a_bad_request_among_good_ones(service: Service) -> None:
    """Each bad request has the error of the unary call, details and all; those around it are scored."""
    stub = service.stub()
    good = row(WINE, dict.fromkeys(WINE_COLUMNS, 0.235))
    bad = {
        "a missing column": row(WINE, dict.fromkeys(WINE_COLUMNS[1:], 0.235)),
        "no such model": row("nosuch", {"x": 1.0}),
        "nothing": pb.ScoreRequest(),
        "no name": pb.ScoreRequest(columns=good.columns),
    }
    stream = Caller(stub)
    for number, request in enumerate(bad.values()):
        stream.send(2 * number, good)
        stream.send(2 * number + 1, request)
    stream.close()

    answers = {answer.sequence: answer for answer in stream.call}

    assert sorted(answers) == list(range(2 * len(bad)))
    expected = [column.doubles.values[:] for column in stub.Score(good, timeout=LONG).columns.columns]
    for number, (name, request) in enumerate(bad.items()):
        assert [scores(answers[2 * number])] == expected
        with pytest.raises(grpc.RpcError) as raised:
            stub.Score(request, timeout=LONG)
        assert answers[2 * number + 1].status == status_of(raised.value), name


def test_a_damaged_request(service_channel: grpc.Channel) -> None:
    """A request that can't be read is INVALID_REQUEST under its sequence; the stream goes on."""
    method: Any = service_channel.stream_stream("/prinz.enricher.v1.EnricherService/ScoreStream")
    damaged = b"\x08\x05\x12\x02\x0a\x7f"
    good = pb.ScoreStreamRequest(sequence=6, request=row(WINE, dict.fromkeys(WINE_COLUMNS, 0.235))).SerializeToString()

    told = [pb.ScoreStreamResponse.FromString(answer) for answer in method(iter([damaged, good]), timeout=LONG)]

    answers = {answer.sequence: answer for answer in told}
    assert reason(answers[5].status) == "INVALID_REQUEST"
    assert len(scores(answers[6])) == 1


def test_all_is_sent_before_anything_is_read(service: Service) -> None:
    """Several times what a stream holds, sent in one go and read afterwards: every row has its own score."""
    stub = service.stub()
    chance = random.Random(0)  # noqa: S311 - no secret
    rows = [{name: chance.uniform(0.0, 10.0) for name in WINE_COLUMNS} for _ in range(3 * MAX_MESSAGES)]
    together = pb.ScoreRequest(
        model=model_pb2.ModelRef(name=WINE),
        columns=value_pb2.ColumnBatch(
            num_rows=len(rows),
            columns=[
                value_pb2.Column(name=name, doubles=value_pb2.DoubleValues(values=[one[name] for one in rows]))
                for name in WINE_COLUMNS
            ],
        ),
    )
    expected = stub.Score(together, timeout=LONG).columns.columns[0].doubles.values
    stream = Caller(stub)
    for sequence, values in enumerate(rows):
        stream.send(sequence, row(WINE, values))
    stream.close()

    answers = {answer.sequence: scores(answer)[0] for answer in stream.call}

    assert sorted(answers) == list(range(len(rows)))
    assert [answers[sequence] for sequence in range(len(rows))] == pytest.approx(list(expected), rel=1e-12)
    assert stream.call.code() == grpc.StatusCode.OK


def test_many_streams_over_several_models(service: Service) -> None:
    """Streams side by side, each for two models, get the scores that unary calls get."""
    stub = service.stub()
    wine = row(WINE, dict.fromkeys(WINE_COLUMNS, 0.235))
    fraud = pb.ScoreRequest(
        model=model_pb2.ModelRef(name=FRAUD),
        columns=value_pb2.ColumnBatch(
            num_rows=1,
            columns=[
                value_pb2.Column(name="age", strings=value_pb2.StringValues(values=["4"])),
                value_pb2.Column(name="gender", strings=value_pb2.StringValues(values=["F"])),
                value_pb2.Column(name="category", strings=value_pb2.StringValues(values=["es_transportation"])),
                value_pb2.Column(name="amount", doubles=value_pb2.DoubleValues(values=[800.0])),
            ],
        ),
    )
    expected = [stub.Score(request, timeout=LONG).columns for request in (wine, fraud)]

    def exchange(_: int) -> bool:
        stream = Caller(stub)
        for sequence in range(100):
            stream.send(sequence, (wine, fraud)[sequence % 2])
        stream.close()
        answers = {answer.sequence: answer.response.columns for answer in stream.call}
        return answers == {sequence: expected[sequence % 2] for sequence in range(100)}

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(exchange, range(4)))


def test_the_example_of_the_page(service: Service) -> None:
    """The program of docs/streaming.md prints five scores and an error."""
    page = (Path(__file__).parents[2] / "docs" / "streaming.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)

    done = subprocess.run(
        [sys.executable, "-c", program.replace("localhost:50051", service.address)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.splitlines())
    assert [line.split()[0] for line in lines] == ["0", "1", "2", "3", "4", "5"]
    assert all(float(line.split()[1]) for line in lines[:5])
    assert "no-such-model" in lines[5]


@pytest.fixture(params=KINDS)
def stoppable(sleepers: RegistryWriter, request: pytest.FixtureRequest) -> Iterator[tuple[Service, Callable[[], None]]]:
    """A service of such models, all loaded, and what stops it."""
    settings = {"front": request.param, "grace_period": LONG}
    with ExitStack() as stack:
        include = ("sleepy", "awake")
        service = stack.enter_context(own_service(sleepers.url, registry={"include": include}, server=settings))
        _load(service, *include)
        yield service, stack.close


def test_shutting_down(stoppable: tuple[Service, Callable[[], None]]) -> None:
    """Messages in flight are answered within the grace period, new ones are SHUTTING_DOWN, then the stream ends so."""
    service, stop = stoppable
    stream = Caller(service.stub())
    stream.send(1, sleep("sleepy", 5.0))
    stream.send(2, sleep("awake", 0.0))
    assert stream.receive().sequence == 2
    with ThreadPoolExecutor(1) as threads:
        stopped = threads.submit(stop)
        sequence, answer = 2, pb.ScoreStreamResponse()
        while answer.WhichOneof("result") != "status":
            # Until the service has noticed.
            sequence += 1
            stream.send(sequence, sleep("awake", 0.0))
            answer = stream.receive()
            assert answer.sequence == sequence
        assert reason(answer.status) == "SHUTTING_DOWN"

        answer = stream.receive()

        assert (answer.sequence, scores(answer)) == (1, [5.0])
        assert end(stream) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        stopped.result(LONG)
