"""Models behind real model servers and a real nginx: the same answers, and the same refusals, as by workers here."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from prinz_enricher.batch import batch_from_rows, encode_columns
from prinz_enricher.cli.demo import EXAMPLES, WINE_COLUMNS
from prinz_enricher.client import Client, ServiceError
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2, value_pb2
from tests.support import touchy
from tests.support.deadline import wait_until
from tests.support.nginx import Nginx
from tests.support.own_service import own_service
from tests.support.registry_writer import RegistryWriter
from tests.support.running_service import LONG, Refusal, Service, refused
from tests.support.served_models import ServedModel, served_models

pytestmark = pytest.mark.slow

WINE, OTHER_WINE, FRAUD = EXAMPLES
SCRATCH = "scratch."
TOUCHY, TAGGED = f"{SCRATCH}{touchy.NAME}", f"{SCRATCH}{touchy.TAGGED}"
MODELS = (WINE, OTHER_WINE, FRAUD, TOUCHY)
PASSWORD = "correct-horse"  # noqa: S105 - made up

# Each way to write where a model is, under a prefix of its own, so that no other way finds it.
_RULES = """
server {
  listen 127.0.0.1:@PORT@;
  proxy_read_timeout 30s;
  %s
  location / { return 404; }
}
"""
_LOCATIONS = """
  location = /short/{name}/invocations {{ proxy_pass {url}/invocations; }}
  location = /long/model/{name}/invocations {{ proxy_pass {url}/invocations; }}
  location = /versions/model/{name}/1/invocations {{ proxy_pass {url}/invocations; }}
  location = /serving/serving-endpoints/prod-{name}/invocations {{ proxy_pass {url}/invocations; }}
  location = /own/team/{name}/v1/score {{ proxy_pass {url}/invocations; }}
  location = /locked/{name}/invocations {{
    auth_basic models;
    auth_basic_user_file @FOLDER@/htpasswd;
    proxy_pass {url}/invocations;
  }}
"""


@dataclass(frozen=True)
class World:
    """What all tests of this file share.

    Attributes:
        nginx: Before all model servers.
        served: The model servers, by the registered models' names.
        registry: The registry of the sample models.
        scratch: The registry of the tests' own model.
        local: A client of a service without endpoints, before the same registries.
        local_service: That service.
    """

    nginx: Nginx
    served: Mapping[str, ServedModel]
    registry: str
    scratch: RegistryWriter
    local: Client
    local_service: Service

    @contextmanager
    def remote(
        self, endpoints: Mapping[str, Mapping[str, object]], **sections: Mapping[str, object]
    ) -> Iterator[Service]:
        """Run a service with endpoints, before the same registries."""
        with own_service(self.registry, registries=_second(self.scratch), endpoints=endpoints, **sections) as service:
            yield service


def _second(scratch: RegistryWriter) -> dict[str, Any]:
    names = [touchy.NAME, touchy.TAGGED]
    return {"scratch": {"url": scratch.url, "prefix": SCRATCH, "include": names, "refresh_interval": 0.2}}


@pytest.fixture(scope="module")
def world(
    sample_registry: Any, scratch_registry: RegistryWriter, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """Model servers, nginx before them, and a service without endpoints."""
    folder = tmp_path_factory.mktemp("remote")
    url = sample_registry.url
    touchy.register_touchy(scratch_registry.url, folder)
    models = [(url, f"{name}/1") for name in EXAMPLES] + [(scratch_registry.url, f"{touchy.NAME}/1")]
    with ExitStack() as stack:
        running = stack.enter_context(served_models(models, folder))
        served = dict(zip((*EXAMPLES, touchy.NAME), running, strict=True))
        locations = "".join(_LOCATIONS.format(name=name, url=one.url) for name, one in served.items())
        locations += _LOCATIONS.format(name=touchy.TAGGED, url=served[touchy.NAME].url)
        (folder / "nginx").mkdir()
        (folder / "nginx" / "htpasswd").write_text(f"prinz:{{PLAIN}}{PASSWORD}\n")
        nginx = stack.enter_context(Nginx(folder / "nginx", _RULES % locations))
        # Before the model servers answer: all models are loaded at the same time.
        service = stack.enter_context(
            own_service(url, registries=_second(scratch_registry), scoring={"preload": ["MLF-*", TOUCHY]})
        )
        local = stack.enter_context(Client(service.address, timeout=LONG))
        for one in running:
            one.wait()
        yield World(nginx, served, url, scratch_registry, local, service)


@pytest.fixture(scope="module")
def service(world: World) -> Iterator[Service]:
    """A service whose models are all behind nginx."""
    with world.remote({"farm": {"urls": [f"{world.nginx.url}/short"], "models": ["*"], "max_rows": 3000}}) as service:
        yield service


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    """A client of that service."""
    with Client(service.address, timeout=LONG) as client:
        yield client


@pytest.fixture(scope="module")
def careful(world: World) -> Iterator[Service]:
    """A service that has found the model, and asks its server nothing more by itself."""
    endpoint = {"urls": [f"{world.nginx.url}/short"], "models": ["*"], "max_concurrent": 1}
    with world.remote({"farm": endpoint}) as service:
        with Client(service.address, timeout=LONG) as client:
            assert answers(client, TOUCHY, touchy.rows(1)) == answers(world.local, TOUCHY, touchy.rows(1))
        yield service


def wine_rows(count: int) -> list[dict[str, object]]:
    """Make rows of the wine models by chance."""
    chance = random.Random(count)  # noqa: S311 - no secret
    return [{name: chance.uniform(-300, 300) for name in WINE_COLUMNS} for _ in range(count)]


def fraud_rows(count: int) -> list[dict[str, object]]:
    """Make rows of the fraud model by chance."""
    chance = random.Random(count)  # noqa: S311 - no secret
    categories = ("es_transportation", "es_travel", "unheard of", "")
    return [
        {
            "age": str(chance.randint(0, 6)),
            "gender": chance.choice("FMEU"),
            "category": chance.choice(categories),
            "amount": chance.expovariate(0.002),
        }
        for _ in range(count)
    ]


def rows_of(model: str, count: int) -> list[dict[str, Any]]:
    """Make rows of a model by chance, its example among them."""
    if model == TOUCHY:
        return touchy.rows(count)
    return [*EXAMPLES[model], *(fraud_rows(count) if model == FRAUD else wine_rows(count))]


def answers(client: Client, model: str, rows: Any) -> list[str]:
    """Score, and return each row's answer as text, to the last bit."""
    return [repr(row) for row in client.score(model, rows).to_rows()]


def _roads(world: World) -> dict[str, dict[str, dict[str, object]]]:
    """Return endpoints for each way to say where models are."""
    farm = world.nginx.url
    everything: dict[str, object] = {"models": ["*"]}
    names = {name: f"prod-{name}" for name in world.served} | {TOUCHY: f"prod-{touchy.NAME}"}
    return {
        "prinz, short": {"a": {"urls": [f"{farm}/short"], "convention": ["prinz"], **everything}},
        "prinz, long": {"a": {"urls": [f"{farm}/long"], "convention": ["prinz"], **everything}},
        "databricks, version": {"a": {"urls": [f"{farm}/versions"], "convention": ["databricks"], **everything}},
        "databricks, endpoint": {
            "a": {
                "urls": [f"{farm}/serving"], "convention": ["databricks"], "endpoint_names": names, **everything
            }
        },
        "mlflow": {
            f"server-{number}": {
                "urls": [one.url],
                "convention": ["mlflow"],
                "models": [f"*{name}", *([TAGGED] if name == touchy.NAME else [])],
            }
            for number, (name, one) in enumerate(world.served.items())
        },
        "template": {
            "a": {"urls": [f"{farm}/own"], "convention": ["{base}/team/{name}/v{version}/score"], **everything}
        },
    }  # fmt: skip


ROADS = ("prinz, short", "prinz, long", "databricks, version", "databricks, endpoint", "mlflow", "template")


@pytest.mark.parametrize("road", ROADS)
def test_same_answers(world: World, road: str) -> None:
    """Whatever the convention, columns and Arrow have the very answers that workers here give."""
    with world.remote(_roads(world)[road]) as service, Client(service.address, timeout=LONG) as client:
        for model in MODELS:
            rows = rows_of(model, 255 if model == TOUCHY else 300)
            for one in (rows, rows[:1], rows[:40]):
                assert answers(client, model, one) == answers(world.local, model, one)
            arrow = arrow_of(client, model, rows)
            assert answers(client, model, arrow) == answers(world.local, model, arrow)
        # Other tests register models in the same registries.
        ours = [model for model in client.list_models() if model.name in MODELS]
        assert {version.route for model in ours for version in model.versions} == {model_pb2.ModelVersion.ROUTE_REMOTE}


def arrow_of(client: Client, model: str, rows: list[dict[str, Any]]) -> pa.RecordBatch:
    """Write rows as Arrow, by the model's signature."""
    _, signature = client.signature(model)
    return batch_from_rows(rows, signature.inputs)


def test_local_is_told(world: World) -> None:
    """Without endpoints each version is scored by workers here, and told so."""
    routes = {version.route for model in world.local.list_models() for version in model.versions}
    assert routes == {model_pb2.ModelVersion.ROUTE_LOCAL}


def test_tag_routes(world: World) -> None:
    """A model's tag sends it to an endpoint and back; one that names none, such as a URL, is told, and nobody asked."""
    # With one request at a time nothing else tries the model while its tag changes.
    endpoints = {"farm": {"urls": [f"{world.nginx.url}/short"], "max_concurrent": 1}}
    row = touchy.rows(1)
    path = f"/short/{touchy.TAGGED}/"
    with world.remote(endpoints) as service, Client(service.address, timeout=LONG) as client:

        def version() -> model_pb2.ModelVersion:
            return next(iter(client.list_models(f'name = "{TAGGED}"'))).versions[0]

        def tag(value: str, route: int) -> None:
            world.scratch.set_tag(touchy.TAGGED, "prinz.route", value)
            wait_until(lambda: version().route == route)

        expected = answers(world.local, TOUCHY, row)
        tag("remote:farm", model_pb2.ModelVersion.ROUTE_REMOTE)
        assert answers(client, TAGGED, row) == expected
        assert len(world.nginx.seen(path)) > 0
        tag("local", model_pb2.ModelVersion.ROUTE_LOCAL)
        asked = len(world.nginx.seen())
        assert answers(client, TAGGED, row) == expected
        for lie in ("remote:nosuch", f"remote:{world.nginx.url}/short", f"{world.nginx.url}/short"):
            world.scratch.set_tag(touchy.TAGGED, "prinz.route", lie)
            wait_until(lambda lie=lie: lie in version().state_message)  # type: ignore[misc]  # bound to this turn
            assert version().state == model_pb2.ModelVersion.STATE_FAILED
            with pytest.raises(ServiceError, match="is not an endpoint of this service") as raised:
                client.score(TAGGED, row)
            assert raised.value.reason == "MODEL_LOAD_FAILED"
        assert len(world.nginx.seen()) == asked
        world.scratch.delete_tag(touchy.TAGGED, "prinz.route")


def test_threads_of_a_remote_version_are_few_and_end(world: World) -> None:
    """Whatever its owner wants, an endpoint gets no more requests at once than it may; unused, it has no threads."""
    endpoints = {"farm": {"urls": [f"{world.nginx.url}/short"], "models": [TAGGED], "max_concurrent": 3}}
    world.scratch.set_tag(touchy.TAGGED, "prinz.replicas", "64")

    def threads() -> int:
        return sum(thread.name.startswith(f"replica-{TAGGED}-") for thread in threading.enumerate())

    try:
        with (
            world.remote(endpoints, scoring={"idle_unload": 2.0}) as service,
            Client(service.address, timeout=LONG) as client,
        ):
            row = touchy.rows(1)
            expected = answers(world.local, TOUCHY, row)
            assert answers(client, TAGGED, row) == expected
            wait_until(lambda: threads() == 3)
            wait_until(lambda: threads() == 0)
            assert answers(client, TAGGED, row) == expected
    finally:
        world.scratch.delete_tag(touchy.TAGGED, "prinz.replicas")


def _column(name: str, **values: Any) -> value_pb2.Column:
    return value_pb2.Column(name=name, **values)


def _doubles(name: str, value: float) -> value_pb2.Column:
    return _column(name, doubles=value_pb2.DoubleValues(values=[value]))


_FAULTS: dict[str, value_pb2.Column | None] = {
    "a fraction for a long": _doubles("a long", 3.7),
    "too much for an integer": _doubles("a integer", 3e9),
    "text for a boolean": _column("a boolean", strings=value_pb2.StringValues(values=["false"])),
    "a number for a string": _doubles("a string", 1.0),
    "an unknown column": _doubles("colour", 1.0),
    "a null": _column("a long", validity=b"\x00", int64s=value_pb2.Int64Values(values=[0])),
    "text for a datetime": _column("a datetime", strings=value_pb2.StringValues(values=["yesterday"])),
    "a missing column": None,
}


@pytest.mark.parametrize("fault", _FAULTS)
def test_same_refusals(world: World, careful: Service, fault: str) -> None:
    """What the signature does not allow is refused with the same violations, and the model server never sees it."""
    _, signature = world.local.signature(TOUCHY)
    given = encode_columns(batch_from_rows(touchy.rows(1), signature.inputs), signature.inputs)
    wrong = _FAULTS[fault]
    left_out = "a long" if wrong is None else wrong.name
    columns = [column for column in given.columns if column.name != left_out] + ([] if wrong is None else [wrong])
    request = pb.ScoreRequest(
        model=model_pb2.ModelRef(name=TOUCHY), columns=value_pb2.ColumnBatch(num_rows=1, columns=columns)
    )
    asked = len(world.nginx.seen())

    remote = _refused(careful, request)

    assert remote.reason == "INVALID_INPUT"
    assert remote.violations
    assert remote == _refused(world.local_service, request)
    assert len(world.nginx.seen()) == asked


def _refused(service: Service, request: pb.ScoreRequest) -> Refusal:
    with service.channel() as channel:
        method: Any = channel.unary_unary(
            "/prinz.enricher.v1.EnricherService/Score", request_serializer=pb.ScoreRequest.SerializeToString
        )
        return refused(method, request)


def test_null_boolean(world: World, careful: Service) -> None:
    """A null boolean beside columns that Parquet does not take is refused, since the server would make false of it."""
    row = [{**touchy.rows(1)[0], "perhaps a boolean": None}]
    asked = len(world.nginx.seen())
    with Client(careful.address, timeout=LONG) as client, pytest.raises(ServiceError) as raised:
        client.score(TOUCHY, row)
    assert raised.value.reason == "INVALID_INPUT"
    assert [violation.field for violation in raised.value.violations] == ['columns["perhaps a boolean"]']
    assert len(world.nginx.seen()) == asked
    assert "missing" in answers(world.local, TOUCHY, row)[0]


def test_model_raises(client: Client) -> None:
    """A model that raises is told by its exception's type alone, and only to who sent the row it raises on."""
    rows = touchy.rows(63, text="good")
    expected = [answers(client, TOUCHY, [row]) for row in rows]
    start = threading.Barrier(64)

    def call(caller: int) -> list[str] | ServiceError:
        start.wait(30)
        try:
            return answers(client, TOUCHY, [rows[caller]] if caller < 63 else touchy.rows(1, text=touchy.RAISE))
        except ServiceError as error:
            return error

    with ThreadPoolExecutor(64) as threads:
        *good, guilty = threads.map(call, range(64))

    assert good == expected
    assert isinstance(guilty, ServiceError)
    assert (guilty.reason, guilty.metadata["exception"]) == ("MODEL_ERROR", touchy.EXCEPTION)
    assert "Traceback" not in guilty.message
    assert touchy.SECRET not in f"{guilty.message} {guilty.metadata}"


def test_callers_share_requests(world: World, client: Client) -> None:
    """Sixty-four callers at once have each their own exact answers, in far fewer requests than calls."""
    rows = touchy.rows(64, seed=1)
    expected = [answers(world.local, TOUCHY, [row]) for row in rows]
    answers(client, TOUCHY, rows[:1])
    path = f"/short/{touchy.NAME}/"
    asked = len(world.nginx.seen(path))

    def call(caller: int) -> bool:
        return all(answers(client, TOUCHY, [rows[caller]]) == expected[caller] for _ in range(12))

    with ThreadPoolExecutor(64) as threads:
        assert all(threads.map(call, range(64)))

    requests = world.nginx.seen(path)[asked:]
    assert set(requests) == {200}
    assert len(requests) < 64 * 12 / 3


def test_many_rows_in_parts(world: World, client: Client) -> None:
    """Twenty thousand rows go in several requests, and come back in their order."""
    rows = wine_rows(20_000)
    answers(client, WINE, rows[:1])
    path = f"/short/{WINE}/"
    asked = len(world.nginx.seen(path, 100_000))
    assert answers(client, WINE, rows) == answers(world.local, WINE, rows)
    assert len(world.nginx.seen(path, 100_000)) - asked == 7


def test_basic_authentication(world: World, tmp_path: Path) -> None:
    """User and password of a file are shown to nginx; a wrong password is told as such, without it."""
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    locked = {"urls": [f"{world.nginx.url}/locked"], "models": ["*"], "username": "prinz", "password_file": str(file)}
    row = EXAMPLES[FRAUD]
    with world.remote({"locked": locked}) as service, Client(service.address, timeout=LONG) as client:
        assert answers(client, FRAUD, row) == answers(world.local, FRAUD, row)
    file.write_text("battery-staple")
    with world.remote({"locked": locked}) as service, Client(service.address, timeout=LONG) as client:
        with pytest.raises(ServiceError, match=r"HTTP 401.*the credentials are missing or wrong") as raised:
            client.score(FRAUD, row)
        assert raised.value.reason == "UPSTREAM_UNAVAILABLE"
        assert "battery-staple" not in f"{raised.value.message} {raised.value.metadata}"
