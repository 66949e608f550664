"""The registry client before a Unity Catalog, and MLflow's own client before the same one."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prinz_enricher.catalog import Catalog
from prinz_enricher.config import Settings
from prinz_enricher.registry import (
    MlmodelUnreadable,
    ModelVersion,
    RegistryClient,
    RegistryRefused,
    UnityClient,
    open_access,
)
from tests.support.hostile_server import HostileServer, Request, answer_json
from tests.support.registry_writer import mlmodel_text
from tests.support.unity_catalog import UnityCatalogServer, UnityModel

WINE = "prod.wine.quality"


@pytest.fixture
def workspace(hostile_server: HostileServer, tmp_path: Path) -> UnityCatalogServer:
    """A workspace with five models."""
    server = UnityCatalogServer()
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "MLmodel").write_text(mlmodel_text())
    server.models = {f"prod.many.m{number}": UnityModel({"1": folder}) for number in range(4)}
    server.models[WINE] = UnityModel(
        {"1": folder, "2": None, "3": folder, "4": folder},
        {"champion": "3"},
        {"team": "risk"},
        {"4": "PENDING_REGISTRATION", "1": ""},
    )
    hostile_server.respond = server
    return server


@pytest.fixture
def client(hostile_server: HostileServer, workspace: UnityCatalogServer) -> Iterator[RegistryClient]:
    """A client of the workspace, with a service principal's credentials."""
    registry = {
        "url": hostile_server.url,
        "kind": "unity",
        "oauth2_client_id": workspace.tokens.client_id,
        "oauth2_client_secret": workspace.tokens.secret,
    }
    settings = Settings.load({"registry": registry}, environment={})
    with UnityClient.of(open_access(settings.registry), timeout=5.0) as opened:
        yield opened


def test_models_with_aliases_and_tags(client: RegistryClient, workspace: UnityCatalogServer) -> None:
    """All models of all pages are read, with what is told of each alone; one token is enough for all."""
    listing = client.registered_models()
    assert [model.name for model in listing.items] == sorted(workspace.models)
    assert listing.faults == ()
    wine = next(model for model in listing.items if model.name == WINE)
    assert (wine.aliases, wine.tags, wine.updated_ms) == ({"champion": "3"}, {"team": "risk"}, 1700000000001)
    assert workspace.tokens.asked == 1


def test_versions_of_all_models(client: RegistryClient) -> None:
    """All versions are read, with their states; one without a state is not ready."""
    versions = {(v.name, v.version): v for v in client.model_versions().items}
    assert len(versions) == 8
    assert [versions[WINE, number].status for number in "1234"] == [
        "UNSPECIFIED",
        "READY",
        "READY",
        "PENDING_REGISTRATION",
    ]
    assert versions[WINE, "3"].description == "version 3"


def test_no_filter_and_no_order_is_sent(client: RegistryClient, hostile_server: HostileServer) -> None:
    """The searches carry only what Unity Catalog takes."""
    client.registered_models()
    client.model_versions()
    searches = [request for request in hostile_server.requests if request.path.endswith("/search")]
    assert {key for request in searches for key in request.query} == {"filter", "max_results", "page_token"}
    assert not any("filter" in r.query for r in searches if r.path.endswith("registered-models/search"))


def test_catalog_of_a_workspace(client: RegistryClient) -> None:
    """The catalog has signatures from the Files API, and names the fault of a version whose files are elsewhere."""
    model = Catalog(client).refresh().models[WINE]
    assert [version.version for version in model.versions] == ["4", "3", "2", "1"]
    assert model.by_number["3"].signature is not None
    assert model.by_number["3"].aliases == ("champion",)
    assert "Files API does not have its MLmodel file (HTTP 404)" in model.by_number["2"].fault
    assert "PENDING_REGISTRATION" in model.by_number["4"].fault


def test_a_model_that_is_not_ours_is_a_fault(client: RegistryClient, workspace: UnityCatalogServer) -> None:
    """What we may not read is named; the others are there."""
    workspace.models["prod.many.m1"].hidden = True
    listing = client.registered_models()
    assert len(listing.items) == 4
    assert [fault for fault in listing.faults if "prod.many.m1" in fault and "HTTP 403" in fault]
    assert len(client.model_versions().faults) == 1


def test_a_passing_failure_drops_no_model(
    client: RegistryClient, workspace: UnityCatalogServer, hostile_server: HostileServer
) -> None:
    """If one model can't be read now, the whole listing fails, and the catalog keeps what it has."""

    def limited(request: Request) -> Any:
        busy = request.path.endswith("registered-models/get") and request.query["name"] == [WINE]
        return answer_json({"error_code": "REQUEST_LIMIT_EXCEEDED"}, 429) if busy else workspace(request)

    catalog = Catalog(client)
    before = catalog.refresh()
    hostile_server.respond = limited
    with pytest.raises(RegistryRefused, match="429"):
        catalog.refresh()
    assert catalog.snapshot() is before


def test_a_model_that_goes_meanwhile_is_left_out(
    client: RegistryClient, workspace: UnityCatalogServer, hostile_server: HostileServer
) -> None:
    """A model that is deleted between the search and the question is no fault."""

    def deleting(request: Request) -> Any:
        if request.path.endswith("registered-models/get"):
            workspace.models.pop("prod.many.m2", None)
        return workspace(request)

    hostile_server.respond = deleting
    listing = client.registered_models()
    assert "prod.many.m2" not in {model.name for model in listing.items}
    assert listing.faults == ()


def test_a_name_with_a_quote(client: RegistryClient, workspace: UnityCatalogServer) -> None:
    """What the filter can't name is a fault, and never another filter."""
    workspace.models["prod.odd.it's"] = UnityModel({"1": None})
    listing = client.model_versions()
    assert len(listing.items) == 8
    assert [fault for fault in listing.faults if "prod.odd.it's" in fault and "single quote" in fault]


@pytest.mark.parametrize("name", ["two.parts", "a..b", "plain", "a.b.c.d"])
def test_names_of_other_than_three_parts(client: RegistryClient, name: str) -> None:
    """Such a version has no place in the Files API."""
    version = ModelVersion(name, "1", "", {}, "READY", "", "", "", 0, 0)
    with pytest.raises(MlmodelUnreadable, match="three parts"):
        client.mlmodel(version)


MLFLOW_S_VIEW = """
import json, sys, warnings
warnings.simplefilter("ignore")
from mlflow.exceptions import MlflowException
from mlflow.store._unity_catalog.registry.rest_store import UcModelRegistryStore
from mlflow.store.artifact.databricks_sdk_models_artifact_repo import DatabricksSDKModelsArtifactRepository

store = UcModelRegistryStore("databricks-uc", "databricks")

def pages(search):
    found, token = [], None
    while True:
        page = search(token)
        found += page
        token = page.token
        if not token:
            return found

def refusal(call):
    try:
        call()
    except MlflowException as error:
        return error.error_code
    return "none"

models = pages(lambda token: store.search_registered_models(max_results=2, page_token=token))
wine = store.get_registered_model(sys.argv[1])
versions = pages(lambda token: store.search_model_versions(f"name='{sys.argv[1]}'", max_results=2, page_token=token))
files = DatabricksSDKModelsArtifactRepository(sys.argv[1], "3")
print(json.dumps({
    "models": [model.name for model in models],
    "aliases": wine.aliases,
    "tags": wine.tags,
    "updated": wine.last_updated_timestamp,
    "versions": [[version.version, version.status, version.description] for version in versions],
    "files": [info.path for info in files.list_artifacts()],
    "double quotes": refusal(lambda: store.search_model_versions(f'name="{sys.argv[1]}"', max_results=2)),
    "no filter": refusal(lambda: store.search_model_versions(max_results=2)),
    "filter of models": refusal(lambda: store.search_registered_models(filter_string="name = 'x'")),
    "order of models": refusal(lambda: store.search_registered_models(order_by=["name"])),
}))
"""


def test_mlflow_s_own_client_sees_the_same(
    client: RegistryClient, workspace: UnityCatalogServer, hostile_server: HostileServer
) -> None:
    """MLflow's client reads from the same server what ours reads, and so holds the server to the real one's form."""
    workspace.given = "given-token"
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith(("DATABRICKS_", "MLFLOW_"))},
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DATABRICKS_HOST": hostile_server.url,
        "DATABRICKS_TOKEN": workspace.given,
    }
    told = subprocess.run(
        [sys.executable, "-c", MLFLOW_S_VIEW, WINE], env=environment, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    seen = json.loads(told.stdout)
    ours = {model.name: model for model in client.registered_models().items}
    versions = [v for v in client.model_versions().items if v.name == WINE]
    assert seen["models"] == list(ours)
    assert (seen["aliases"], seen["tags"]) == (ours[WINE].aliases, ours[WINE].tags)
    assert seen["updated"] == ours[WINE].updated_ms
    assert seen["versions"] == [[v.version, v.status, v.description] for v in versions]
    assert seen["files"] == ["MLmodel"]
    assert (seen["double quotes"], seen["no filter"]) == ("INVALID_PARAMETER_VALUE", "INVALID_PARAMETER_VALUE")
    # Of these MLflow's client asks no server.
    assert (seen["filter of models"], seen["order of models"]) == ("INTERNAL_ERROR", "INTERNAL_ERROR")


def test_one_model_and_one_version(client: RegistryClient) -> None:
    """What is asked for alone is as the lists tell it; what is not there is missing."""
    models = {model.name: model for model in client.registered_models().items}
    versions = {(version.name, version.version): version for version in client.model_versions().items}

    assert client.registered_model(WINE) == models[WINE]
    assert [client.model_version(*key) for key in versions] == list(versions.values())
    for ask in (lambda: client.registered_model("prod.wine.gone"), lambda: client.model_version(WINE, "9")):
        with pytest.raises(RegistryRefused) as refusal:
            ask()
        assert refusal.value.missing
