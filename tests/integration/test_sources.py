"""Versions whose source is a run, a logged model, another version or a path: what MLflow's own client can load."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from prinz_enricher.application import Application
from prinz_enricher.client import Client, ServiceError
from prinz_enricher.config import Settings
from prinz_enricher.provision.model_cache import ModelCache, ModelSource
from prinz_enricher.provision.variables import fetch_variables
from prinz_enricher.registry import MlmodelUnreadable, ModelVersion, RegistryClient, RegistryRefused
from tests.conftest import find_port
from tests.support.deadline import wait_until
from tests.support.logged_models import LoggedModels, log_models
from tests.support.mlflow_server import MlflowServer
from tests.support.running_service import LONG

pytestmark = pytest.mark.slow

SOURCES = {
    "logged by the run": "runs:/{run}/deep",
    "logged, and a folder": "runs:/{run}/both",
    "logged without files": "runs:/{run}/empty",
    "folder of the run": "runs:/{run}/old",
    "odd folder": "runs:/{run}/a folder/of 100%",
    "of a version": "models:/logged by the run/1",
    "of a version of a version": "models:/of a version/1",
    "logged model": "models:/{deep}",
    "place": "{artifacts}/old",
}
PATHS = {"file": "file://{artifacts}/old", "relative": "{relative}/old"}
"""Of a server that lets its clients read the folder of its artifacts."""

BROKEN = {
    "loop": ("models:/loop/1", "from version to version"),
    "one of two": ("models:/other of two/1", "from version to version"),
    "other of two": ("models:/one of two/1", "from version to version"),
    "by alias": ("models:/place@champion", "does not name one version"),
    "by stage": ("models:/place/Production", "does not name one version"),
    "elsewhere": ("models://someone@databricks/place/1", "does not name one version"),
    "no version": ("models:/place/77", "Model Version (name=place, version=77) not found"),
    "no run": ("runs:/" + "0" * 32 + "/deep", "Run with id=" + "0" * 32 + " not found"),
    "no logged model": ("models:/m-" + "0" * 32, "not found"),
    "no such folder": ("runs:/{run}/nothing", "No such artifact"),
    "no store of MLflow's": ("foo:bar", "Could not find a registered artifact repository for: foo:bar"),
    "DBFS": ("dbfs:/some/model", "Failed to get credentials for DBFS"),
    "hdfs": ("hdfs://somewhere/model", "HTTP 400 INVALID_PARAMETER_VALUE"),
}


def make(server: MlflowServer, folder: Path, paths: bool) -> LoggedModels:
    """Register a model for each source; those that the server refuses, or reads anew, where it keeps them."""
    models = log_models(server.url, folder)
    relative = os.path.relpath(models.artifacts)
    for name, text in {**SOURCES, **(PATHS if paths else {})}.items():
        source = text.format(run=models.run, artifacts=models.artifacts, relative=relative, **models.logged)
        ids = {"model_id": models.logged["deep"]} if source.startswith("models:/m-") else {"run_id": models.run}
        models.register(name, source, **({} if source.startswith("models:/of") else ids))
    with closing(sqlite3.connect(server.database, timeout=10)) as connection, connection:
        for name, (text, _) in BROKEN.items():
            models.register(name, f"runs:/{models.run}/old", run_id=models.run)
            source = text.format(run=models.run)
            connection.execute(
                "UPDATE model_versions SET source = ?, storage_location = NULL WHERE name = ?", (source, name)
            )
            connection.commit()
        # As servers kept them that did not look where a source leads to.
        connection.execute("UPDATE model_versions SET storage_location = NULL WHERE source LIKE 'models:%'")
    return models


@pytest.fixture(scope="module", params=["proxied", "unproxied"])
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoggedModels]:
    """A server that hands out all artifacts, and one that leaves them to its clients."""
    store = tmp_path_factory.mktemp("sources")
    paths = request.param == "unproxied"
    with MlflowServer(store, find_port(), artifact_root=str(store / "root") if paths else "") as server:
        yield make(server, store, paths)


@pytest.fixture
def client(registry: LoggedModels) -> Iterator[RegistryClient]:
    """A client of the registry, without a reader of stores."""
    with RegistryClient(registry.url) as opened:
        yield opened


def versions(client: RegistryClient) -> dict[str, ModelVersion]:
    """Return the version of each model."""
    return {version.name: version for version in client.model_versions().items}


def test_mlmodel_files_of_all_sources(client: RegistryClient) -> None:
    """The file that MLflow's client would load is read: that of a logged model before that of a folder of its run."""
    found = versions(client)
    read = {name: str(client.mlmodel(found[name])["signature"]) for name in found.keys() - BROKEN.keys()}
    assert read.keys() >= SOURCES.keys()
    assert [name for name, signature in read.items() if '"name": "n"' not in signature] == []


@pytest.mark.parametrize("name", BROKEN)
def test_sources_that_lead_to_nothing(client: RegistryClient, name: str) -> None:
    """A source that no client could load is a fault for good, which says where it ends; a loop, too."""
    with pytest.raises((RegistryRefused, MlmodelUnreadable)) as raised:
        client.mlmodel(versions(client)[name])
    assert BROKEN[name][1] in str(raised.value)
    assert not raised.value.transient


def test_files_of_all_sources_are_downloaded(registry: LoggedModels, client: RegistryClient, tmp_path: Path) -> None:
    """The process that downloads models gets the files whose MLmodel file was read, by relative paths too."""
    cache = ModelCache(tmp_path, max_bytes=1 << 30, max_model_bytes=1 << 30, timeout=120.0)
    found = versions(client)
    # These come to one and the same by other ways.
    for name in found.keys() - BROKEN.keys() - {"odd folder", "of a version", "place"}:
        with cache.get(
            ModelSource(registry.url, name, "1", ""), partial(client.folder_uri, name, "1"), variables
        ) as model:
            assert '"name": "n"' in (model.path / "MLmodel").read_text(), name
            assert (model.path / "python_model.pkl").is_file()


def test_files_that_the_server_hands_out(client: RegistryClient, tmp_path: Path) -> None:
    """They are got without a process, from whatever source; those that it does not hand out are not."""
    found = versions(client)
    for name in sorted(found.keys() - BROKEN.keys()):
        uri, folder = client.folder_uri(name, "1"), tmp_path / name
        done = client.download(uri, folder, max_bytes=1 << 30, watch=lambda *_: None)
        assert done == uri.startswith("mlflow-artifacts:") == folder.exists(), name
        if done:
            assert '"name": "n"' in (folder / "MLmodel").read_text(), name
            assert (folder / "python_model.pkl").is_file(), name


def variables(folder: Path) -> dict[str, str]:
    """Return the environment variables of the process that downloads."""
    return fetch_variables(os.environ, folder, None)


def test_all_sources_are_served(registry: LoggedModels) -> None:
    """Versions are listed with signatures and scored; what leads to nothing says why when it is scored."""
    settings = Settings.load(
        {"registry": {"url": registry.url, "refresh_interval": 0.5}, "server": {"port": 0}}, environment={}
    )
    application = Application(settings)
    port = application.start()
    try:
        assert application.ready.wait(60)
        with Client(f"127.0.0.1:{port}", timeout=LONG) as client:

            def unread() -> list[str]:
                listed = {model.name: model.versions[0] for model in client.list_models(full=True)}
                return [name for name in listed if name not in BROKEN and not listed[name].HasField("signature")]

            wait_until(lambda: not unread(), 60)
            for name in ("logged by the run", "folder of the run", "of a version of a version", "relative"):
                if name in {model.name for model in client.list_models()}:
                    assert client.score(name, [{"n": 21}]).to_rows() == [{"output_0": 42}]
            for name, (_, words) in BROKEN.items():
                with pytest.raises(ServiceError) as raised:
                    client.score(name, [{"n": 21}])
                assert (raised.value.reason, words in str(raised.value)) == ("MODEL_LOAD_FAILED", True)
    finally:
        application.stop()
