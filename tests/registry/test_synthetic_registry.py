"""The registry in memory tells what a real MLflow server tells of the same models."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from prinz_enricher.registry import RegistryClient, RegistryRefused
from prinz_enricher.registry.mlmodel import MlmodelPlace
from tests.support.hostile_server import Answer, HostileServer
from tests.support.registry_writer import RegistryWriter, mlmodel_text
from tests.support.synthetic_registry import SyntheticRegistry

NAMES = ["same-a", "same-b", "same ć"]


def comparable(entity: Any) -> Any:
    """Return an entity without what each server gives it on its own."""
    own = {"created_ms": 0, "updated_ms": 0}
    return replace(entity, **own) if hasattr(entity, "aliases") else replace(entity, source="", run_id="", **own)


def told(client: RegistryClient) -> list[object]:
    """Return all that a registry tells of the models of this test."""
    models = [model for model in client.registered_models().items if model.name in NAMES]
    versions = [version for version in client.model_versions().items if version.name in NAMES]
    singles = [client.registered_model(name) for name in NAMES]
    single_versions = [client.model_version(version.name, version.version) for version in versions]
    files = [client.mlmodel(version) for version in versions]
    entities = [comparable(entity) for entity in (*models, *versions, *singles, *single_versions)]
    return [*entities, *files]


def test_both_tell_the_same(scratch_registry: RegistryWriter, hostile_server: HostileServer) -> None:
    """Lists, single entities and files are the same, and so is what is said of those that are not there."""
    registry = hostile_server.respond = SyntheticRegistry()
    for name in NAMES:
        scratch_registry.create_model(name, f"About {name}.", {"team": "risk"})
        model = registry.add(name, 2)
        model.description, model.tags, model.aliases = f"About {name}.", {"team": "risk"}, {"champion": "2"}
        for number in (1, 2):
            scratch_registry.create_version(name, tags={"n": str(number)}, description="One.")
            model.versions[number].tags, model.versions[number].description = {"n": str(number)}, "One."
        scratch_registry.set_alias(name, "champion", "2")
    clients = [
        RegistryClient(url, models_per_page=2, versions_per_page=3)
        for url in (scratch_registry.url, hostile_server.url)
    ]
    real, synthetic = clients

    assert told(real) == told(synthetic)
    assert real.registered_models().pages > 1
    assert synthetic.registered_models().pages == synthetic.model_versions().pages == 2
    refusals = []
    for client in clients:
        with pytest.raises(RegistryRefused) as model_refused:
            client.registered_model("nobody")
        with pytest.raises(RegistryRefused) as version_refused:
            client.model_version("same-a", "77")
        refusals.append([(e.value.status, e.value.error_code) for e in (model_refused, version_refused)])
        client.close()
    assert refusals[0] == refusals[1] == [(404, "RESOURCE_DOES_NOT_EXIST")] * 2
    for name in NAMES:
        scratch_registry.delete_model(name)


def test_both_tell_whether_a_file_changed(scratch_registry: RegistryWriter, hostile_server: HostileServer) -> None:
    """A file that is as it was is told to be so; one that was written anew is told anew."""
    registry = hostile_server.respond = SyntheticRegistry("etag")
    scratch_registry.create_model("etag")
    scratch_registry.create_version("etag")
    anew = mlmodel_text([{"type": "long", "name": "anew", "required": True}])

    def write_real() -> None:
        scratch_registry.mlmodel_path(scratch_registry.source("etag", "1")).write_text(anew, encoding="utf-8")

    def write_synthetic() -> None:
        registry.models["etag"].versions[1].mlmodel = anew.encode()

    for url, write in ((scratch_registry.url, write_real), (hostile_server.url, write_synthetic)):
        with RegistryClient(url) as client:
            place = client.mlmodel_place(client.model_version("etag", "1"))
            first = client.mlmodel_at(place)
            assert first.content is not None
            assert first.validator is not None
            assert first.validator[0] == "If-None-Match"
            assert client.mlmodel_at(place, first).content is None
            write()
            second = client.mlmodel_at(place, first)
            assert second.content is not None
            assert second.content != first.content
    scratch_registry.delete_model("etag")


def test_conditional_request(hostile_server: HostileServer) -> None:
    """Where the server answers conditional requests, a file that is as it was is not sent again."""
    registry = hostile_server.respond = SyntheticRegistry("etag")
    registry.conditional = True
    with RegistryClient(hostile_server.url) as client:
        place = client.mlmodel_place(client.model_version("etag", "1"))
        first = client.mlmodel_at(place)
        again = client.mlmodel_at(place, client.mlmodel_at(place, first))
        assert again.content is None
        assert (again.digest, again.validator) == (first.digest, first.validator)
        assert registry.unchanged == {"etag/1": 2}


@pytest.mark.parametrize(("seconds", "conditional"), [(0, False), (3600, True)])
def test_time_of_a_change(hostile_server: HostileServer, seconds: int, conditional: bool) -> None:
    """A time of whole seconds is asked by only where nothing can have been written in that second since."""
    modified = format_datetime(datetime.now(UTC) - timedelta(seconds=seconds), usegmt=True)
    hostile_server.respond = lambda _: Answer(b"flavors: {}", headers={"Last-Modified": modified})
    with RegistryClient(hostile_server.url) as client:
        file = client.mlmodel_at(MlmodelPlace("/MLmodel", {}))
    assert file.validator == (("If-Modified-Since", modified) if conditional else None)
