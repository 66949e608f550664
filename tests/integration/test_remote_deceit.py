"""What is no honest answer of a model server is told by what was seen, in time, and never taken for scores."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow.parquet
import pytest

from prinz_enricher.cli.demo import WINE_COLUMNS
from prinz_enricher.client import Client, ServiceError
from tests.support.model_server import HTML, JSON, ModelServer, Reply, Request, Script
from tests.support.own_service import own_service

pytestmark = pytest.mark.slow

WINE = "MLF-ElasticnetWineModel-1"
SECRET = "hunter2"  # noqa: S105 - made up
DATUM = 0.123456789
SECONDS = 8.0
MAX_ROWS = 40
ROWS: list[dict[str, object]] = [dict.fromkeys(WINE_COLUMNS, DATUM) for _ in range(5)]
PAGE = f"<html>{DATUM} {SECRET}</html>".encode()

Answer = Callable[[Request], Reply | Script]


def predictions(values: object) -> Reply:
    """Return an answer with these predictions."""
    return Reply(json.dumps({"predictions": values}).encode())


def rows_in(request: Request) -> int:
    """Count the rows that a request has."""
    if request.headers["content-type"] != "application/json":
        return int(pyarrow.parquet.read_table(io.BytesIO(request.body)).num_rows)
    body = json.loads(request.body)
    return len(body["inputs"][WINE_COLUMNS[0]] if "inputs" in body else body["dataframe_split"]["data"])


def honest(request: Request) -> Reply:
    """Give each row the same score."""
    return predictions([1.0] * rows_in(request))


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    """A model server that lies when a test tells it to."""
    with ModelServer() as server:
        server.respond = honest
        yield server


@pytest.fixture
def elsewhere() -> Iterator[ModelServer]:
    """Where a redirect leads."""
    with ModelServer() as server:
        yield server


@pytest.fixture(scope="module")
def client(sample_registry: Any, server: ModelServer) -> Iterator[Client]:
    """A client of a service that has found its model at that server."""
    endpoint = {
        "urls": [server.url], "convention": ["mlflow"], "models": ["*"], "timeout": 1.0, "max_retries": 2,
        "breaker_failures": 1000, "max_rows": MAX_ROWS, "username": "prinz", "password": SECRET,
        "headers": {"X-Key": SECRET},
    }  # fmt: skip
    with (
        own_service(sample_registry.url, registry={"include": [WINE]}, endpoints={"liar": endpoint}) as service,
        # What the service says, and at once: tried again, a call may meet an honest answer.
        Client(service.address, timeout=SECONDS, retry=False) as client,
    ):
        assert client.score(WINE, ROWS).to_rows() == [{"output_0": 1.0}] * 5
        yield client


@pytest.fixture(autouse=True)
def _honest_again(server: ModelServer, client: Client) -> Iterator[None]:
    """After each test, the server is honest and asked again."""
    yield
    server.respond = honest
    assert client.score(WINE, ROWS).batch.num_rows == 5


def refusal(client: Client, rows: list[dict[str, object]] = ROWS) -> ServiceError:
    """Score, expect an error in time, and see that it tells nothing that it may not."""
    began = time.monotonic()
    with pytest.raises(ServiceError) as raised:
        client.score(WINE, rows)
    assert time.monotonic() - began < SECONDS - 0.5
    told = f"{raised.value.message} {raised.value.metadata} {raised.value.violations}"
    assert SECRET not in told
    assert str(DATUM) not in told
    return raised.value


def _drip(server: ModelServer) -> Answer:
    return lambda _: server.drip(Reply(b"[" * 100_000).head + b"[" * 100_000)


_LIES: dict[str, tuple[Callable[[ModelServer], Answer], str]] = {
    "a web page": (lambda _: lambda _: Reply(PAGE, headers=HTML), "HTTP 200, text/html, .* not JSON"),
    "a long answer": (lambda _: lambda _: Reply(b" " * (100 << 20)), "longer than 67108864 bytes"),
    "drips": (_drip, "gave no whole answer within"),
    "a compressed answer": (
        lambda _: lambda _: Reply(headers={**JSON, "Content-Encoding": "gzip"}),
        "it is compressed, though that was not asked for",
    ),
    "other JSON": (lambda _: lambda _: Reply(json.dumps([SECRET, DATUM]).encode()), "has no predictions"),
    "half of an answer": (
        lambda _: lambda _: Reply(b'{"predictions": [1.0, 1.0', declared_length=100, close=True),
        "ended before the whole answer",
    ),
    "cut JSON": (lambda _: lambda _: Reply(b'{"predictions": [1.0, 1.0'), "The answer is not JSON"),
    "a refusal in HTML": (lambda _: lambda _: Reply(PAGE, 404, HTML), "HTTP 404, text/html"),
    "an error of the server": (lambda _: lambda _: Reply(PAGE, 500, HTML), "HTTP 500, text/html"),
}


@pytest.mark.parametrize("lie", _LIES)
def test_no_answer(server: ModelServer, client: Client, lie: str) -> None:
    """What is none of a model server's answers is UPSTREAM_UNAVAILABLE, and told by status, type and size."""
    made, said = _LIES[lie]
    server.respond = made(server)
    error = refusal(client)
    assert error.reason == "UPSTREAM_UNAVAILABLE"
    assert error.retry_after is not None
    assert re.search(said, error.message), error.message


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect(server: ModelServer, elsewhere: ModelServer, client: Client, status: int) -> None:
    """A redirect is told, and not followed: neither data nor credentials go where the settings do not say."""
    server.respond = lambda _: Reply(b"", status, {"Location": f"{elsewhere.url}/invocations"})
    error = refusal(client)
    assert error.reason == "UPSTREAM_UNAVAILABLE"
    assert re.search(f"HTTP {status}.*a redirect, which is not followed", error.message), error.message
    assert elsewhere.connections == 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1.0] * 4, "4 rows came back"),
        ([1.0] * 6, "6 rows came back"),
        ([], "no answer came back"),
        (1.0, "one value came back"),
        ([SECRET] * 5, ""),
        ([1.0, 1.0, str(DATUM), 1.0, 1.0], ""),
        ([[1.0, 2.0]] * 5, ""),
        ([{"a": 1.0, "b": 2.0}] * 5, ""),
        ([True] * 5, ""),
    ],
    ids=["too few", "too many", "none", "one", "texts", "one text", "lists", "objects", "booleans"],
)
def test_other_predictions(server: ModelServer, client: Client, values: object, said: str) -> None:
    """Predictions of another number or type than the signature declares are OUTPUT_MISMATCH."""
    server.respond = lambda _: predictions(values)
    error = refusal(client)
    assert error.reason == "OUTPUT_MISMATCH"
    assert said in error.message


def test_one_part_of_several(server: ModelServer, client: Client) -> None:
    """Where one of the requests that a call needs has no honest answer, the call has none at all."""
    rows = ROWS * (3 * MAX_ROWS // 5)
    assert client.score(WINE, rows).batch.num_rows == 3 * MAX_ROWS
    parts = []

    def respond(request: Request) -> Reply:
        parts.append(request)
        return Reply(PAGE, headers=HTML) if len(parts) == 2 else honest(request)

    server.respond = respond
    assert refusal(client, rows).reason == "UPSTREAM_UNAVAILABLE"
