"""The catalog before a registry that fails."""

import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from prinz_enricher.catalog import Catalog, Snapshot
from prinz_enricher.catalog import model_files as model_files_module
from prinz_enricher.errors import RegistryUnavailable
from prinz_enricher.registry import RegistryClient, RegistryError
from tests.support.hostile_server import Answer, HostileServer, Request, answer_json
from tests.support.registry_writer import mlmodel_text


class FakeRegistry:
    """Answers like MLflow for some models of one version each, until a test breaks it."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.files: dict[str, Answer] = {}
        self.asked: Counter[str] = Counter()

    def __call__(self, request: Request) -> Answer:
        """Answer one request."""
        action = request.path.rsplit("/", 1)[1]
        if request.path.endswith("registered-models/search"):
            return answer_json({"registered_models": [{"name": name} for name in self.names]})
        if request.path.endswith("model-versions/search"):
            return answer_json({"model_versions": [{"name": n, "version": "1", "source": n} for n in self.names]})
        (name,) = request.query["name"]
        if action == "get-download-uri":
            return answer_json({"artifact_uri": f"s3://bucket/{name}"})
        self.asked[name] += 1
        return self.files.get(name, Answer(mlmodel_text().encode()))


@pytest.fixture
def catalog(hostile_server: HostileServer) -> Iterator[Catalog]:
    """A catalog of the hostile server."""
    with RegistryClient(hostile_server.url, timeout=2.0) as client:
        yield Catalog(client, refresh_interval=0.05)


def fault(snapshot: Snapshot, name: str) -> str:
    """Return what is amiss with a model's only version."""
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
    registry = hostile_server.respond = FakeRegistry("wine")
    good = catalog.refresh()
    registry.names.append("fraud")
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


def test_files_are_read_once(catalog: Catalog, hostile_server: HostileServer) -> None:
    """Each MLmodel file is read once; one that is refused for good is not asked for again either."""
    registry = hostile_server.respond = FakeRegistry("a", "b", "c")
    registry.files["c"] = Answer(b"", 404)
    catalog.refresh()
    registry.names.append("d")
    snapshot = catalog.refresh()
    assert registry.asked == dict.fromkeys("abcd", 1)
    assert [fault(snapshot, name) for name in "abd"] == [""] * 3
    assert fault(snapshot, "c") == "has no MLmodel file where the registry says that it is"


def test_passing_fault_of_a_file_is_tried_again(catalog: Catalog, hostile_server: HostileServer) -> None:
    """A file that can't be read now is a fault of its version only, and read by a later refresh."""
    registry = hostile_server.respond = FakeRegistry("a", "b")
    registry.files["b"] = Answer(b"", 503)
    snapshot = catalog.refresh()
    assert (fault(snapshot, "a"), "HTTP 503" in fault(snapshot, "b")) == ("", True)
    assert catalog.refresh() is snapshot
    registry.files.clear()
    assert fault(catalog.refresh(), "b") == ""
    assert registry.asked == {"a": 1, "b": 3}


def test_known_files_outlive_a_failing_store(catalog: Catalog, hostile_server: HostileServer) -> None:
    """What is known of a version stays where its file can't be read any more."""
    registry = hostile_server.respond = FakeRegistry("a")
    good = catalog.refresh()
    registry.files["a"] = Answer(b"", 500)
    assert catalog.refresh() is good


def test_deleted_models_are_forgotten(catalog: Catalog, hostile_server: HostileServer) -> None:
    """A model that is deleted and registered again is read anew."""
    registry = hostile_server.respond = FakeRegistry("a", "b")
    catalog.refresh()
    registry.names.remove("b")
    assert list(catalog.refresh().models) == ["a"]
    registry.names.append("b")
    catalog.refresh()
    assert registry.asked == {"a": 1, "b": 2}


def test_silent_store_does_not_hold_the_refresh(hostile_server: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some files without an answer the others wait for the next refresh, instead of a timeout each."""
    monkeypatch.setattr(model_files_module, "MAX_UNREACHABLE", 2)
    names = [f"model-{number:02}" for number in range(20)]
    registry = hostile_server.respond = FakeRegistry(*names)
    registry.files = dict.fromkeys(names, Answer(b"{}", declared_length=9))
    with RegistryClient(hostile_server.url, timeout=2.0) as client:
        snapshot = Catalog(client, threads=1).refresh()
    assert sum(registry.asked.values()) == 2
    assert [fault(snapshot, name) for name in names[2:]] == ["was not read yet"] * 18


def test_thread_recovers_by_itself(catalog: Catalog, hostile_server: HostileServer) -> None:
    """The thread outlives failures of the registry and of subscribers."""
    registry = FakeRegistry("wine")
    hostile_server.respond = lambda _: Answer(b"", 500)
    recovered = threading.Event()

    def fail(_old: Snapshot | None, _new: Snapshot) -> None:
        raise RuntimeError("a subscriber fails")

    catalog.subscribe(fail)
    end = catalog.subscribe(lambda _old, _new: recovered.set())
    with catalog:
        while not hostile_server.requests:
            assert not catalog.ready.wait(0.01)
        hostile_server.respond = registry
        assert recovered.wait(20)
        end()
        recovered.clear()
        registry.names.append("fraud")
        while "fraud" not in catalog.snapshot().models:
            assert not recovered.wait(0.01)


def test_stop_during_a_refresh(catalog: Catalog, hostile_server: HostileServer) -> None:
    """A refresh that is stopped half-way changes nothing."""
    registry = FakeRegistry("a", "b")
    stopping = threading.Event()

    def respond(request: Request) -> Answer:
        if "get-artifact" in request.path:
            stopping.set()
            assert catalog._stopping.wait(20)
        return registry(request)

    hostile_server.respond = respond
    catalog.start()
    assert stopping.wait(20)
    catalog.stop()
    with pytest.raises(RegistryUnavailable):
        catalog.snapshot()
