"""Tokens of an OAuth 2.0 token endpoint: fetched once for all threads, renewed in time, never in a storm."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prinz_enricher.registry.registry_errors import RegistryError, RegistryUnreachable, RegistryUnreadable, TokenRefused
from prinz_enricher.registry.secret_sources import PAUSE_SECONDS, GivenSecret, OAuth2Tokens, SecretFile
from tests.support.hostile_server import Answer, HostileServer, answer_json
from tests.support.token_server import TokenEndpoint


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def endpoint(hostile_server: HostileServer) -> Iterator[TokenEndpoint]:
    """A token endpoint."""
    endpoint = TokenEndpoint()
    hostile_server.respond = endpoint
    yield endpoint
    endpoint.gate.set()


@pytest.fixture
def tokens(hostile_server: HostileServer, endpoint: TokenEndpoint, clock: Clock) -> OAuth2Tokens:
    """A source of its tokens."""
    secret = GivenSecret(endpoint.secret)
    return OAuth2Tokens(f"{hostile_server.url}/token", endpoint.client_id, secret, timeout=5.0, clock=clock)


def test_scope_and_audience_are_asked_for(hostile_server: HostileServer, endpoint: TokenEndpoint) -> None:
    """The form holds grant, scope and audience; id and secret are in the header alone, encoded as RFC 6749 says."""
    endpoint.scope = "all-apis offline"
    secret = GivenSecret(endpoint.secret)
    tokens = OAuth2Tokens(
        f"{hostile_server.url}/token", endpoint.client_id, secret, scope=endpoint.scope, audience="mlflow"
    )
    assert tokens.current() in endpoint.tokens
    assert endpoint.forms == [
        {"grant_type": "client_credentials", "scope": "all-apis offline", "audience": "mlflow"},
    ]
    assert hostile_server.requests[0].path == "/token"


def test_one_request_for_all_threads(tokens: OAuth2Tokens, endpoint: TokenEndpoint) -> None:
    """Threads that need a token at the same time wait for one request."""
    endpoint.gate.clear()
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(tokens.current) for _ in range(16)]
        endpoint.gate.set()
        assert len({future.result() for future in asked}) == 1
    assert endpoint.asked == 1


@pytest.mark.parametrize(("lifetime", "margin"), [(3600.0, 60.0), (100.0, 10.0)])
def test_a_token_is_kept_until_shortly_before_its_end(
    tokens: OAuth2Tokens, endpoint: TokenEndpoint, clock: Clock, lifetime: float, margin: float
) -> None:
    """The margin is a minute, or a tenth of a short life."""
    endpoint.lifetime = lifetime
    first = tokens.current()
    clock.now += lifetime - margin - 1
    assert tokens.current() == first
    clock.now += 1
    assert tokens.current() != first
    assert endpoint.asked == 2


def test_a_token_without_a_said_end_is_kept(tokens: OAuth2Tokens, endpoint: TokenEndpoint, clock: Clock) -> None:
    """Where the endpoint says nothing of its life, only a refusal ends it; a number as text is read."""
    endpoint.lifetime = None
    first = tokens.current()
    clock.now += 1e6
    assert tokens.current() == first
    endpoint.told_lifetime = "100"
    tokens.reject(first)
    second = tokens.current()
    clock.now += 91
    assert tokens.current() != second


def test_a_refused_token_is_replaced_once_for_all(tokens: OAuth2Tokens, endpoint: TokenEndpoint, clock: Clock) -> None:
    """A wave of refusals costs one request, a registry that refuses everything one each few seconds."""
    first = tokens.current()
    for _ in range(10):
        tokens.reject(first)
    second = tokens.current()
    assert second != first
    for _ in range(10):
        tokens.reject(second)
        assert tokens.current() == second
    assert endpoint.asked == 2
    clock.now += PAUSE_SECONDS
    tokens.reject(second)
    assert tokens.current() not in (first, second)


def test_a_failing_endpoint_is_not_stormed(tokens: OAuth2Tokens, endpoint: TokenEndpoint, clock: Clock) -> None:
    """Its failure is told again for some seconds; then it is asked once more, and all is well."""
    endpoint.broken = Answer(b"boom", 503)
    for _ in range(5):
        with pytest.raises(TokenRefused, match="HTTP 503") as refused:
            tokens.current()
        assert (refused.value.transient, refused.value.missing) == (True, False)
    assert endpoint.asked == 1
    endpoint.broken = None
    clock.now += PAUSE_SECONDS
    assert tokens.current() in endpoint.tokens


def test_a_token_outlives_a_failure_to_renew_it(tokens: OAuth2Tokens, endpoint: TokenEndpoint, clock: Clock) -> None:
    """While the former token is good, an endpoint that is down fails nobody."""
    first = tokens.current()
    endpoint.broken = Answer(b"", 500)
    clock.now += 3600 - 30
    assert tokens.current() == first
    clock.now += 30
    with pytest.raises(TokenRefused):
        tokens.current()


@pytest.mark.parametrize(
    "answer",
    [
        Answer(b"<html>s3cret</html>"),
        Answer(b""),
        Answer(b"[1]"),
        answer_json({"token_type": "bearer"}),
        answer_json({"access_token": "", "token_type": "bearer"}),
        answer_json({"access_token": "a\r\nX-Evil: 1", "token_type": "bearer"}),
        answer_json({"access_token": "żółw", "token_type": "bearer"}),
        answer_json({"access_token": 5, "token_type": "bearer"}),
        answer_json({"access_token": "a"}),
        answer_json({"access_token": "a", "token_type": "mac"}),
        answer_json({"access_token": "a", "token_type": "bearer", "expires_in": "soon"}),
        answer_json({"access_token": "a", "token_type": "bearer", "expires_in": -1}),
        answer_json({"access_token": "a", "token_type": "bearer", "expires_in": True}),
        Answer(b'{"access_token": "a", "token_type": "bearer", "expires_in": NaN}'),
        answer_json({"access_token": "a" * 100_000, "token_type": "bearer"}),
    ],
)
def test_garbage_is_refused(tokens: OAuth2Tokens, endpoint: TokenEndpoint, answer: Answer) -> None:
    """What is no token, or too long, is told without its words."""
    endpoint.broken = answer
    with pytest.raises(RegistryUnreadable, match="token endpoint") as raised:
        tokens.current()
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (answer_json({"error": "invalid_scope", "error_description": "s3cret"}, 400), "HTTP 400 invalid_scope; "),
        (answer_json({"error": "s3cret"}, 403), "HTTP 403; "),
        (Answer(b"", 302, {"Location": "http://127.0.0.1:1/"}), "redirect"),
        (Answer(b"", 404), "HTTP 404"),
        (Answer(b"x" * 200_000, 500), "HTTP 500"),
    ],
)
def test_refusals_are_told(tokens: OAuth2Tokens, endpoint: TokenEndpoint, answer: Answer, said: str) -> None:
    """The status and the standard's own code are told, nothing else; they are never the fault of a version."""
    endpoint.broken = answer
    with pytest.raises(TokenRefused, match=said) as raised:
        tokens.current()
    assert (raised.value.transient, raised.value.missing) == (True, False)
    assert "s3cret" not in str(raised.value)


@pytest.mark.usefixtures("endpoint")
def test_a_wrong_secret_is_told_without_it(hostile_server: HostileServer) -> None:
    """Neither the message nor any `repr` holds the secret."""
    secret = GivenSecret("wr0ng")
    tokens = OAuth2Tokens(f"{hostile_server.url}/token?x=hidden", "prinz", secret)
    with pytest.raises(TokenRefused, match="HTTP 401 invalid_client; client id, secret or scope") as raised:
        tokens.current()
    for text in (str(raised.value), repr(tokens), repr(secret)):
        assert "wr0ng" not in text
    assert "hidden" not in str(raised.value)


def test_a_secret_file_that_is_mended(
    hostile_server: HostileServer, endpoint: TokenEndpoint, clock: Clock, tmp_path: Path
) -> None:
    """The client secret, too, is read again."""
    file = tmp_path / "secret"
    file.write_text("x" * len(endpoint.secret.encode()))
    source = SecretFile(file, "client secret")
    tokens = OAuth2Tokens(hostile_server.url, endpoint.client_id, source, clock=clock)
    with pytest.raises(TokenRefused):
        tokens.current()
    file.write_text(endpoint.secret)
    clock.now += PAUSE_SECONDS
    assert tokens.current() in endpoint.tokens


def test_an_endpoint_that_is_slow_or_gone(
    hostile_server: HostileServer, endpoint: TokenEndpoint, unused_tcp_port: int
) -> None:
    """Neither holds anyone longer than the timeout; those that waited with the first get its answer."""
    endpoint.gate.clear()
    slow = OAuth2Tokens(hostile_server.url, "prinz", GivenSecret("x"), timeout=0.2)
    errors: list[RegistryError] = []

    def ask() -> None:
        try:
            slow.current()
        except RegistryError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {type(error) for error in errors} == {RegistryUnreachable}
    assert (len(errors), endpoint.asked) == (8, 1)
    gone = OAuth2Tokens(f"http://127.0.0.1:{unused_tcp_port}/t", "prinz", GivenSecret("x"))
    with pytest.raises(RegistryUnreachable, match=f"token endpoint http://127.0.0.1:{unused_tcp_port}/t"):
        gone.current()
