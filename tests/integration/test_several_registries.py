"""Two registries in one service: one as it is, one under a prefix and with a password of its own."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from prinz_enricher.cli.demo import EXAMPLES
from prinz_enricher.client import Client, ServiceError
from prinz_enricher.contract import enricher_service_pb2 as pb
from tests.support.basic_auth_server import BasicAuthServer
from tests.support.deadline import wait_until
from tests.support.running_service import LONG, Service
from tests.support.serve_process import serve

pytestmark = pytest.mark.slow

WINE = "MLF-ElasticnetWineModel-1"


@pytest.fixture
def settings(sample_registry: Any, basic_auth_registry: BasicAuthServer, tmp_path: Path) -> Path:
    """The settings of both, and of one that is not there."""
    file = tmp_path / "settings.toml"
    file.write_text(
        f"""
        [registry]
        url = "{sample_registry.url}"

        [registries.team]
        url = "{basic_auth_registry.url}"
        username = "{basic_auth_registry.user}"

        [registries.gone]
        url = "http://127.0.0.1:9"
        prefix = "gone-"
        """
    )
    return file


def test_both_are_served(service: Service, settings: Path, basic_auth_registry: BasicAuthServer) -> None:
    """Models of both are listed, described and scored, by workers with the access of their own registry each."""
    password = {"PRINZ_REGISTRIES__TEAM__PASSWORD": basic_auth_registry.password}
    with (
        serve("--config", str(settings), variables=password) as front,
        Client(front.address, timeout=LONG) as client,
        grpc.insecure_channel(front.address) as channel,
    ):
        wait_until(lambda: "team.typed" in {model.name for model in client.list_models()})
        names = [model.name for model in client.list_models()]
        assert names == sorted(names)
        assert {WINE, "team.typed"} <= set(names)
        assert client.signature("team.typed")[1].inputs[0].name == "n"
        assert client.score("team.typed", [{"n": 21}]).to_rows() == [{"output_0": 42}]
        with Client(service.address, timeout=LONG) as alone:
            assert client.score(WINE, EXAMPLES[WINE]).to_rows() == alone.score(WINE, EXAMPLES[WINE]).to_rows()

        with pytest.raises(ServiceError) as unknown:
            client.signature("team.none")
        assert unknown.value.reason == "MODEL_NOT_FOUND"
        with pytest.raises(ServiceError) as unavailable:
            client.signature("gone-model")
        assert unavailable.value.reason == "REGISTRY_UNAVAILABLE"

        def health(name: str) -> int:
            stub = health_pb2_grpc.HealthStub(channel)
            return int(stub.Check(health_pb2.HealthCheckRequest(service=name)).status)

        wait_until(lambda: health("registry/team") == 1)
        assert [health(name) for name in ("", "registry", "registry/gone", "model/team.typed")] == [1, 2, 2, 1]
        watch = channel.unary_stream(
            "/prinz.enricher.v1.EnricherService/WatchModels",
            request_serializer=pb.WatchModelsRequest.SerializeToString,
            response_deserializer=pb.WatchModelsResponse.FromString,
        )(pb.WatchModelsRequest(view=pb.MODEL_VIEW_FULL), timeout=LONG)
        added = {}
        for event in watch:
            if event.WhichOneof("event") == "bookmark":
                break
            added[event.added.name] = event.added
        assert list(added) == names
        assert added["team.typed"].versions[0].signature.inputs[0].name == "n"
        assert front.end() == 0
