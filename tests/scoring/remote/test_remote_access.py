"""Who we say we are to model servers, whose certificates we trust, and by which way we go."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prinz_enricher.config import EndpointSettings
from prinz_enricher.registry.auth import Access, open_access
from prinz_enricher.registry.registry_errors import AccessError
from prinz_enricher.scoring.remote import connection_pool
from prinz_enricher.scoring.remote.upstream import UpstreamFailed, UpstreamTimeout
from tests.scoring.remote.conftest import Open, ask
from tests.support.certificates import Authority
from tests.support.hostile_server import HostileServer
from tests.support.http2_server import Http2Server
from tests.support.model_server import PREDICTIONS, ModelServer, Reply, Request
from tests.support.token_server import TokenEndpoint

SECRET = "hunter2"  # noqa: S105 - made up


def access_of(url: str, **keys: object) -> Access:
    """Return the access that such settings make."""
    return open_access(EndpointSettings.model_validate({"urls": (url,), **keys}))


def guarded(model_server: ModelServer, *good: str) -> None:
    """Let the server refuse requests without a good Authorization header."""

    def respond(request: Request) -> Reply:
        return Reply() if request.headers.get("authorization") in good else Reply(SECRET.encode(), 401)

    model_server.respond = respond


def test_basic_and_bearer(model_server: ModelServer, open_client: Open) -> None:
    """User and password, or a token, are sent with each request."""
    guarded(model_server, "Basic dXNlcjpodW50ZXIy", f"Bearer {SECRET}")
    for keys in ({"username": "user", "password": SECRET}, {"token": SECRET}):
        client = open_client(model_server, access=access_of(model_server.url, **keys))
        assert ask(client) == PREDICTIONS


def test_wrong_credentials(model_server: ModelServer, open_client: Open) -> None:
    """Credentials that are refused are told as such, without them, and not tried again."""
    guarded(model_server)
    client = open_client(model_server, access=access_of(model_server.url, token=SECRET))
    with pytest.raises(UpstreamFailed, match=r"HTTP 401.*the credentials are missing or wrong") as failed:
        ask(client)
    assert len(model_server.requests) == 1
    assert SECRET not in f"{failed.value!r} {failed.value.__cause__!r}"


def test_token_in_a_file(model_server: ModelServer, open_client: Open, tmp_path: Path) -> None:
    """A token that others write anew is read again; a file without one is a failure before anything is sent."""
    file = tmp_path / "token"
    file.write_text("old")
    client = open_client(model_server, access=access_of(model_server.url, token_file=str(file)))
    guarded(model_server, "Bearer old")
    ask(client)
    file.write_text("newer")
    guarded(model_server, "Bearer newer")
    ask(client)
    file.unlink()
    with pytest.raises(UpstreamFailed, match="the token file"):
        ask(client)
    assert len(model_server.requests) == 2
    assert client.states == {model_server.url: ("closed", 0)}


def test_token_that_ended(model_server: ModelServer, hostile_server: HostileServer, open_client: Open) -> None:
    """A token that is refused is replaced once, and the request sent again, also by many threads at once."""
    endpoint = TokenEndpoint(secret=SECRET)
    hostile_server.respond = endpoint
    model_server.respond = lambda request: Reply(
        PREDICTIONS, 200 if endpoint.accepts(request.headers["authorization"]) else 401
    )
    keys = {
        "oauth2_token_url": hostile_server.url, "oauth2_client_id": "prinz", "oauth2_client_secret": SECRET,
    }  # fmt: skip
    client = open_client(model_server, access=access_of(model_server.url, **keys))
    ask(client)
    endpoint.revoke_all()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: ask(client), range(16)))
    assert len(endpoint.tokens) == 2


def test_token_endpoint_that_does_not_answer(
    model_server: ModelServer, hostile_server: HostileServer, open_client: Open
) -> None:
    """A call does not wait for a token beyond its deadline, and says nothing of the model server."""
    endpoint = TokenEndpoint(secret=SECRET)
    endpoint.gate.clear()
    hostile_server.respond = endpoint
    keys = {
        "oauth2_token_url": hostile_server.url, "oauth2_client_id": "prinz", "oauth2_client_secret": SECRET,
    }  # fmt: skip
    client = open_client(model_server, access=access_of(model_server.url, **keys), breaker_failures=1)
    start = time.monotonic()
    with pytest.raises(UpstreamTimeout, match="no token in time") as ended:
        ask(client, 0.5)
    assert time.monotonic() - start < 0.5 + 1.0
    assert not ended.value.asked
    endpoint.gate.set()
    assert ask(client) == PREDICTIONS


def test_certificates(open_client: Open, tmp_path: Path) -> None:
    """Server and client show each other their certificates; without trust there is no connection."""
    authority = Authority(tmp_path)
    pair = authority.sign("client")
    with ModelServer(authority.server_context(ask_clients=True)) as server:
        trusted = {"ca_file": str(authority.file)}
        shown = {"client_certificate": str(pair.certificate), "client_key": str(pair.key)}
        assert ask(open_client(server, access=access_of(server.url, **trusted, **shown))) == PREDICTIONS
        with pytest.raises(UpstreamFailed, match="the server's certificate is not trusted"):
            ask(open_client(server))
        with pytest.raises(UpstreamFailed, match=r"no secure connection|ended before the whole answer"):
            ask(open_client(server, access=access_of(server.url, **trusted)))
        assert len(server.requests) == 1


def test_tls_handshake_that_does_not_end(open_client: Open) -> None:
    """A server that takes the connection but not the handshake holds no call."""

    class Deaf(ModelServer):
        def _serve(self, connection: object) -> None:
            self.ended.wait(60)

    with Deaf() as deaf:
        start = time.monotonic()
        with pytest.raises(UpstreamTimeout):
            ask(open_client(deaf.url.replace("http://", "https://")), 0.5)
        assert time.monotonic() - start < 0.5 + 1.0


def test_http2(open_client: Open, tmp_path: Path) -> None:
    """Where it is set and the server has it, HTTP/2 is spoken; a request that freezes ends alone."""
    authority = Authority(tmp_path)
    with Http2Server(authority.server_context()) as server:
        client = open_client(server.url, access=access_of(server.url, ca_file=str(authority.file)), http2=True)
        for number in range(3):
            content = f'{{"predictions": [{number}]}}'.encode() * 3000
            assert ask(client, content=content) == content
        assert server.streams == [3]
        with ThreadPoolExecutor(9) as threads:
            frozen = threads.submit(ask, client, 1.0, "/frozen")
            assert len(list(threads.map(lambda _: ask(client), range(50)))) == 50
            assert isinstance(frozen.exception(), UpstreamTimeout)
        assert len(server.streams) <= 9


def test_proxy_of_the_environment(
    model_server: ModelServer, open_client: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server elsewhere is asked by way of the environment's proxy; one on loopback never is."""
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", model_server.url.replace("http://", f"http://user:{SECRET}@"))
    ask(open_client("http://models.example.com/team"))
    request = model_server.requests[0]
    assert request.target == "http://models.example.com/team/invocations"
    assert request.headers["host"] == "models.example.com"
    assert request.headers["proxy-authorization"].startswith("Basic ")
    ask(open_client(model_server))
    assert "proxy-authorization" not in model_server.requests[1].headers

    monkeypatch.setenv("http_proxy", f"socks5://user:{SECRET}@localhost:1")
    with pytest.raises(AccessError, match="not one of http://") as refused:
        open_client("http://models.example.com")
    assert SECRET not in str(refused.value)


def test_connections_at_rest_are_closed(
    model_server: ModelServer, open_client: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that was at rest for long is not used again."""
    monkeypatch.setattr(connection_pool, "KEEP_SECONDS", 0.0)
    client = open_client(model_server)
    for _ in range(3):
        ask(client)
    assert model_server.connections == 3
