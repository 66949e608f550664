"""The catalog before a registry that fails."""

import threading
from collections.abc import Iterator

import pytest

from prinz_enricher.catalog import Catalog, Snapshot
from prinz_enricher.catalog import model_files as model_files_module
from prinz_enricher.errors import RegistryUnavailable
from prinz_enricher.registry import RegistryClient, RegistryError
from tests.support.deadline import wait_until
from tests.support.hostile_server import Answer, HostileServer, Request, answer_json
from tests.support.synthetic_registry import SyntheticRegistry


@pytest.fixture
def catalog(hostile_server: HostileServer) -> Iterator[Catalog]:
    """A catalog of the hostile server."""
    with RegistryClient(hostile_server.url, timeout=2.0) as client:
        yield Catalog(client, refresh_interval=0.05)


def fault(snapshot: Snapshot, name: str) -> str:
    """Return what is wrong with a model's only version."""
    return snapshot.models[name].versions[0].fault


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"boom", 500),
        Answer(b"", 403),
        Answer(b'{"registered_models": ['),
        Answer(b"{}", declared_length=9),
        Answer(b"", 302, {"Location": "http://127.0.0.1:1/"}),
        answer_json({"next_page_token": "again"}),
        answer_json({"registered_models": {}, "model_versions": {}}),
        answer_json({"registered_models": [], "next_page_token": 5}),
    ],
    ids=["500", "403", "truncated", "cut", "redirect", "circle", "no-list", "no-token"],
)
@pytest.mark.parametrize("path", ["registered-models/search", "model-versions/search"])
def test_failed_refresh_changes_nothing(
    catalog: Catalog, hostile_server: HostileServer, path: str, answer: Answer
) -> None:
    """A refresh that fails, half-way too, leaves the snapshot; the next good one goes on."""
    registry = hostile_server.respond = SyntheticRegistry("wine")
    good = catalog.refresh()
    registry.add("fraud")
    hostile_server.respond = lambda request: answer if request.path.endswith(path) else registry(request)
    with pytest.raises(RegistryError):
        catalog.refresh()
    assert catalog.snapshot() is good
    hostile_server.respond = registry
    assert list(catalog.refresh().models) == ["fraud", "wine"]


def test_never_read(catalog: Catalog, hostile_server: HostileServer) -> None:
    """A catalog that never read its registry says why."""
    hostile_server.respond = lambda _: Answer(b"", 403)
    with pytest.raises(RegistryError):
        catalog.refresh()
    with pytest.raises(RegistryUnavailable, match="HTTP 403"):
        catalog.snapshot()
    assert not catalog.ready.is_set()


def test_silent_store_does_not_hold_the_refresh(hostile_server: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some files without an answer the others wait for the next refresh, instead of a timeout each."""
    monkeypatch.setattr(model_files_module, "MAX_UNREACHABLE", 2)
    names = [f"model-{number:02}" for number in range(20)]
    registry = hostile_server.respond = SyntheticRegistry(*names)
    registry.override = {f"{name}/1": Answer(b"{}", declared_length=9) for name in names}
    with RegistryClient(hostile_server.url, timeout=2.0) as client:
        snapshot = Catalog(client, threads=1).refresh()
    assert sum(registry.asked[f"{name}/1"] for name in names) == 2
    assert [fault(snapshot, name) for name in names[2:]] == ["was not read yet"] * 18


def test_thread_recovers_by_itself(catalog: Catalog, hostile_server: HostileServer) -> None:
    """The thread outlives failures of the registry and of subscribers."""
    registry = SyntheticRegistry("wine")
    hostile_server.respond = lambda _: Answer(b"", 500)
    recovered = threading.Event()

    def fail(_old: Snapshot | None, _new: Snapshot) -> None:
        raise RuntimeError("a subscriber fails")

    catalog.subscribe(fail)
    catalog.subscribe(lambda _old, _new: recovered.set())
    with catalog:
        while not hostile_server.requests:
            assert not catalog.ready.wait(0.01)
        hostile_server.respond = registry
        assert recovered.wait(20)
        registry.add("fraud")
        wait_until(lambda: "fraud" in catalog.snapshot().models)


def test_stop_during_a_refresh(catalog: Catalog, hostile_server: HostileServer) -> None:
    """A refresh that is stopped half-way changes nothing."""
    registry = SyntheticRegistry("a", "b")
    stopping = threading.Event()

    def respond(request: Request) -> Answer:
        if "/artifacts/" in request.path:
            stopping.set()
            assert catalog._stopping.wait(20)
        return registry(request)

    hostile_server.respond = respond
    catalog.start()
    assert stopping.wait(20)
    catalog.stop()
    with pytest.raises(RegistryUnavailable):
        catalog.snapshot()
