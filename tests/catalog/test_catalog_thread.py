"""When the catalog looks at its registry, and what it serves meanwhile."""

import threading
from collections.abc import Iterator

import pytest

from prinz_enricher.catalog import Catalog, ChangeSet, resolve, scorable
from prinz_enricher.catalog import catalog as catalog_module
from prinz_enricher.errors import ModelLoading, RegistryUnavailable, ResyncRequired
from prinz_enricher.registry import RegistryClient, RegistryError
from tests.support.deadline import wait_until
from tests.support.hostile_server import Answer, HostileServer, Request
from tests.support.synthetic_registry import SyntheticRegistry

LISTS = "registered-models/search"


@pytest.fixture
def registry(hostile_server: HostileServer) -> SyntheticRegistry:
    """A registry of two models."""
    synthetic = hostile_server.respond = SyntheticRegistry("wine", "fraud")
    return synthetic


@pytest.fixture
def client(hostile_server: HostileServer) -> Iterator[RegistryClient]:
    """A client of it."""
    with RegistryClient(hostile_server.url, timeout=5.0) as opened:
        yield opened


def test_request_refresh(client: RegistryClient, registry: SyntheticRegistry) -> None:
    """A hint brings the next look forward; a thousand hints are one."""
    with Catalog(client, refresh_interval=3600) as catalog:
        assert catalog.ready.wait(20)
        registry.add("new")
        looks = registry.asked[LISTS]
        for _ in range(1000):
            catalog.request_refresh()
        wait_until(lambda: "new" in catalog.snapshot().models)
        # One that came when the look had just begun may lead to another.
        assert registry.asked[LISTS] <= looks + 2
        # None is left over: the next one comes only when it is asked for.
        registry.add("newer")
        catalog.prioritize(catalog.snapshot().models["wine"].versions[0])
        assert "newer" not in catalog.snapshot().models
        catalog.request_refresh()
        wait_until(lambda: "newer" in catalog.snapshot().models)


def test_hint_during_a_look_is_not_lost(
    client: RegistryClient, hostile_server: HostileServer, registry: SyntheticRegistry
) -> None:
    """A hint that comes while the lists are read leads to another look."""
    catalog = Catalog(client, refresh_interval=3600)
    once = iter([True])

    def respond(request: Request) -> Answer:
        answer = registry(request)
        if request.path.endswith("model-versions/search") and next(once, False):
            registry.add("new")
            catalog.request_refresh()
        return answer

    hostile_server.respond = respond
    with catalog:
        wait_until(lambda: catalog.ready.is_set() and "new" in catalog.snapshot().models)


def test_all_is_listed_before_every_file_is_read(
    client: RegistryClient, hostile_server: HostileServer, registry: SyntheticRegistry,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A registry with slow files is listed whole at once; signatures come, and those that calls wait for come first."""
    monkeypatch.setattr(catalog_module, "READING_SECONDS", 0.0)
    go_on = threading.Event()

    def respond(request: Request) -> Answer:
        if "/artifacts/" in request.path:
            assert go_on.wait(30)
        return registry(request)

    hostile_server.respond = respond
    with Catalog(client, refresh_interval=3600) as catalog:
        assert catalog.ready.wait(20)
        snapshot = catalog.snapshot()
        assert list(snapshot.models) == ["fraud", "wine"]
        version = resolve(snapshot, "wine")
        assert (version.pending, version.fault) == (True, "was not read yet")
        with pytest.raises(ModelLoading) as refused:
            scorable(version)
        assert refused.value.retry_after
        monkeypatch.setattr(catalog_module, "READING_SECONDS", 30.0)
        catalog.prioritize(version)
        go_on.set()
        wait_until(lambda: resolve(catalog.snapshot(), "wine").signature is not None)
        assert not scorable(resolve(catalog.snapshot(), "wine")).fault


def test_watch_of_a_live_catalog(client: RegistryClient, registry: SyntheticRegistry) -> None:
    """A watch begins with what is there, gets each change once, and is resumed; before the first look there is none."""
    catalog = Catalog(client)
    with pytest.raises(RegistryUnavailable):
        catalog.watch("", lambda _: None)
    catalog.refresh()
    told: list[ChangeSet] = []
    watch = catalog.watch("", told.append)
    assert watch.snapshot is catalog.snapshot()
    registry.add("new")
    registry.remove("wine")
    catalog.refresh()
    catalog.refresh()
    assert [[f"{change.kind} {change.name}" for change in one.changes] for one in told] == [
        ["removed wine", "added new"]
    ]
    assert catalog.watch(watch.token, told.append).missed == tuple(told)
    with pytest.raises(ResyncRequired):
        catalog.watch("nonsense", told.append)


def test_state(client: RegistryClient, registry: SyntheticRegistry, hostile_server: HostileServer) -> None:
    """The state tells what there is, how old it is, and whether the registry can be read; a turn is told once."""
    turns: list[bool] = []
    catalog = Catalog(client)
    catalog.on_stale_change(lambda: turns.append(catalog.stale))
    never = catalog.state()
    assert (never.models, never.age, never.stale, never.revision, never.refreshes) == (0, None, True, "", 0)
    registry.models["wine"].versions[1].mlmodel = None
    catalog.refresh()
    catalog.refresh()
    good = catalog.state()
    assert (good.models, good.versions, good.faults, good.stale, good.fault) == (2, 2, 1, False, "")
    assert good.revision == catalog.snapshot().revision
    assert good.last_refresh_seconds > 0
    hostile_server.respond = lambda _: Answer(b"", 503)
    for _ in range(3):
        with pytest.raises(RegistryError):
            catalog.refresh()
    bad = catalog.state()
    assert (bad.models, bad.stale, bad.failures_in_row, bad.refreshes) == (2, True, 3, 5)
    assert bad.age is not None
    assert good.age is not None
    assert bad.age >= good.age
    hostile_server.respond = registry
    catalog.refresh()
    assert catalog.state().failures_in_row == 0
    assert turns == [False, True, False]


def test_unforeseen_error_does_not_end_the_thread(
    client: RegistryClient, registry: SyntheticRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody foresaw is a failed look like others; the next one goes on."""
    fail = threading.Event()
    real = client.registered_models

    def list_models() -> object:
        if fail.is_set():
            raise RuntimeError("unforeseen")
        return real()

    monkeypatch.setattr(client, "registered_models", list_models)
    with Catalog(client, refresh_interval=0.05) as catalog:
        assert catalog.ready.wait(20)
        fail.set()
        wait_until(lambda: catalog.stale)
        registry.add("new")
        fail.clear()
        wait_until(lambda: "new" in catalog.snapshot().models)
        assert not catalog.stale


def test_snapshots_share_what_did_not_change(client: RegistryClient, registry: SyntheticRegistry) -> None:
    """From one snapshot to the next only the models that changed are new objects."""
    catalog = Catalog(client)
    first = catalog.refresh()
    registry.models["wine"].tags = {"team": "risk"}
    second = catalog.refresh()
    assert second.models["fraud"] is first.models["fraud"]
    assert second.models["wine"].versions[0].signature is first.models["wine"].versions[0].signature
    assert catalog.find(first.revision) is first
