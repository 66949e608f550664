"""The clients and servers with TLS: what goes through, and what an error says."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import status_pb2

from prinz_enricher.client import AsyncClient, Client, ServiceError, Tls
from prinz_enricher.contract import enricher_service_pb2 as pb
from tests.loadtest.scoring_server import ScoringServer, doubled, refusal
from tests.support.tls_servers import TlsServers, tls_servers


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServers]:
    """The servers."""
    with tls_servers(tmp_path_factory.mktemp("certificates")) as servers:
        yield servers


def settings(servers: TlsServers, client: str = "", **changed: str) -> Tls:
    """Return TLS settings that trust the CA, with a client's certificate."""
    if not client:
        return Tls(servers.ca, **changed)
    return Tls(servers.ca, servers.clients[client].certificate, servers.clients[client].key)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_mutual_tls_and_a_token(servers: TlsServers, tmp_path: Path, host: str) -> None:
    """With certificate and token both clients get their scores; a token that is exchanged goes with the next call."""
    token = tmp_path / "token"
    token.write_text("one")
    seen: list[str | None] = []

    def note(authorization: str | None) -> None:
        seen.append(authorization)

    servers.mutual.admit = note
    address, tls = f"{host}:{servers.mutual.port}", settings(servers, "client")
    with Client(address, tls=tls, token=token) as client:
        assert client.score("double", {"x": 2.0}).to_rows() == [{"y": 4.0}]
        token.write_text("other")
        assert client.score("double", {"x": 3.0}).to_rows() == [{"y": 6.0}]
        assert [model.name for model in client.list_models()] == ["double"]
    assert seen == ["Bearer one"] * 2 + ["Bearer other"] * 2

    async def ask() -> list[dict[str, object]]:
        async with AsyncClient(address, tls=tls, token=token) as client:
            return (await client.score("double", {"x": 2.0})).to_rows()

    assert asyncio.run(ask()) == [{"y": 4.0}]


FAULTS: dict[str, tuple[Callable[[TlsServers], tuple[ScoringServer, Tls | None]], str]] = {
    "TLS to a server without": (lambda s: (s.plain, settings(s)), "the server has no TLS at this address"),
    "plaintext to a server with TLS": (lambda s: (s.tls, None), "it may require TLS: "),
    "another CA": (lambda s: (s.tls, Tls(s.other_ca)), "no trusted CA signed the server's certificate"),
    "the CAs of the Internet": (lambda s: (s.tls, Tls()), "no trusted CA signed the server's certificate"),
    "another name": (lambda s: (s.tls, settings(s, server_name="a.example")), "certificate has other names"),
    "an expired certificate": (lambda s: (s.expired, settings(s)), "the server's certificate has expired"),
    "a self-signed certificate": (lambda s: (s.unsigned, settings(s)), "no trusted CA signed"),
    "no client certificate": (lambda s: (s.mutual, settings(s)), "it may require a client certificate: "),
    "an expired client certificate": (
        lambda s: (s.mutual, settings(s, "old")),
        "may refuse the client's certificate: ",
    ),
    "one of another CA": (lambda s: (s.mutual, settings(s, "alien")), "may refuse the client's certificate: "),
    "a self-signed one": (lambda s: (s.mutual, settings(s, "alone")), "may refuse the client's certificate: "),
    "a key of another certificate": (
        lambda s: (s.tls, Tls(s.ca, s.clients["client"].certificate, s.clients["old"].key)),
        "the key that of the certificate",
    ),
    "a damaged CA": (lambda s: (s.tls, Tls(s.ca.read_bytes()[:200])), "they must be undamaged PEM"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_a_connection(servers: TlsServers, fault: str) -> None:
    """The error is one sentence that says what is wrong and what to do; gRPC's own words are its detail."""
    make, sentence = FAULTS[fault]
    server, tls = make(servers)
    # By `localhost` gRPC might tell of ::1, where nobody listens.
    with Client(server.address, tls=tls, retry=False) as client, pytest.raises(ServiceError) as raised:
        client.score("double", {"x": 1.0})

    async def ask() -> None:
        async with AsyncClient(server.address, tls=tls, retry=False) as client:
            await client.score("double", {"x": 1.0})

    with pytest.raises(ServiceError) as told:
        asyncio.run(ask())
    for error in (raised.value, told.value):
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "")
        assert sentence in error.message
        assert ": " in error.message
        assert "ipv4" not in error.message
        assert str(server.port) in error.metadata["grpc_message"]


def test_what_is_no_fault_of_tls() -> None:
    """Where nobody listens the error is gRPC's own."""
    with (
        Client("127.0.0.1:1", tls=Tls(), retry=False) as client,
        pytest.raises(ServiceError, match="refused") as raised,
    ):
        client.score("double", {"x": 1.0})
    assert raised.value.metadata == {}


def test_files_that_tls_can_not_use(servers: TlsServers, tmp_path: Path) -> None:
    """What is no PEM, or is locked, is told by its file when the client is made; a key is not."""
    pair = servers.clients["client"]
    for tls, sentence in (
        (Tls(servers.ca, pair.certificate, pair.locked_key), "private key of the client has a password"),
        (Tls(servers.ca, pair.key, pair.key), "client-key.pem has no certificate"),
        (Tls(servers.ca, pair.certificate, pair.certificate), "client-certificate.pem has no private key"),
        (Tls(b"hush"), "the text has no certificate"),
    ):
        with pytest.raises(ValueError, match=sentence) as raised:
            Client("localhost:1", tls=tls)
        assert "hush" not in str(raised.value)
    with pytest.raises(FileNotFoundError):
        AsyncClient("localhost:1", tls=Tls(tmp_path / "none.pem"))


def scoring_refused(server: ScoringServer, *codes: grpc.StatusCode, pushback: str) -> list[float]:
    """Have the first scorings refused with these codes and this pushback; return the times at which scorings come."""
    times: list[float] = []
    server.trailers = (("grpc-retry-pushback-ms", pushback),)

    def answer(number: int, request: pb.ScoreRequest) -> pb.ScoreResponse | status_pb2.Status:
        times.append(time.monotonic())
        if len(times) <= len(codes):
            return refusal(codes[len(times) - 1], "QUOTA_EXCEEDED", retry_after=0.4)
        return doubled(number, request)

    server.answer = answer
    return times


def test_a_retry_waits_as_long_as_the_service_says() -> None:
    """The retries of gRPC obey `grpc-retry-pushback-ms`, and end where it is negative."""
    with ScoringServer() as server, Client(server.address) as client:
        times = scoring_refused(server, grpc.StatusCode.UNAVAILABLE, pushback="400")
        assert client.score("double", {"x": 2.0}).to_rows() == [{"y": 4.0}]
        assert times[1] - times[0] >= 0.39
        times = scoring_refused(server, grpc.StatusCode.UNAVAILABLE, pushback="-1")
        with pytest.raises(ServiceError, match="so it is"):
            client.score("double", {"x": 2.0})
        assert len(times) == 1


def test_a_quota_is_told_at_once() -> None:
    """QUOTA_EXCEEDED is not retried; the error has the seconds after which a call may succeed."""
    with ScoringServer() as server, Client(server.address) as client:
        times = scoring_refused(server, grpc.StatusCode.RESOURCE_EXHAUSTED, pushback="400")
        with pytest.raises(ServiceError) as raised:
            client.score("double", {"x": 2.0})
    assert (raised.value.reason, raised.value.retry_after, len(times)) == ("QUOTA_EXCEEDED", 0.4, 1)
