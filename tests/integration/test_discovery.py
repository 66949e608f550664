"""What callers see of the catalog: lists, health and reflection."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from prinz_enricher.cli.demo import EXAMPLES
from prinz_enricher.client import Client, ServiceError
from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import enricher_service_pb2_grpc, model_pb2
from prinz_enricher.signature import from_wire
from tests.support.running_service import LONG, Service

SAMPLES = ["MLF-ElasticnetWineModel-1", "MLF-ElasticnetWineModel-2", "MLF-FraudDetection-3"]
SERVICE = "prinz.enricher.v1.EnricherService"


def test_list(stub: enricher_service_pb2_grpc.EnricherServiceStub) -> None:
    """The list has every model with versions, aliases, states and the default version."""
    response = stub.ListModels(pb.ListModelsRequest(filter='name LIKE "MLF-%"'), timeout=10)

    assert [model.name for model in response.models] == SAMPLES
    assert response.catalog_revision
    assert response.catalog_age.ToSeconds() < 60
    for model in response.models:
        (version,) = model.versions
        assert (model.default_version, dict(model.aliases)) == ("1", {"champion": "1"})
        assert (version.version, list(version.aliases)) == ("1", ["champion"])
        assert "sklearn" in version.flavors
        assert version.state in {model_pb2.ModelVersion.STATE_LOADING, model_pb2.ModelVersion.STATE_AVAILABLE}
        assert version.route == model_pb2.ModelVersion.ROUTE_LOCAL
        assert not version.HasField("signature")
        assert version.create_time.seconds > 1_700_000_000


def test_pages(stub: enricher_service_pb2_grpc.EnricherServiceStub) -> None:
    """Pages of one model each, put together, are the list."""
    names, token = [], ""
    while True:
        page = stub.ListModels(pb.ListModelsRequest(page_size=1, page_token=token, filter='name LIKE "MLF%"'))
        names += [model.name for model in page.models]
        token = page.next_page_token
        if not token:
            break

    assert names == SAMPLES


def test_full_view_is_get_signature(client: Client) -> None:
    """The full view carries the same signatures as GetSignature tells."""
    for model in client.list_models('name LIKE "MLF-%"', full=True):
        _, signature = client.signature(f"{model.name}/1")

        assert from_wire(model.versions[0].signature) == signature
        assert model.versions[0].signature.digest == signature.digest


def test_selectors(client: Client) -> None:
    """The default, the alias and the number name the same version."""
    for reference in ("MLF-FraudDetection-3", "MLF-FraudDetection-3@champion", "MLF-FraudDetection-3/1"):
        resolved, _ = client.signature(reference)

        assert (resolved.name, resolved.version) == ("MLF-FraudDetection-3", "1")


def test_health(service_channel: grpc.Channel) -> None:
    """The service, and each model, is SERVING; another name is NOT_FOUND."""
    health = health_pb2_grpc.HealthStub(service_channel)

    for name in ("", SERVICE, *(f"model/{sample}" for sample in SAMPLES)):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as raised:
        health.Check(health_pb2.HealthCheckRequest(service="model/nosuch"))
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection(service_channel: grpc.Channel, version: str) -> None:
    """A caller with reflection alone finds the service, builds its messages and scores with them."""
    method = service_channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.reflection.v1.ServerReflection"),
    ]

    listed, described, itself = list(method(iter(asked), timeout=10))

    names = {service.name for service in listed.list_services_response.service}
    assert {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} <= names
    assert not itself.HasField("error_response")
    pool = descriptor_pool.DescriptorPool()
    files = {}
    for data in described.file_descriptor_response.file_descriptor_proto:
        file = descriptor_pb2.FileDescriptorProto.FromString(data)
        files[file.name] = file

    def add(file: descriptor_pb2.FileDescriptorProto) -> None:
        for name in file.dependency:
            if name in files:
                add(files.pop(name))
        pool.Add(file)

    while files:
        add(files.pop(next(iter(files))))
    row = {"age": "4", "gender": "F", "category": "es_transportation"}
    columns = [{"name": name, "strings": {"values": [value]}} for name, value in row.items()]
    columns.append({"name": "amount", "doubles": {"values": [800.0]}})
    request = {"model": {"name": "MLF-FraudDetection-3"}, "columns": {"numRows": 1, "columns": columns}}
    score = pool.FindServiceByName(SERVICE).methods_by_name["Score"]
    messages = [message_factory.GetMessageClass(kind) for kind in (score.input_type, score.output_type)]
    call = service_channel.unary_unary(
        f"/{SERVICE}/Score",
        request_serializer=messages[0].SerializeToString,
        response_deserializer=messages[1].FromString,
    )
    answer = json_format.MessageToDict(call(json_format.Parse(json.dumps(request), messages[0]()), timeout=60))
    assert answer["columns"]["columns"][0]["name"] == "output_0"
    assert answer["columns"]["columns"][0]["int32s"]["values"] in ([0], [1])


def test_outputs_wanted(client: Client) -> None:
    """Only the outputs that are wanted are answered; an unknown one is refused."""
    row = {"age": "4", "gender": "F", "category": "es_transportation", "amount": 800.0}

    assert client.score("MLF-FraudDetection-3", [row], outputs=["output_0"]).batch.schema.names == ["output_0"]
    with pytest.raises(ServiceError) as raised:
        client.score("MLF-FraudDetection-3", [row], outputs=["output_1"])
    assert [violation.field for violation in raised.value.violations] == ["outputs[0]"]


def test_a_list_that_takes_long_holds_up_no_score(
    service: Service, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever lists a thousand models in a designer is nothing to a stream of events."""
    messages = service.application._service._messages
    get, begun, go = messages.get, threading.Event(), threading.Event()

    def slow(model: Any, *, full: bool) -> bytes:
        begun.set()
        assert go.wait(LONG)
        return get(model, full=full)

    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as callers:
        patch.setattr(messages, "get", slow)
        try:
            lists = [callers.submit(lambda: len(list(client.list_models('name LIKE "MLF-%"')))) for _ in range(2)]
            assert begun.wait(LONG)
            for _ in range(20):
                assert client.score(SAMPLES[0], EXAMPLES[SAMPLES[0]]).to_rows()
            assert not any(one.done() for one in lists)
        finally:
            go.set()
        assert [one.result(LONG) for one in lists] == [3, 3]
