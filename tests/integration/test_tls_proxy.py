"""TLS by a proxy: nginx with the lines of docs/fronts.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import enricher_service_pb2_grpc, model_pb2
from samples import wine
from tests.support.certificates import Authority
from tests.support.nginx import Nginx
from tests.support.running_service import LONG, Service, refused

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "fronts.md"
MODEL = "MLF-ElasticnetWineModel-1"
ROWS = 20_000
"""They take more than a millisecond."""


@pytest.fixture(scope="module")
def secure(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    """A channel that trusts the proxy's authority alone."""
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority(folder)
    pair = authority.sign("proxy")
    [rules] = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
    for written, here in (
        ("listen 443 ssl http2", "listen 127.0.0.1:@PORT@ ssl http2"),
        ("/etc/ssl/prinz.pem", str(pair.certificate)),
        ("/etc/ssl/prinz.key", str(pair.key)),
        ("127.0.0.1:50051", service.address),
    ):
        assert written in rules
        rules = rules.replace(written, here)
    credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
    with (
        Nginx(folder / "nginx", rules) as nginx,
        grpc.secure_channel(f"127.0.0.1:{nginx.port}", credentials) as channel,
    ):
        yield channel


def request(value: float = 0.235) -> pb.ScoreRequest:
    """Ask for the score of a wine."""
    asked = pb.ScoreRequest(model=model_pb2.ModelRef(name=MODEL), request_id="through TLS")
    asked.columns.num_rows = 1
    for name in wine.COLUMNS:
        asked.columns.columns.add(name=name).doubles.values.append(value)
    return asked


def stub_of(channel: grpc.Channel) -> Any:
    """Give the generated stub."""
    return enricher_service_pb2_grpc.EnricherServiceStub(channel)  # type: ignore[no-untyped-call]  # generated


def test_scores_come_through(secure: grpc.Channel, service: Service) -> None:
    """A score through TLS is the one without."""
    answer = stub_of(secure).Score(request(), timeout=LONG)
    assert answer.columns == service.stub().Score(request(), timeout=LONG).columns
    assert answer.request_id == "through TLS"


def test_errors_keep_their_details(secure: grpc.Channel) -> None:
    """What is wrong with a request comes through the proxy in full."""
    wrong = request()
    del wrong.columns.columns[0]
    told = refused(stub_of(secure).Score, wrong)
    assert told.reason == "INVALID_INPUT"
    assert told.violations == [f'columns["{wine.COLUMNS[0]}"]']


def test_deadlines_come_through(secure: grpc.Channel) -> None:
    """A deadline that is over before the score is kept at both ends."""
    # gRPC rounds deadlines up to a millisecond, in which one row can be scored.
    long = request()
    long.columns.num_rows = ROWS
    for column in long.columns.columns:
        column.doubles.values.extend([0.5] * (ROWS - 1))
    with pytest.raises(grpc.RpcError) as raised:
        stub_of(secure).Score(long, timeout=1e-6)
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_streams_and_health_come_through(secure: grpc.Channel) -> None:
    """Streams and health are there through TLS as well."""
    messages = [pb.ScoreStreamRequest(sequence=n, request=request(float(n))) for n in range(20)]
    answers = {one.sequence: one for one in stub_of(secure).ScoreStream(iter(messages), timeout=LONG)}
    assert answers.keys() == set(range(20))
    assert all(one.WhichOneof("result") == "response" for one in answers.values())
    health = health_pb2_grpc.HealthStub(secure).Check(health_pb2.HealthCheckRequest(), timeout=LONG)
    assert health.status == health_pb2.HealthCheckResponse.SERVING
