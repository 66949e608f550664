"""The Python client before a real service: all forms of rows, rows that travel together, servers that come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pandas as pd
import pyarrow as pa
import pytest

from prinz_enricher.client import AsyncClient, Client, ServiceError, Tls
from prinz_enricher.errors import InvalidInput
from samples.fraud import COLUMNS as FRAUD_COLUMNS
from samples.fraud import make_fraud
from samples.wine import COLUMNS as WINE_COLUMNS
from samples.wine import make_wine
from tests.conftest import RunningRegistry
from tests.support import touchy
from tests.support.certificates import Authority
from tests.support.deadline import wait_until
from tests.support.nginx import Nginx
from tests.support.own_service import register
from tests.support.running_service import LONG, Service
from tests.support.serve_process import serve

CALLERS = 256

REGISTER = """
import sys
import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import Array, Object, Property

mlflow.set_tracking_uri(sys.argv[1])
scalars = ("double", "long", "integer", "float", "boolean", "string", "datetime", "binary")
inputs = [ColSpec(kind, f"a {kind}") for kind in scalars]
inputs += [ColSpec(kind, f"perhaps a {kind}", required=False) for kind in ("double", "string", "boolean")]
inputs += [
    ColSpec(Array("double"), "series"),
    ColSpec(Object([Property("id", "long"), Property("note", "string", required=False)]), "thing"),
]

class FirstRow(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [float(model_input["x"].iloc[0])] * len(model_input)

for name, model, signature in (
    ("client-touchy", sys.argv[2], ModelSignature(Schema(inputs), Schema([ColSpec("string", "saw")]))),
    ("client-first", FirstRow(), ModelSignature(Schema([ColSpec("double", "x")]), Schema([ColSpec("double", "y")]))),
):
    mlflow.pyfunc.log_model(
        name=name, python_model=model, signature=signature, registered_model_name=name, pip_requirements=["mlflow"]
    )
"""


@pytest.fixture(scope="module")
def models(service: Service, client: Client, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A model that tells what it sees, and one that looks at the first row alone; the service knows both."""
    folder = tmp_path_factory.mktemp("client-models")
    register(service.registry, REGISTER, folder, str(Path(touchy.__file__).with_name("touchy_model.py")))
    wait_until(lambda: len(list(client.list_models('name LIKE "client-%"'))) == 2)
    return "client-touchy", "client-first"


@pytest.fixture(scope="module")
def wine(client: Client) -> str:
    """The name of the wine model."""
    return next(model.name for model in client.list_models() if "Wine" in model.name)


@pytest.fixture(scope="module")
def fraud(client: Client) -> str:
    """The name of the fraud model."""
    return next(model.name for model in client.list_models() if "Fraud" in model.name)


def together(service: Service, model: str, rows: list[dict[str, Any]]) -> list[Any]:
    """Score rows one by one, from as many tasks at once; give answers and reasons in their order."""

    async def ask() -> list[Any]:
        async with AsyncClient(service.address, timeout=LONG) as client:
            calls = (client.score(model, row) for row in rows)
            return await asyncio.gather(*calls, return_exceptions=True)

    return [outcome(one) for one in asyncio.run(ask())]


def alone(service: Service, model: str, rows: list[dict[str, Any]]) -> list[Any]:
    """Score rows one after the other, each in a message of its own; give answers and reasons in their order."""
    with Client(service.address, timeout=LONG, coalesce=False) as client:
        answers = []
        for row in rows:
            try:
                answers.append(client.score(model, row))
            except (ServiceError, InvalidInput) as error:
                answers.append(error)  # type: ignore[arg-type]
    return [outcome(one) for one in answers]


def outcome(answer: Any) -> Any:
    """Give the rows of an answer, or the reason and the faults of an error."""
    if isinstance(answer, ServiceError | InvalidInput):
        return answer.reason, [(fault.field, fault.description) for fault in answer.violations]
    assert answer.batch.to_pylist() == answer.to_rows()
    return answer.version, answer.to_rows()


def close_to(expected: list[Any]) -> Any:
    """Match outcomes up to the last bits, in which a sum over many rows at once may differ."""
    return [(version, [pytest.approx(row, rel=1e-12) for row in rows]) for version, rows in expected]


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Read a frame as records."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def values(rows: list[dict[str, Any]]) -> list[Any]:
    """Read records as one list."""
    return [value for row in rows for value in row.values()]


@pytest.mark.parametrize("count", [1, 7, 300])
@pytest.mark.parametrize("which", ["wine", "fraud"])
def test_all_forms_of_rows_have_the_same_answer(
    request: pytest.FixtureRequest, service: Service, client: Client, which: str, count: int
) -> None:
    """Records, columns, pandas and Arrow give the same scores for the same rows."""
    model = request.getfixturevalue(which)
    frame = make_wine(count)[list(WINE_COLUMNS)] if which == "wine" else make_fraud(count)[list(FRAUD_COLUMNS)]
    rows = records(frame)
    one_by_one = [row for _, (row,) in together(service, model, rows)]
    table = pa.Table.from_pandas(frame, preserve_index=False)
    forms: dict[str, Any] = {
        "records": rows,
        "columns of lists": {name: frame[name].tolist() for name in frame},
        "columns of numpy": {name: frame[name].to_numpy() for name in frame},
        "columns of pandas": {name: frame[name] for name in frame},
        "columns of Arrow": {name: table[name] for name in table.column_names},
        "pandas": frame,
        "table": table,
        "batch": table.combine_chunks().to_batches()[0],
    }
    for name, form in forms.items():
        answer = client.score(model, form).to_rows()
        assert list(answer[0]) == list(one_by_one[0]), name
        assert values(answer) == pytest.approx(values(one_by_one), rel=1e-12), name


@pytest.mark.parametrize("which", ["wine", "fraud"])
def test_many_callers_get_the_answers_of_their_own_rows(
    request: pytest.FixtureRequest, service: Service, which: str
) -> None:
    """Rows of 256 callers at once are scored as they are one after the other."""
    model = request.getfixturevalue(which)
    frame = make_wine(CALLERS)[list(WINE_COLUMNS)] if which == "wine" else make_fraud(CALLERS)[list(FRAUD_COLUMNS)]
    rows = records(frame)
    expected = alone(service, model, rows)
    for _ in range(3):
        assert together(service, model, rows) == close_to(expected)


def test_threads_get_the_answers_of_their_own_rows(service: Service, wine: str) -> None:
    """Rows of 64 threads at once, many times, are scored as they are one after the other."""
    rows = records(make_wine(CALLERS)[list(WINE_COLUMNS)])
    expected = alone(service, wine, rows)
    with Client(service.address, timeout=LONG) as client, ThreadPoolExecutor(64) as threads:
        for _ in range(5):
            answers = list(threads.map(lambda row: client.score(wine, row), rows))
            assert [outcome(one) for one in answers] == close_to(expected)


def test_rows_of_every_type_go_together(service: Service, models: tuple[str, str]) -> None:
    """What a model sees of each row, to the types of its values, is what it sees of it alone; a bad one fails alone."""
    rows = touchy.rows(CALLERS, text="good")
    rows[17]["a string"] = touchy.RAISE
    rows[18]["a integer"] = 2**31
    del rows[19]["a double"]
    expected = alone(service, models[0], rows)
    assert [place for place, (told, _) in enumerate(expected) if not told.isdecimal()] == [17, 18, 19]
    assert [told for told, _ in expected[17:20]] == ["MODEL_ERROR", "INVALID_INPUT", "INVALID_INPUT"]
    assert together(service, models[0], rows) == expected


def test_a_model_that_looks_at_the_first_row_alone(service: Service, models: tuple[str, str]) -> None:
    """Rows travel together also where the model's calls are not shared; each is scored for itself."""
    rows = [{"x": float(x)} for x in range(CALLERS)]
    answers = together(service, models[1], rows)
    assert [answer for _, answer in answers] == [[{"y": float(x)}] for x in range(CALLERS)]


def score_until(client: Client, model: str, rows: Any, right: Callable[[Any], bool]) -> None:
    """Score until the answer is right, through errors of a service that is not there."""

    def scored() -> bool:
        try:
            return right(client.score(model, rows).to_rows())
        except ServiceError as error:
            if error.code is not grpc.StatusCode.UNAVAILABLE:
                raise
            return False

    wait_until(scored, 60)


@pytest.fixture
def wine_rows() -> list[dict[str, Any]]:
    """A row of wine."""
    return records(make_wine(1)[list(WINE_COLUMNS)])


@pytest.mark.timeout(300)
def test_a_server_that_is_restarted_is_found_again(
    sample_registry: RunningRegistry, wine: str, wine_rows: list[dict[str, Any]], unused_tcp_port: int
) -> None:
    """A client outlives its server, and goes on with the next one at the same address."""
    flags = ("--registry", sample_registry.url, "--port", str(unused_tcp_port))
    with Client(f"127.0.0.1:{unused_tcp_port}", timeout=LONG) as client:
        with serve(*flags):
            expected = client.score(wine, wine_rows).to_rows()
        with pytest.raises(ServiceError) as raised:
            client.score(wine, wine_rows)
        assert raised.value.code is grpc.StatusCode.UNAVAILABLE
        with serve(*flags):
            score_until(client, wine, wine_rows, lambda answer: bool(answer == expected))


@pytest.mark.timeout(300)
def test_one_of_two_servers_is_killed(
    sample_registry: RunningRegistry, wine: str, wine_rows: list[dict[str, Any]]
) -> None:
    """Calls go to both servers; once one is killed, also under way, none fails, since they are tried again."""
    flags = ("--registry", sample_registry.url)
    with serve(*flags) as one, serve(*flags) as other, ThreadPoolExecutor(8) as threads:
        with Client(one.address, timeout=LONG) as first, Client(other.address, timeout=LONG) as second:
            loaded = [threads.submit(client.score, wine, wine_rows) for client in (first, second)]
            expected, again = (call.result(LONG).to_rows() for call in loaded)
        assert again == expected
        with Client([one.address, other.address], timeout=LONG, coalesce=False) as client:
            calls = [threads.submit(client.score, wine, wine_rows) for _ in range(100)]
            one.process.kill()
            calls += [threads.submit(client.score, wine, wine_rows) for _ in range(200)]
            assert all(call.result(LONG).to_rows() == expected for call in calls)


_TLS_RULES = """
  server {
    listen 127.0.0.1:@PORT@ ssl http2;
    ssl_certificate @CERTIFICATE@;
    ssl_certificate_key @KEY@;
    ssl_client_certificate @AUTHORITY@;
    ssl_verify_client on;
    location / {
      if ($http_authorization != "Bearer let-me-in") { return 401; }
      grpc_pass grpc://@SERVICE@;
    }
  }
"""


@pytest.fixture
def proxy(service: Service, tmp_path: Path) -> Iterator[tuple[Nginx, Authority]]:
    """An nginx that ends TLS before the service, and wants a certificate and a token of each caller."""
    authority = Authority(tmp_path)
    pair = authority.sign("server")
    rules = _TLS_RULES
    for name, value in {
        "CERTIFICATE": pair.certificate, "KEY": pair.key, "AUTHORITY": authority.file, "SERVICE": service.address,
    }.items():  # fmt: skip
        rules = rules.replace(f"@{name}@", str(value))
    with Nginx(tmp_path / "nginx", rules) as nginx:
        yield nginx, authority


def test_tls_with_a_certificate_and_a_token(
    proxy: tuple[Nginx, Authority], client: Client, wine: str, wine_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Through TLS, with a certificate and a token, the answers are the service's own; the token is read again."""
    nginx, authority = proxy
    pair = authority.sign("client")
    tls = Tls(ca=authority.file, certificate=str(pair.certificate), key=pair.key.read_bytes())
    token = tmp_path / "token"
    token.write_text("let-me-in\n")
    address = f"127.0.0.1:{nginx.port}"
    expected = client.score(wine, wine_rows).to_rows()
    with Client(address, timeout=LONG, tls=tls, token=token) as through:
        assert through.score(wine, wine_rows).to_rows() == expected
        token.write_text("another")
        with pytest.raises(ServiceError) as raised:
            through.score(wine, wine_rows)
        assert raised.value.code is grpc.StatusCode.UNAUTHENTICATED

    async def ask() -> Any:
        async with AsyncClient(address, timeout=LONG, tls=tls, token=lambda: "let-me-in") as through:
            return (await through.score(wine, wine_rows)).to_rows()

    assert asyncio.run(ask()) == expected


def test_tls_with_an_authority_that_is_not_believed(
    proxy: tuple[Nginx, Authority], wine: str, wine_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    """A server that another authority signed for, or that bears another name, gets nothing."""
    nginx, authority = proxy
    pair = authority.sign("client")
    other = Authority(tmp_path, "other")
    for tls in (
        Tls(ca=other.file, certificate=pair.certificate, key=pair.key),
        Tls(ca=authority.file, certificate=pair.certificate, key=pair.key, server_name="elsewhere.example"),
    ):
        with Client(f"127.0.0.1:{nginx.port}", tls=tls, token="let-me-in") as through:  # noqa: S106 - made up
            with pytest.raises(ServiceError) as raised:
                through.score(wine, wine_rows)
            assert raised.value.code is grpc.StatusCode.UNAVAILABLE
    assert nginx.seen() == []
