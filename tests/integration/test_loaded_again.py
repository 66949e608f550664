"""A service that is started again loads what was in use, without a call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from prinz_enricher.client import Client
from prinz_enricher.contract import model_pb2
from tests.conftest import find_port
from tests.support.deadline import wait_until
from tests.support.mlflow_server import MlflowServer
from tests.support.own_service import register
from tests.support.running_service import LONG
from tests.support.serve_process import Serve, serve

pytestmark = pytest.mark.slow

AVAILABLE, DISCOVERED = model_pb2.ModelVersion.STATE_AVAILABLE, model_pb2.ModelVersion.STATE_DISCOVERED

REGISTER = """
import sys
import mlflow
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

mlflow.set_tracking_uri(sys.argv[1])

class Twice(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input["x"] * 2

mlflow.pyfunc.log_model(
    name="m", python_model=Twice(), registered_model_name="a", pip_requirements=["mlflow"],
    signature=ModelSignature(Schema([ColSpec("double", "x")]), Schema([ColSpec("double", "y")])),
)
client = mlflow.MlflowClient()
for name in ("b", "c"):
    client.copy_model_version("models:/a/1", name)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[MlflowServer]:
    """A registry with three models, which a test kills."""
    store = tmp_path / "registry"
    store.mkdir()
    with MlflowServer(store, find_port()) as server:
        register(server.url, REGISTER, store)
        yield server


@contextmanager
def serving(url: str, cache: Path, variables: Mapping[str, str] | None = None) -> Iterator[tuple[Serve, Client]]:
    """Run a service whose caches are in a folder, and a client of it."""
    kept = {"XDG_CACHE_HOME": str(cache), "PRINZ_SCORING__PRELOAD": "used", **(variables or {})}
    with serve("--registry", url, variables=kept) as running, Client(running.address, timeout=LONG) as client:
        yield running, client


def states(client: Client) -> dict[str, int]:
    """Return the state of each model's version."""
    return {model.name: model.versions[0].state for model in client.list_models() if model.versions}


def stored(cache: Path) -> set[str]:
    """Return the models that are in use by the file."""
    files = list((cache / "prinz-enricher" / "catalog").glob("*.used.json"))
    return {name for file in files for name, _, _ in json.loads(file.read_text())["used"]}


@pytest.mark.timeout(200)
def test_what_was_in_use_is_available_again(server: MlflowServer, tmp_path: Path) -> None:
    """After a SIGKILL, after a SIGTERM, without the registry; not where the setting says so."""
    with serving(server.url, tmp_path) as (running, client):
        wait_until(lambda: len(states(client)) == 3)
        for name in ("a", "b"):
            client.score(name, {"x": 1.0})
        wait_until(lambda: stored(tmp_path) == {"a", "b"})
        running.process.kill()
    wanted = {"a": AVAILABLE, "b": AVAILABLE, "c": DISCOVERED}
    with serving(server.url, tmp_path) as (running, client):
        wait_until(lambda: states(client) == wanted, LONG)
        assert running.end() == 0
    assert stored(tmp_path) == {"a", "b"}
    server.kill()
    with serving(server.url, tmp_path) as (running, client):
        wait_until(lambda: states(client) == wanted, LONG)
        assert client.score("a", {"x": 2.0}).to_rows() == [{"y": 4.0}]
        running.process.kill()
    with serving(server.url, tmp_path, {"PRINZ_SCORING__PRELOAD": ""}) as (running, client):
        client.score("a", {"x": 1.0})
        assert states(client) == {"a": AVAILABLE, "b": DISCOVERED, "c": DISCOVERED}


@pytest.mark.timeout(200)
def test_what_nobody_called_for_long_is_not_loaded_again(server: MlflowServer, tmp_path: Path) -> None:
    """A version that was unloaded is not in use; what was loaded again is unloaded in its time as well."""
    idle = {"PRINZ_SCORING__IDLE_UNLOAD": "3"}
    with serving(server.url, tmp_path, idle) as (running, client):
        wait_until(lambda: len(states(client)) == 3)
        for name in ("a", "b"):
            client.score(name, {"x": 1.0})
        wait_until(lambda: stored(tmp_path) == {"a", "b"})
        wait_until(lambda: bool(client.score("b", {"x": 1.0})) and stored(tmp_path) == {"b"})
        running.process.kill()
    with serving(server.url, tmp_path, idle) as (_, client):
        wait_until(lambda: states(client)["b"] == AVAILABLE, LONG)
        assert states(client)["a"] == DISCOVERED
        wait_until(lambda: states(client)["b"] == DISCOVERED and stored(tmp_path) == set(), LONG)
