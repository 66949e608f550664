"""Each change of a real MLflow registry shows with the next look, as the right event, exactly once."""

from collections.abc import Callable, Iterator

import pytest

from prinz_enricher.catalog import Catalog, CatalogModel, ChangeSet, default_version
from prinz_enricher.registry import RegistryClient
from tests.support.registry_writer import RegistryWriter
from tests.support.script import run_script

NAME, OTHER = "change me", "changed ć"


class Watcher:
    """Watches a catalog that looks when it is told to."""

    def __init__(self, catalog: Catalog, registry: RegistryWriter) -> None:
        self.catalog = catalog
        self.registry = registry
        self._told: list[ChangeSet] = []
        catalog.refresh()
        catalog.watch("", self._told.append)

    def look(self) -> list[str]:
        """Look once, and return what was told; a second look must tell nothing."""
        self.catalog.refresh()
        told = [f"{change.kind} {change.name}" for one in self._told for change in one.changes]
        self._told.clear()
        self.catalog.refresh()
        assert self._told == []
        return told

    def model(self, name: str = NAME) -> CatalogModel:
        """Return a model as it is known."""
        return self.catalog.snapshot().models[name]


@pytest.fixture
def watcher(scratch_registry: RegistryWriter) -> Iterator[Watcher]:
    """A watcher of a registry with many models, in small pages, and one model with two versions."""
    fillers = [f"filler-{number}" for number in range(3)]
    for name in (*fillers, NAME):
        scratch_registry.create_model(name)
        scratch_registry.create_version(name)
    scratch_registry.create_version(NAME)
    with RegistryClient(scratch_registry.url, models_per_page=2, versions_per_page=3) as client:
        watcher = Watcher(Catalog(client), scratch_registry)
        yield watcher
        for name in {*fillers, NAME, OTHER} & watcher.catalog.refresh().models.keys():
            scratch_registry.delete_model(name)


def test_models(watcher: Watcher) -> None:
    """A model is created, described, renamed and deleted."""
    registry = watcher.registry
    registry.create_model("a new one")
    assert watcher.look() == ["added a new one"]
    registry.delete_model("a new one")
    assert watcher.look() == ["removed a new one"]
    registry.describe_model(NAME, "Anew.")
    assert watcher.look() == [f"changed {NAME}"]
    assert watcher.model().description == "Anew."
    registry.rename_model(NAME, OTHER)
    assert watcher.look() == [f"removed {NAME}", f"added {OTHER}"]
    assert [version.fault for version in watcher.model(OTHER).versions] == ["", ""]
    registry.delete_model(OTHER)
    assert watcher.look() == [f"removed {OTHER}"]


CHANGES: dict[str, tuple[Callable[[RegistryWriter], object], Callable[[CatalogModel], object], object]] = {
    "add": (lambda r: r.create_version(NAME), lambda m: [v.version for v in m.versions], ["3", "2", "1"]),
    "delete": (lambda r: r.delete_version(NAME, "2"), lambda m: [v.version for v in m.versions], ["1"]),
    "describe": (lambda r: r.describe_version(NAME, "1", "It."), lambda m: m.by_number["1"].description, "It."),
    "tag": (lambda r: r.set_tag(NAME, "team", "risk"), lambda m: m.tags, {"team": "risk"}),
    "version tag": (lambda r: r.set_version_tag(NAME, "2", "k", "v"), lambda m: m.by_number["2"].tags, {"k": "v"}),
    "alias": (lambda r: r.set_alias(NAME, "best", "1"), lambda m: m.by_number["1"].aliases, ("best",)),
    "status": (lambda r: r.set_status(NAME, "1", "PENDING_REGISTRATION"), lambda m: m.by_number["1"].ready, False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_versions_tags_and_aliases(watcher: Watcher, change: str) -> None:
    """Whatever changes of a model or its versions is one event of that model, with what is now."""
    act, tell, wanted = CHANGES[change]
    assert tell(watcher.model()) != wanted
    act(watcher.registry)
    assert watcher.look() == [f"changed {NAME}"]
    assert tell(watcher.model()) == wanted


def test_what_was_set_is_moved_and_deleted(watcher: Watcher) -> None:
    """Aliases move, and aliases and tags go."""
    registry = watcher.registry
    registry.set_alias(NAME, "best", "1")
    registry.set_tag(NAME, "team", "risk")
    registry.set_version_tag(NAME, "1", "k", "v")
    assert watcher.look() == [f"changed {NAME}"]
    registry.set_alias(NAME, "best", "2")
    assert watcher.look() == [f"changed {NAME}"]
    assert watcher.model().aliases == {"best": "2"}
    deletions: list[Callable[[], None]] = [
        lambda: registry.delete_alias(NAME, "best"),
        lambda: registry.delete_tag(NAME, "team"),
        lambda: registry.delete_version_tag(NAME, "1", "k"),
    ]
    for delete in deletions:
        delete()
        assert watcher.look() == [f"changed {NAME}"]
    assert (watcher.model().aliases, watcher.model().tags, watcher.model().by_number["1"].tags) == ({}, {}, {})


SET_SIGNATURE = """
import sys
import mlflow
from mlflow.models import ModelSignature, set_signature
from mlflow.types import ColSpec, Schema

mlflow.set_tracking_uri(sys.argv[1])
set_signature(sys.argv[2], ModelSignature(Schema([ColSpec("long", "anew")]), Schema([ColSpec("double")])))
"""


def test_stages(watcher: Watcher) -> None:
    """A version that goes to another stage is a change, and so is one that is archived for it."""
    registry = watcher.registry
    registry.set_stage(NAME, "1", "Production")
    assert watcher.look() == [f"changed {NAME}"]
    assert [version.stage for version in watcher.model().versions] == ["None", "Production"]
    registry.set_stage(NAME, "2", "Archived")
    assert watcher.look() == [f"changed {NAME}"]
    assert default_version(watcher.model()) is watcher.model().by_number["1"]
    registry.set_stage(NAME, "2", "Production", archive_others=True)
    assert watcher.look() == [f"changed {NAME}"]
    assert [version.stage for version in watcher.model().versions] == ["Production", "Archived"]


def test_set_signature(watcher: Watcher) -> None:
    """MLflow's own set_signature, which moves no time in the registry, shows with the next look."""
    registry = watcher.registry
    before = watcher.model().by_number["1"]
    model_uri = f"runs:/{before.run_id}/model"
    run_script(SET_SIGNATURE, registry.url, model_uri)
    assert watcher.look() == [f"changed {NAME}"]
    after = watcher.model().by_number["1"].signature
    assert before.signature is not None
    assert after is not None
    assert [field.name for field in after.inputs] == ["anew"]
    assert after.digest != before.signature.digest
    assert watcher.model().by_number["2"].signature == before.signature
