"""`prinz-enricher serve` with TLS, client certificates, tokens and rules: who gets in, by gRPC and by HTTP."""

import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from prinz_enricher.contract import enricher_service_pb2 as pb
from prinz_enricher.contract import enricher_service_pb2_grpc
from tests.support.certificates import Authority, Pair
from tests.support.front_core import IS_BUILT, refusal
from tests.support.running_service import LONG, Service
from tests.support.serve_process import Serve, serve

FRAUD = "MLF-FraudDetection-3"
TOKEN = "a-token-of-these-tests"  # noqa: S105 - it is


@contextmanager
def secure_service(folder: Path, registry: str, authority: Authority, config: str = "") -> Iterator[Serve]:
    """Run the service with a certificate of the authority, and a token of scenarios."""
    pair, tokens, file = authority.server(), folder / "tokens.toml", folder / "prinz.toml"
    tokens.write_text(f'[[token]]\nname = "scenarios"\nsha256 = "{sha256(TOKEN.encode()).hexdigest()}"\n')
    file.write_text(f'[auth]\ntokens_file = "{tokens}"\n{config}')
    flags = ("--tls-certificate", str(pair.certificate), "--tls-key", str(pair.key), "--http-port", "0")
    with serve("--registry", registry, "--config", str(file), *flags) as running:
        yield running


def channel(running: Serve, authority: Authority, pair: Pair | None = None) -> grpc.Channel:
    """Return a channel that trusts the authority."""
    key, chain = (pair.key.read_bytes(), pair.certificate.read_bytes()) if pair else (None, None)
    return grpc.secure_channel(
        f"localhost:{running.port}", grpc.ssl_channel_credentials(authority.file.read_bytes(), key, chain)
    )


def event(running: Serve, name: str) -> dict[str, Any]:
    """Return a line of its log."""
    return next(line for line in map(json.loads, running.lines) if line["event"] == name)


def test_tokens_over_tls(service: Service, tmp_path: Path) -> None:
    """With a token models are listed and scored, without one only health is there; metrics count the refusals."""
    authority = Authority(tmp_path)
    with secure_service(tmp_path, service.registry, authority) as running, channel(running, authority) as opened:
        stub: Any = enricher_service_pb2_grpc.EnricherServiceStub(opened)  # type: ignore[no-untyped-call]
        known = [("authorization", f"Bearer {TOKEN}")]
        listed = stub.ListModels(pb.ListModelsRequest(), timeout=LONG, metadata=known)
        missing = refusal(lambda: stub.ListModels(pb.ListModelsRequest(), timeout=LONG))
        wrong = refusal(
            lambda: stub.Score(pb.ScoreRequest(), timeout=LONG, metadata=[("authorization", "Bearer wrong")])
        )
        health = health_pb2_grpc.HealthStub(opened).Check(health_pb2.HealthCheckRequest(), timeout=LONG)
        url = f"https://localhost:{event(running, 'admin http server started')['port']}"
        with httpx.Client(
            base_url=url, verify=ssl.create_default_context(cafile=authority.file), trust_env=False
        ) as http:
            refused, probe = http.get("/metrics"), http.get("/readyz")
            metrics = http.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        logged = "".join(running.lines)

    assert FRAUD in {model.name for model in listed.models}
    assert missing[:2] == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_MISSING")
    assert wrong[:2] == (grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert (refused.status_code, probe.status_code, metrics.status_code) == (401, 200, 200)
    assert 'prinz_enricher_auth_failures_total{reason="TOKEN_INVALID"} 1.0' in metrics.text
    assert 80_000 < samples(metrics.text, 'prinz_enricher_tls_certificate_expiry_seconds{what="server"}') < 86_500
    chosen = ("rust", "it is installed") if IS_BUILT else ("grpcio", "prinz-enricher-front is not installed")
    assert (event(running, "front chosen")["front"], event(running, "front chosen")["why"]) == chosen
    assert TOKEN not in logged


def samples(text: str, name: str) -> float:
    """Return the value of a metric."""
    return float(next(line for line in text.splitlines() if line.startswith(name)).rpartition(" ")[2])


def test_client_certificates_and_rules(service: Service, tmp_path: Path) -> None:
    """A certificate names the caller of whom the rules speak; who has none gets no connection."""
    authority = Authority(tmp_path)
    rule = '[[access]]\nprincipals = ["spiffe://corp/nk/*"]\nmodels = ["MLF-Fraud*"]\nmethods = ["list"]\n'
    config = f'[server.tls]\nclient_ca = "{authority.file}"\n{rule}'
    with secure_service(tmp_path, service.registry, authority, config) as running:
        allowed = authority.sign("one", spiffe_id="spiffe://corp/nk/one")
        with channel(running, authority, allowed) as opened:
            stub: Any = enricher_service_pb2_grpc.EnricherServiceStub(opened)  # type: ignore[no-untyped-call]
            assert stub.ListModels(pb.ListModelsRequest(), timeout=LONG)
            health = health_pb2_grpc.HealthStub(opened)
            assert health.Check(health_pb2.HealthCheckRequest(service=f"model/{FRAUD}"), timeout=LONG).status
        with channel(running, authority, authority.sign("two")) as opened:
            health = health_pb2_grpc.HealthStub(opened)
            hidden = health_pb2.HealthCheckRequest(service=f"model/{FRAUD}")
            assert refusal(lambda: health.Check(hidden, timeout=LONG))[0] == grpc.StatusCode.NOT_FOUND
        with channel(running, authority) as opened:
            health = health_pb2_grpc.HealthStub(opened)
            with pytest.raises(grpc.RpcError):
                health.Check(health_pb2.HealthCheckRequest(), timeout=LONG)
        assert running.end() == 0
