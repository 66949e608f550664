"""What callers see while the registry fails, changes, or is slow."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from prinz_enricher.application import Application
from prinz_enricher.config import Settings
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import model_pb2
from prinz_enricher.service.in_use import InUse
from tests.support.deadline import wait_until
from tests.support.hostile_server import Answer, HostileServer, Request, answer_json
from tests.support.running_service import Service, refused
from tests.support.synthetic_registry import SyntheticRegistry

pytestmark = pytest.mark.slow

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
WINE = pb.GetSignatureRequest(model=model_pb2.ModelRef(name="wine"))


@contextmanager
def serving(url: str, **registry: object) -> Iterator[Service]:
    """Run the service before a registry."""
    section: Mapping[str, object] = {"url": url, "refresh_interval": 0.05, "timeout": 2.0, **registry}
    sections = {"registry": section, "server": {"port": 0, "grace_period": 5.0}, "api": {"port": 0}}
    settings = Settings.load(sections, environment={})
    application = Application(settings)
    port = application.start()
    try:
        yield Service(application, f"127.0.0.1:{port}", url)
    finally:
        application.stop()


def health(service: Service, name: str) -> int:
    """Return the health of a name."""
    with service.channel() as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name))
    return int(answer.status)


def document(service: Service) -> tuple[str, int]:
    """Return the tag of the document for Nussknacker's own enricher, and how many operations it has."""
    api = service.application._api
    assert api is not None
    port = api._listener.getsockname()[1]
    answer = httpx.get(f"http://127.0.0.1:{port}/nussknacker/openapi.json", trust_env=False, timeout=30)
    return answer.headers["etag"], len(answer.json()["paths"])


@pytest.fixture
def registry(hostile_server: HostileServer) -> SyntheticRegistry:
    """A registry of three models."""
    synthetic = hostile_server.respond = SyntheticRegistry("fraud", "lab", "wine")
    return synthetic


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"boom", 500),
        Answer(b"", 403),
        Answer(b'{"registered_models": ['),
        Answer(b"{}", declared_length=9),
        answer_json({"next_page_token": "again"}),
    ],
    ids=["500", "403", "truncated", "cut", "circle"],
)
def test_known_models_go_on(hostile_server: HostileServer, registry: SyntheticRegistry, answer: Answer) -> None:
    """However the registry fails, lists and documents go on, health tells, and what is new comes by itself."""
    with serving(hostile_server.url) as service:
        assert service.application.ready.wait(30)
        stub = service.stub()
        before = stub.ListModels(pb.ListModelsRequest(view=pb.MODEL_VIEW_FULL))
        wait_until(lambda: health(service, "registry") == SERVING)
        described = document(service)
        assert described[1] == 6
        hostile_server.respond = lambda _: answer
        wait_until(lambda: health(service, "registry") == NOT_SERVING)
        for _ in range(20):
            assert stub.ListModels(pb.ListModelsRequest(view=pb.MODEL_VIEW_FULL)).models == before.models
            assert stub.GetSignature(WINE).signature == before.models[-1].versions[0].signature
        assert health(service, "") == health(service, "model/wine") == SERVING
        assert document(service) == described
        registry.add("new")
        hostile_server.respond = registry
        wait_until(lambda: "new" in {model.name for model in stub.ListModels(pb.ListModelsRequest()).models})
        wait_until(lambda: health(service, "registry") == SERVING)


def test_health_is_known_from_the_first_call_on(
    hostile_server: HostileServer, registry: SyntheticRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the disk takes for what is in use: a probe that hears NOT_FOUND would count as a failure."""
    go = threading.Event()

    def save(_: InUse, *, at_once: bool = False) -> None:
        assert go.wait(60), at_once

    monkeypatch.setattr(InUse, "save", save)
    with serving(hostile_server.url) as service:
        try:
            assert {health(service, name) for name in ("", "registry")} <= {SERVING, NOT_SERVING}
            assert hostile_server.respond is registry
        finally:
            go.set()


def test_start_while_the_registry_is_down(
    hostile_server: HostileServer, registry: SyntheticRegistry, tmp_path: Path
) -> None:
    """A service that starts without its registry serves what an earlier one stored, and says how old that is."""
    folder = str(tmp_path / "catalog")
    with serving(hostile_server.url, snapshot_folder=folder) as service:
        assert service.application.ready.wait(30)
        before = service.stub().ListModels(pb.ListModelsRequest(view=pb.MODEL_VIEW_FULL))
        described = document(service)
    hostile_server.respond = lambda _: Answer(b"", 503)
    with serving(hostile_server.url, snapshot_folder=folder) as service:
        assert service.application.ready.wait(30)
        stub = service.stub()
        after = stub.ListModels(pb.ListModelsRequest(view=pb.MODEL_VIEW_FULL))
        assert after.models == before.models
        assert document(service) == described
        assert after.catalog_revision == before.catalog_revision
        assert after.catalog_age.ToNanoseconds() > 0
        assert stub.GetSignature(WINE).signature.digest
        wait_until(lambda: health(service, "") == SERVING)
        assert health(service, "registry") == NOT_SERVING
        hostile_server.respond = registry
        wait_until(lambda: health(service, "registry") == SERVING)
        assert stub.ListModels(pb.ListModelsRequest(view=pb.MODEL_VIEW_FULL)).models == before.models
    with serving(f"{hostile_server.url}/other", snapshot_folder=folder) as service:
        hostile_server.respond = lambda _: Answer(b"", 503)
        assert refused(service.stub().ListModels, pb.ListModelsRequest()).reason == "REGISTRY_UNAVAILABLE"


def test_many_callers_fetch_once(hostile_server: HostileServer, registry: SyntheticRegistry) -> None:
    """500 callers at once, before and after a slow file is there: none waits for it, and it is fetched once."""
    go_on = threading.Event()

    def respond(request: Request) -> Answer:
        if "/artifacts/" in request.path:
            assert go_on.wait(60)
        return registry(request)

    hostile_server.respond = respond
    with serving(hostile_server.url, refresh_interval=3600, timeout=60) as service, service.channel():
        stub = service.stub()

        def ask() -> str:
            try:
                return str(stub.GetSignature(WINE, timeout=60).signature.digest)
            except grpc.RpcError as error:
                return error.code().name

        def ask_all() -> set[str]:
            calls = [stub.GetSignature.future(WINE, timeout=60) for _ in range(500)]
            return {
                call.code().name if call.exception() is not None else str(call.result().signature.digest)
                for call in calls
            }

        assert ask_all() == {"UNAVAILABLE"}
        go_on.set()
        wait_until(lambda: ask() != "UNAVAILABLE")
        assert len(ask_all()) == 1
    assert {key: count for key, count in registry.asked.items() if key.endswith("/1")} == {
        "fraud/1": 1, "lab/1": 1, "wine/1": 1,
    }  # fmt: skip


def test_pages_are_of_one_list(hostile_server: HostileServer, registry: SyntheticRegistry) -> None:
    """Pages go on with the list that the first was of, though the catalog has changed."""
    with serving(hostile_server.url) as service:
        assert service.application.ready.wait(30)
        stub = service.stub()
        first = stub.ListModels(pb.ListModelsRequest(page_size=1))
        registry.remove("lab")
        registry.add("later")
        wait_until(lambda: stub.ListModels(pb.ListModelsRequest()).catalog_revision != first.catalog_revision)
        second = stub.ListModels(pb.ListModelsRequest(page_size=9, page_token=first.next_page_token))
        assert [model.name for model in second.models] == ["lab", "wine"]
        assert second.catalog_revision == first.catalog_revision


def test_operator_chooses_what_is_served(hostile_server: HostileServer, registry: SyntheticRegistry) -> None:
    """Settings choose models by name and tag; the others are not there, and their files are not asked for."""
    registry.models["lab"].tags = {"stage": "lab-1"}
    with serving(hostile_server.url, include=["lab", "wine", "tag:team=*"], exclude=["tag:stage=lab-*"]) as service:
        assert service.application.ready.wait(30)
        assert [model.name for model in service.stub().ListModels(pb.ListModelsRequest()).models] == ["wine"]
        assert registry.asked["lab/1"] == registry.asked["fraud/1"] == 0


def test_model_has_a_policy_of_its_own(hostile_server: HostileServer, registry: SyntheticRegistry) -> None:
    """The tag prinz.default says which version a call without one means."""
    registry.add("wine", 3).tags = {"prinz.default": "alias:nobody, version:2"}
    with serving(hostile_server.url) as service:
        assert service.application.ready.wait(30)
        stub = service.stub()
        assert stub.GetSignature(WINE).model.version == "2"
        registry.models["wine"].tags = {"prinz.default": "latest"}
        wait_until(lambda: stub.GetSignature(WINE).model.version == "3")
