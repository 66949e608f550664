"""A real MLflow server that is killed and frozen under a running service: no call for a known model fails."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from prinz_enricher.application import Application
from prinz_enricher.cli.demo import EXAMPLES
from prinz_enricher.client import Client
from prinz_enricher.config import Settings
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import enricher_service_pb2_grpc
from tests.support.deadline import wait_until
from tests.support.hostile_server import Answer, HostileServer, answer_json
from tests.support.mlflow_server import MlflowServer
from tests.support.registry_writer import RegistryWriter
from tests.support.running_service import LONG
from tests.support.token_server import CheckingProxy
from tests.support.typed_model import register_typed_model

pytestmark = pytest.mark.slow

WINE = "MLF-ElasticnetWineModel-1"
SETTINGS = {"refresh_interval": 0.2, "timeout": 1.0}


@contextmanager
def running(url: str) -> Iterator[tuple[Application, str]]:
    """Run the service before a registry."""
    settings = Settings.load(
        {"registry": {"url": url, **SETTINGS}, "server": {"port": 0, "grace_period": 5.0}}, environment={}
    )
    application = Application(settings)
    port = application.start()
    try:
        assert application.ready.wait(30)
        yield application, f"127.0.0.1:{port}"
    finally:
        application.stop()


@contextmanager
def calling_all_the_time(client: Client, name: str, score: Callable[[int], object]) -> Iterator[list[str]]:
    """Ask for lists, signatures and scores all the time, each in a thread of its own; give what failed."""
    ended = threading.Event()
    failed: list[str] = []
    counts = [0, 0, 0]

    questions: list[Callable[[int], object]] = [
        lambda _: next(model for model in client.list_models() if model.name == name),
        lambda _: client.signature(name),
        score,
    ]

    def ask(place: int) -> None:
        while not ended.is_set():
            try:
                questions[place](counts[place])
            except Exception as error:  # noqa: BLE001 - whatever it is, a caller sees it
                failed.append(repr(error))
            counts[place] += 1
            ended.wait(0.01)

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield failed
        assert min(counts) > 20
    finally:
        ended.set()
        for thread in threads:
            thread.join()


class Watching:
    """Watches the models in a thread, and keeps what it is told."""

    def __init__(self, channel: grpc.Channel) -> None:
        stub: Any = enricher_service_pb2_grpc.EnricherServiceStub(channel)  # type: ignore[no-untyped-call]  # generated
        self._stream = stub.WatchModels(pb.WatchModelsRequest())
        self.told: list[str] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for event in self._stream:
                kind = event.WhichOneof("event")
                name = event.removed_name or event.added.name or event.changed.name
                self.told.append(f"{kind} {name}".strip())
        except grpc.RpcError:
            return

    def end(self) -> None:
        """Watch no more."""
        self._stream.cancel()
        self._thread.join()


def health(channel: grpc.Channel, name: str) -> int:
    """Return the health of a name."""
    return int(health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=name)).status)


def test_outages(tmp_path: Path, unused_tcp_port: int) -> None:
    """Killed, started again, frozen: lists, signatures and scores go on, and a watch sees each change once."""
    with (
        MlflowServer(tmp_path, unused_tcp_port) as server,
        RegistryWriter(server.url, server.database, server.artifacts) as writer,
    ):
        register_typed_model(server.url)
        with (
            running(server.url) as (_, address),
            Client(address, timeout=LONG) as client,
            grpc.insecure_channel(address) as channel,
        ):

            def score(number: int) -> None:
                assert client.score("typed", [{"n": number}]).to_rows() == [{"output_0": 2 * number}]

            score(21)
            watching = Watching(channel)
            wait_until(lambda: watching.told == ["added typed", "bookmark"])
            with calling_all_the_time(client, "typed", score) as failed:
                wait_until(lambda: health(channel, "registry") == 1)
                server.kill()
                wait_until(lambda: health(channel, "registry") == 2)
                assert health(channel, "") == 1
                server.start()
                writer.create_model("after the kill")
                wait_until(lambda: "added after the kill" in watching.told, 100)

                server.freeze()
                wait_until(lambda: health(channel, "registry") == 2)
                server.thaw()
                writer.delete_model("after the kill")
                wait_until(lambda: "removed_name after the kill" in watching.told, 100)
                wait_until(lambda: health(channel, "registry") == 1, 100)
            watching.end()

            assert failed == []
            assert watching.told == [
                "added typed", "bookmark", "added after the kill", "removed_name after the kill",
            ]  # fmt: skip


def test_bad_answers(sample_registry: Any, hostile_server: HostileServer) -> None:
    """HTTP 500, 403, truncated JSON, pages in a circle: lists, signatures and scores go on, and it recovers."""
    through = CheckingProxy(sample_registry.url, lambda _: True)
    hostile_server.respond = through
    with (
        closing(through),
        running(hostile_server.url) as (_, address),
        Client(address, timeout=LONG) as client,
        grpc.insecure_channel(address) as channel,
    ):
        scores = client.score(WINE, EXAMPLES[WINE]).to_rows()

        def score(_: int) -> None:
            assert client.score(WINE, EXAMPLES[WINE]).to_rows() == scores

        with calling_all_the_time(client, WINE, score) as failed:
            for answer in (
                Answer(b"boom", 500),
                Answer(b"", 403),
                Answer(b'{"registered_models": ['),
                answer_json({"next_page_token": "again"}),
            ):
                wait_until(lambda: health(channel, "registry") == 1)
                hostile_server.respond = lambda _, answer=answer: answer  # type: ignore[misc]
                wait_until(lambda: health(channel, "registry") == 2)
                hostile_server.respond = through
            wait_until(lambda: health(channel, "registry") == 1, 60)
        assert failed == []
