"""The catalog before a real MLflow server."""

import threading
from collections.abc import Iterator
from typing import Protocol

import pytest

from prinz_enricher.catalog import Catalog, CatalogVersion, Snapshot
from prinz_enricher.errors import RegistryUnavailable
from prinz_enricher.registry import RegistryClient
from prinz_enricher.signature import Origin, Scalar, ScalarKind
from tests.support.registry_writer import RegistryWriter, mlmodel_text


class Register(Protocol):
    """Registers a model with one version; returns the version's number."""

    def __call__(self, name: str, mlmodel: str | None = None) -> str:
        """Do so."""


@pytest.fixture
def catalog(scratch_registry: RegistryWriter) -> Iterator[Catalog]:
    """A catalog that a test refreshes itself."""
    with RegistryClient(scratch_registry.url, models_per_page=10, versions_per_page=10) as client:
        yield Catalog(client)


@pytest.fixture
def make(scratch_registry: RegistryWriter) -> Iterator[Register]:
    """Return a function that registers a model with one version; both are gone after the test."""
    made: list[str] = []

    def register(name: str, mlmodel: str | None = None) -> str:
        scratch_registry.create_model(name)
        made.append(name)
        return scratch_registry.create_version(name, mlmodel)

    yield register
    for name in made:
        scratch_registry.delete_model(name)


def only_version(snapshot: Snapshot, name: str) -> CatalogVersion:
    """Return the one version of a model."""
    (version,) = snapshot.models[name].versions
    return version


def test_a_whole_version(catalog: Catalog, scratch_registry: RegistryWriter, make: Register) -> None:
    """Aliases come from the models, flavors and signature from the MLmodel file, the rest from the versions."""
    make("whole")
    for _ in range(9):
        scratch_registry.create_version("whole")
    scratch_registry.set_alias("whole", "champion", "10")
    scratch_registry.set_alias("whole", "blue", "10")
    snapshot = catalog.refresh()
    model = snapshot.models["whole"]
    assert [version.version for version in model.versions] == [str(number) for number in range(10, 0, -1)]
    version = model.versions[0]
    assert version.aliases == ("blue", "champion")
    assert version.flavors == ("python_function", "sklearn")
    assert (version.ready, version.fault) == (True, "")
    assert version.signature is not None
    assert version.signature.origin is Origin.DECLARED
    assert [(f.name, f.type) for f in version.signature.inputs] == [("alcohol", Scalar(ScalarKind.DOUBLE))]
    assert list(snapshot.models) == sorted(snapshot.models)


def test_broken_versions_are_listed_with_their_faults(
    catalog: Catalog, scratch_registry: RegistryWriter, make: Register
) -> None:
    """Five ways to be broken: each is named by its version, and no other version is touched."""
    make("fine")
    make("no-signature", mlmodel_text(signed=False))
    make("no-yaml", "{[")
    make("no-type", mlmodel_text([{"type": "quaternion", "name": "q"}]))
    make("pending")
    make("artifact-gone")
    scratch_registry.set_status("pending", "1", "PENDING_REGISTRATION")
    scratch_registry.mlmodel_path(scratch_registry.source("artifact-gone", "1")).unlink()
    snapshot = catalog.refresh()
    assert only_version(snapshot, "fine").fault == ""
    unsigned = only_version(snapshot, "no-signature")
    assert unsigned.signature is not None
    assert (unsigned.signature.origin, unsigned.fault) == (Origin.MISSING, "has no signature")
    faults = {name: only_version(snapshot, name).fault for name in ("no-yaml", "no-type", "pending", "artifact-gone")}
    assert faults == {
        "no-yaml": "can't be read: its MLmodel file can't be read as YAML",
        "no-type": faults["no-type"],
        "pending": "is PENDING_REGISTRATION in the registry",
        "artifact-gone": faults["artifact-gone"],
    }
    gone = "has no MLmodel file where the registry says that it is (RESOURCE_DOES_NOT_EXIST: No such artifact: '"
    assert faults["artifact-gone"].startswith(gone)
    assert "quaternion" in faults["no-type"]
    assert all(only_version(snapshot, name).signature is None for name in faults)
    assert not only_version(snapshot, "pending").ready


def test_changes_show_and_nothing_else_does(catalog: Catalog, scratch_registry: RegistryWriter, make: Register) -> None:
    """Each change makes one new revision; a refresh without a change makes none."""
    make("changing")
    seen: list[tuple[Snapshot | None, Snapshot]] = []
    catalog.subscribe(lambda old, new: seen.append((old, new)))
    first = catalog.refresh()
    assert catalog.refresh() is first
    scratch_registry.set_alias("changing", "champion", "1")
    second = catalog.refresh()
    scratch_registry.set_tag("changing", "team", "risk")
    third = catalog.refresh()
    scratch_registry.create_version("changing")
    fourth = catalog.refresh()
    assert seen == [(None, first), (first, second), (second, third), (third, fourth)]
    assert len({snapshot.revision for snapshot in (first, second, third, fourth)}) == 4
    assert second.models["changing"].aliases == {"champion": "1"}
    assert third.models["changing"].tags == {"team": "risk"}
    assert len(fourth.models["changing"].versions) == 2


def test_same_content_has_the_same_revision(catalog: Catalog, scratch_registry: RegistryWriter) -> None:
    """Two services before one registry tell the same revision, however large their pages are."""
    with RegistryClient(scratch_registry.url) as other:
        assert Catalog(other).refresh().revision == catalog.refresh().revision


def test_thread_sees_changes(scratch_registry: RegistryWriter, make: Register) -> None:
    """The thread reads at once, then again and again, and ends when it is told to."""
    appeared = threading.Event()
    others = set(threading.enumerate())
    with RegistryClient(scratch_registry.url) as client:
        catalog = Catalog(client, refresh_interval=0.1)
        catalog.subscribe(lambda _, new: appeared.set() if "appearing" in new.models else None)
        with pytest.raises(RegistryUnavailable):
            catalog.snapshot()
        with pytest.raises(RegistryUnavailable):
            catalog.age()
        with catalog:
            assert catalog.ready.wait(20)
            assert catalog.age() < 20
            make("appearing")
            assert appeared.wait(20)
    assert not [one for one in threading.enumerate() if one.name == "catalog" and one not in others]
    assert "appearing" in catalog.snapshot().models
