"""The client before model servers that answer, or do not."""

import gzip
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from pydantic import SecretStr

from prinz_enricher.scoring.remote.upstream import (
    CallCancelled,
    UpstreamError,
    UpstreamFailed,
    UpstreamRefused,
    UpstreamTimeout,
)
from tests.scoring.remote.conftest import Open, ask
from tests.support.deadline import wait_until
from tests.support.model_server import HTML, JSON, PREDICTIONS, ModelServer, Reply, Request, Script, close, reset

SECRET = "hunter2"  # noqa: S105 - made up
BUSY = Reply(b"busy", 503, {"Retry-After": "0"})
HALF = Reply(PREDICTIONS, declared_length=1000).head + PREDICTIONS


def in_turn(*replies: Reply | Script) -> Callable[[Request], Reply | Script]:
    """Answer with each of these in turn, and with the last one from then on."""
    numbers = count()
    return lambda _: replies[min(next(numbers), len(replies) - 1)]


def test_request_and_answer(model_server: ModelServer, open_client: Open) -> None:
    """A request goes below the base URL with its headers, on a connection that stays open."""
    client = open_client(f"{model_server.url}/team", headers={"X-Team": SecretStr(SECRET)})
    for _ in range(3):
        answer = ask(client, path="/wine%2Fred/invocations", content=b'{"inputs": {}}')
        assert answer == PREDICTIONS
    assert model_server.connections == 1
    request = model_server.requests[-1]
    assert (request.method, request.target, request.body) == ("POST", "/team/wine%2Fred/invocations", b'{"inputs": {}}')
    assert request.headers["host"] == model_server.url.removeprefix("http://")
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-team"] == SECRET


def test_large_request_and_answer(model_server: ModelServer, open_client: Open) -> None:
    """Megabytes go and come whole."""
    content = bytes(range(256)) * 40_000
    model_server.respond = lambda request: Reply(request.body)
    assert ask(open_client(model_server), content=content) == content


def test_a_model_that_raises_mlflow_s_own_exceptions(model_server: ModelServer, open_client: Open) -> None:
    """MLflow tells of it with HTTP 500 and JSON; it is for who knows its words, and no fault of the server."""
    model_server.respond = lambda _: Reply(b'{"error_code": "BAD_REQUEST"}', 500)
    with pytest.raises(UpstreamRefused) as refused:
        ask(open_client(model_server))
    assert (refused.value.status, refused.value.content) == (500, b'{"error_code": "BAD_REQUEST"}')


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(b"", 302, {"Location": "http://169.254.169.254/hunter2"}), "HTTP 302.* a redirect"),
        (Reply(b"<html>hunter2</html>", headers=HTML), "text/html.* not JSON"),
        (Reply(b"{}", headers={}), "not JSON"),
        (Reply(gzip.compress(b"{}"), headers=JSON | {"Content-Encoding": "gzip"}), "compressed"),
        (Reply(b"x" * 100_000_000), "100000000 bytes: it is longer than 1000000 bytes"),
        (Reply(b"hunter2", 500, HTML), "HTTP 500"),
        (Reply(b"hunter2", 204), "HTTP 204"),
        (Reply(b"hunter2", 403), "credentials do not suffice"),
    ],
)
def test_no_answer_of_a_model(model_server: ModelServer, open_client: Open, reply: Reply, said: str) -> None:
    """What is no answer of a model server is told by what was seen, and not asked for again."""
    model_server.respond = lambda _: reply
    with pytest.raises(UpstreamFailed, match=said) as failed:
        ask(open_client(model_server, max_answer_bytes=1_000_000))
    assert len(model_server.requests) == 1
    assert failed.value.status == reply.status
    assert SECRET not in f"{failed.value!r} {failed.value.__cause__!r}"


def test_redirect_leads_nowhere(model_server: ModelServer, other_server: ModelServer, open_client: Open) -> None:
    """A redirect to another host is not followed, so that credentials and data stay where they belong."""
    model_server.respond = lambda _: Reply(b"", 307, {"Location": f"{other_server.url}/invocations"})
    with pytest.raises(UpstreamFailed, match="redirect"):
        ask(open_client(model_server))
    assert other_server.requests == []


def test_long_answer_of_unknown_length(model_server: ModelServer, open_client: Open) -> None:
    """An answer that does not say how long it is, is broken off when it is too long."""

    def endless(connection: object) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")  # type: ignore[attr-defined]
        while not model_server.ended.is_set():
            connection.sendall(b"1," * 50_000)  # type: ignore[attr-defined]

    model_server.respond = lambda _: endless
    with pytest.raises(UpstreamFailed, match="longer than 1000000 bytes"):
        ask(open_client(model_server, max_answer_bytes=1_000_000))


@pytest.mark.parametrize("status", [400, 404, 413, 415, 422])
def test_refusal_has_the_words_of_the_server(model_server: ModelServer, open_client: Open, status: int) -> None:
    """What a model server says of a wrong request is there to be read, but not in the message."""
    content = b'{"error_code": "BAD_REQUEST", "message": "hunter2"}'
    model_server.respond = lambda _: Reply(content, status)
    with pytest.raises(UpstreamRefused, match=f"HTTP {status}, application/json, {len(content)} bytes") as refused:
        ask(open_client(model_server))
    error = refused.value
    assert (error.status, error.content, error.content_type) == (status, content, "application/json")
    assert error.missing == (status == 404)
    assert SECRET not in f"{error!r} {error}"
    assert len(model_server.requests) == 1


@pytest.mark.parametrize(
    "fault",
    [
        BUSY,
        Reply(b"", 429, {}),
        Reply(b"", 502, HTML),
        Reply(b"", 504, HTML),
        close,
        reset(),
        reset(HALF),
        reset(b"HTTP/1.1 200 OK\r\nContent-Ty"),
    ],
)
def test_tried_again(model_server: ModelServer, open_client: Open, fault: Reply | Script) -> None:
    """After what may pass the same request is sent again."""
    model_server.respond = in_turn(fault, Reply())
    assert ask(open_client(model_server)) == PREDICTIONS
    assert len(model_server.requests) == 2


def test_retries_end(model_server: ModelServer, open_client: Open) -> None:
    """A call is tried again so often and not more."""
    model_server.respond = lambda _: BUSY
    with pytest.raises(UpstreamFailed, match="after 3 retries") as failed:
        ask(open_client(model_server, breaker_failures=100))
    assert (len(model_server.requests), failed.value.status) == (4, 503)


def test_server_says_when_to_come_back(model_server: ModelServer, open_client: Open) -> None:
    """A Retry-After is waited for where there is time; else it is told at once."""
    model_server.respond = in_turn(Reply(b"", 503, {"Retry-After": "1"}), Reply())
    client = open_client(model_server)
    start = time.monotonic()
    ask(client)
    assert time.monotonic() - start >= 1.0

    for told, seconds in (("5", 2.0), ("3600", 30.0)):
        model_server.respond = in_turn(Reply(b"", 429, {"Retry-After": told}))
        start = time.monotonic()
        with pytest.raises(UpstreamFailed) as failed:
            ask(client, seconds)
        assert failed.value.retry_after == float(told)
        assert time.monotonic() - start < 1.5


def test_connections_that_the_server_closed(model_server: ModelServer, open_client: Open) -> None:
    """A server that closes each connection at rest costs no call and no fault of the base."""
    model_server.respond = lambda _: Reply(close=True)
    client = open_client(model_server, breaker_failures=1)
    for _ in range(20):
        ask(client)
    assert model_server.connections >= 20

    # Here the end is not seen before the request is sent; no connection of before is in the way.
    client = open_client(model_server, breaker_failures=1)
    model_server.respond = in_turn(Reply(), close, Reply(), close, Reply())
    for _ in range(3):
        ask(client)
    assert client.states[model_server.url][0] == "closed"


def test_some_failures_lose_no_call(model_server: ModelServer, open_client: Open) -> None:
    """With one answer of twenty a 503, no call is lost, and the retries stay within their share."""
    numbers = count(1)
    model_server.respond = lambda _: BUSY if next(numbers) % 20 == 0 else Reply()
    client = open_client(model_server)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: ask(client), range(600)))
    assert len(answers) == 600
    assert 600 < len(model_server.requests) <= 600 * 1.2


def test_failing_server_is_not_hammered(model_server: ModelServer, open_client: Open) -> None:
    """When all answers are failures, the retries are a few at once and a fifth of the calls."""
    model_server.respond = lambda _: BUSY
    client = open_client(model_server, breaker_failures=1000)
    said = set()
    for _ in range(100):
        with pytest.raises(UpstreamFailed) as failed:
            ask(client)
        said.add("too many calls fail" in str(failed.value))
    assert 100 < len(model_server.requests) <= 100 + 10 + 20
    assert said == {True, False}


def test_budget_of_many_threads(model_server: ModelServer, open_client: Open) -> None:
    """Threads that ask at once get no more retries than there are."""
    model_server.respond = lambda _: BUSY
    client = open_client(model_server, breaker_failures=10_000, retry_share=1e-9, max_concurrent=50, max_retries=10)
    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(ask, client) for _ in range(50)]
    assert all(isinstance(call.exception(), UpstreamFailed) for call in calls)
    assert len(model_server.requests) == 50 + 50


def test_never_more_at_once_than_allowed(model_server: ModelServer, open_client: Open) -> None:
    """Sixty-four threads have five requests under way at once, and five connections."""
    client = open_client(model_server, max_concurrent=5)

    def respond(_: Request) -> Reply:
        time.sleep(0.002)
        return Reply()

    model_server.respond = respond
    with ThreadPoolExecutor(64) as threads:
        list(threads.map(lambda _: ask(client), range(320)))
    assert (model_server.most_at_once, model_server.connections) == (5, 5)


@pytest.mark.parametrize("kind", ["frozen", "body", "head", "pause", "retry", "garbage"])
def test_deadline(model_server: ModelServer, open_client: Open, kind: str) -> None:
    """However a server keeps a call waiting, the call ends at its deadline."""
    faults: dict[str, Reply | Script] = {
        "frozen": model_server.freeze,
        "body": model_server.drip(HALF * 100),
        "head": model_server.drip(b"HTTP/1.1 200 OK\r\n" + b"X-Padding: x\r\n" * 1000),
        "pause": Reply(b"", 503, {"Retry-After": "9"}),
        "retry": Reply(b"", 503, {}),
        "garbage": model_server.drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    }
    model_server.respond = lambda _: faults[kind]
    client = open_client(model_server)
    start = time.monotonic()
    with pytest.raises((UpstreamTimeout, UpstreamFailed)) as ended:
        ask(client, 0.5)
    # Each of them goes on for many seconds.
    assert time.monotonic() - start < 0.5 + 1.0
    assert isinstance(ended.value, UpstreamFailed) == (kind in ("pause", "retry"))


def test_deadline_while_a_server_does_not_read(open_client: Open) -> None:
    """A request that is not taken off our hands ends at its deadline."""
    held = threading.Event()

    class Deaf(ModelServer):
        def _serve(self, connection: object) -> None:
            held.set()
            self.ended.wait(60)

    with Deaf() as deaf:
        start = time.monotonic()
        with pytest.raises(UpstreamTimeout):
            ask(open_client(deaf), 0.5, content=b"x" * 50_000_000)
        assert held.is_set()
        assert time.monotonic() - start < 0.5 + 1.0


def test_deadline_while_a_name_is_looked_up(open_client: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that does not answer holds no call."""
    monkeypatch.setenv("NO_PROXY", "*")
    looked = threading.Event()
    answered = threading.Event()

    def look_up(*_: object, **__: object) -> list[object]:
        looked.set()
        answered.wait(60)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    start = time.monotonic()
    try:
        with pytest.raises(UpstreamTimeout) as ended:
            ask(open_client("http://models.example.com"), 0.5)
        assert time.monotonic() - start < 0.5 + 1.0
        assert looked.is_set()
        assert not ended.value.asked
    finally:
        answered.set()


def test_deadline_while_others_have_the_turn(model_server: ModelServer, open_client: Open) -> None:
    """A call that gets no turn ends at its deadline, and was not sent."""
    model_server.respond = lambda _: model_server.freeze
    client = open_client(model_server, max_concurrent=1)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(ask, client, 1.5)
        wait_until(lambda: len(model_server.requests) == 1)
        with pytest.raises(UpstreamTimeout, match="1 requests at once") as ended:
            ask(client, 0.3)
        assert not ended.value.asked
        assert isinstance(first.exception(), UpstreamTimeout)
    assert len(model_server.requests) == 1


@pytest.mark.parametrize("kind", ["frozen", "drip", "pause", "turn"])
def test_cancelled_call_ends(model_server: ModelServer, open_client: Open, kind: str) -> None:
    """A call that was cancelled ends soon, wherever it waits, and says nothing of the base."""
    faults: dict[str, Reply | Script] = {
        "frozen": model_server.freeze,
        "drip": model_server.drip(HALF * 100),
        "pause": Reply(b"", 429, {"Retry-After": "9"}),
        "turn": model_server.freeze,
    }
    model_server.respond = lambda _: faults[kind]
    client = open_client(model_server, breaker_failures=1, max_concurrent=1 if kind == "turn" else 8)
    cancelled = threading.Event()

    def call() -> object:
        deadline = time.monotonic() + 30
        return client.post("/invocations", b"{}", "text/csv", deadline=deadline, cancelled=cancelled.is_set)

    with ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(call) for _ in range(2)]
        wait_until(lambda: len(model_server.requests) >= (1 if kind == "turn" else 2))
        start = time.monotonic()
        cancelled.set()
        assert all(isinstance(ended.exception(), CallCancelled) for ended in calls)
        assert time.monotonic() - start < 2.0
    assert client.states == {model_server.url: ("closed", 0)}


def test_probe_keeps_the_first_path_of_a_model_server(model_server: ModelServer, open_client: Open) -> None:
    """Paths with nothing, or with web pages, are passed over; a refusal of the model server will do."""
    replies = {
        "/a": Reply(b"{}", 404),
        "/b": Reply(b"", 405),
        "/c": Reply(b"<html>", headers=HTML),
        "/d": Reply(b"", 302, {"Location": "/login"}),
        "/e": Reply(b"<html>", 400, HTML),
        "/f": Reply(b'{"error_code": "BAD_REQUEST"}', 400),
        "/g": Reply(),
    }
    model_server.respond = lambda request: replies[request.target]
    client = open_client(model_server, breaker_failures=100)
    deadline = time.monotonic() + 20
    assert client.probe(list(replies), b"{}", "application/json", deadline=deadline) == "/f"
    assert client.probe(["/a", "/g"], b"{}", "application/json", deadline=deadline) == "/g"
    with pytest.raises(UpstreamFailed, match="/a: HTTP 404; /c: HTTP 200, which is not from a model server"):
        client.probe(["/a", "/c"], b"{}", "application/json", deadline=deadline)


def test_probe_of_a_server_that_fails(model_server: ModelServer, open_client: Open) -> None:
    """A server that fails says nothing of where the model is."""
    model_server.respond = lambda _: Reply(b"", 503, {})
    with pytest.raises(UpstreamFailed, match="HTTP 503"):
        open_client(model_server).probe(["/a", "/b"], b"", "text/csv", deadline=time.monotonic() + 20)
    assert {request.target for request in model_server.requests} == {"/a"}


def test_closed_exchange_takes_no_call(model_server: ModelServer, open_client: Open) -> None:
    """After its end an client says so, and keeps no connection."""
    client = open_client(model_server)
    ask(client)
    client.close()
    with pytest.raises(UpstreamFailed, match="shutting down"):
        ask(client)


def test_exchange_that_closes_under_a_call(model_server: ModelServer, open_client: Open) -> None:
    """A call that is under way when its client closes is told so where it needs another try."""
    client = open_client(model_server)

    def respond(_: Request) -> Script:
        client.close()
        return close

    model_server.respond = respond
    with pytest.raises(UpstreamFailed, match="shutting down"):
        ask(client)


@pytest.mark.parametrize("port", ["refused", "invalid"])
def test_nobody_there(open_client: Open, unused_tcp_port: int, port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not there is told as such."""
    monkeypatch.setenv("NO_PROXY", "*")
    url = f"http://127.0.0.1:{unused_tcp_port}" if port == "refused" else "http://models.invalid"
    with pytest.raises(UpstreamError, match=r"no connection|not found"):
        ask(open_client(url))


def test_answer_before_the_request_was_read(open_client: Open) -> None:
    """A server that refuses a large request before it has read it is heard."""

    class Early(ModelServer):
        def _serve(self, connection: socket.socket) -> None:
            connection.recv(1000)
            connection.sendall(Reply(b"{}", 413).head + b"{}")
            while connection.recv(1 << 20):
                pass

    with Early() as early, pytest.raises(UpstreamRefused, match="HTTP 413"):
        ask(open_client(early, max_retries=0), content=b"x" * 50_000_000)


def test_answer_that_nobody_asked_for(model_server: ModelServer, open_client: Open) -> None:
    """What a server sends on an idle connection is not taken for the answer to the next request."""
    sent = threading.Event()

    def twice(connection: socket.socket) -> None:
        connection.sendall(Reply().head + PREDICTIONS)
        time.sleep(0.1)
        connection.sendall(Reply(b"[]").head + b"[]")
        sent.set()
        model_server.ended.wait(60)

    model_server.respond = in_turn(twice, Reply())
    client = open_client(model_server)
    assert ask(client) == PREDICTIONS
    assert sent.wait(10)
    time.sleep(0.1)
    assert ask(client) == PREDICTIONS
    assert model_server.connections == 2


def test_thread_of_an_exchange_ends(model_server: ModelServer, open_client: Open) -> None:
    """The event loop's thread ends with the client, once its last call is over."""

    def threads() -> int:
        return sum(thread.name == "remote-requests" for thread in threading.enumerate())

    before = threads()
    model_server.respond = lambda _: model_server.freeze
    client = open_client(model_server)
    with ThreadPoolExecutor(1) as callers:
        last = callers.submit(ask, client, 1.0)
        wait_until(lambda: len(model_server.requests) == 1)
        client.close()
        assert isinstance(last.exception(), UpstreamTimeout)
    wait_until(lambda: threads() <= before)
