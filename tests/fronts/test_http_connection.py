"""What the HTTP API makes of whatever comes over a connection."""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from prinz_enricher.fronts.http import http_connection as connection
from prinz_enricher.scoring.ports import Target
from tests.support.deadline import wait_until
from tests.support.guarded_service import WAIT, GuardedService, halve
from tests.support.http_api import LIMIT, RunningApi, request, running_api

GET = b"GET /v1/models/wine HTTP/1.1\r\nHost: x\r\n\r\n"


class SlowService(GuardedService):
    """A service whose model `slow` answers when the test says so."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Semaphore(0), threading.Event()
        super().__init__("wine", "slow")

    def function_of(self, target: Target) -> Any:
        """Return what scores a model."""

        def score(batch: pa.RecordBatch, params: object) -> pa.RecordBatch:
            if target.name == "slow":
                self.begun.release()
                self.go_on.wait(WAIT)
            return halve(batch, params)

        return score


@pytest.fixture(scope="module")
def api() -> Iterator[RunningApi]:
    """The API."""
    with GuardedService("wine") as service, running_api(service) as running:
        yield running


@pytest.fixture
def slow() -> Iterator[RunningApi]:
    """The API with a model that waits."""
    with SlowService() as service, running_api(service) as running:
        try:
            yield running
        finally:
            service.go_on.set()


def test_keep_alive(api: RunningApi) -> None:
    """A connection takes one request after the other, also after refusals; HTTP/1.0 closes."""
    raw = api.raw()
    for body, status in (
        (b'{"rows":[{"x":3}]}', 200),
        (b"{", 400),
        (b'{"rows":[{"x":"a"}]}', 422),
        (b'{"rows":[]}', 200),
    ):
        raw.send(request(body))
        assert raw.answer()[0] == status
    raw.send(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
    assert raw.answer()[0] == 404
    raw.send(GET.replace(b"1.1", b"1.0"))
    status, headers, _ = raw.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert raw.is_closed()


def test_byte_by_byte(api: RunningApi) -> None:
    """A request that comes byte by byte, or in chunks with a trailer, is a request."""
    raw = api.raw()
    for byte in request():
        raw.send(bytes([byte]))
    assert raw.answer()[2]["rows"] == [{"y": 1.5}]
    chunks = b'5\r\n{"row\r\nd;x=y\r\ns":[{"x":3}]}\r\n0\r\nTrailer: x\r\n\r\n'
    raw.send(request(chunks, "Transfer-Encoding: chunked"))
    assert raw.answer()[2]["rows"] == [{"y": 1.5}]
    raw.send(GET)
    assert raw.answer()[0] == 200


def test_expect(api: RunningApi) -> None:
    """Who asks first is told to go on, or why not, before it sends the body."""
    raw = api.raw()
    body = b'{"rows":[{"x":3}]}'
    raw.send(request(body, "Expect: 100-continue")[: -len(body)])
    assert raw.head()[0] == 100
    raw.send(body)
    assert raw.answer()[0] == 200
    raw.send(request(b"", f"Content-Length: {LIMIT + 1}", "Expect: 100-continue"))
    status, headers, problem = raw.answer()
    assert (status, headers["connection"], problem["reason"]) == (413, "close", "MESSAGE_TOO_LARGE")


@pytest.mark.parametrize("together", [True, False])
def test_a_body_behind_an_upgrade(api: RunningApi, *, together: bool) -> None:
    """A client that asks for HTTP/2 with its body, as Java's does by default, hears why not: its body is not lost."""
    raw = api.raw()
    head, end, body = request(b'{"rows":[{"x":3}]}', "Connection: Upgrade", "Upgrade: h2c").partition(b"\r\n\r\n")
    for part in [head + end + body] if together else [head + end, body]:
        raw.send(part)
    status, headers, problem = raw.answer()
    assert (status, headers["connection"], problem["reason"]) == (400, "close", "INVALID_HTTP")
    assert "Upgrade" in problem["detail"]
    assert raw.is_closed()
    assert api.score([{"x": 3}]).status_code == 200


def test_pipelining(slow: RunningApi) -> None:
    """Requests that come at once are answered in their order, each after the one before."""
    raw = slow.raw()
    rows = [f'{{"rows":[{{"x":{number}}}]}}'.encode() for number in range(20)]
    raw.send(request(rows[0], path="/v1/models/slow:score") + b"".join(request(row) for row in rows[1:]))
    assert slow.service.begun.acquire(timeout=WAIT)  # type: ignore[attr-defined]
    slow.service.go_on.set()  # type: ignore[attr-defined]

    assert [raw.answer()[2]["rows"][0]["y"] for _ in rows] == [number / 2 for number in range(20)]
    raw.send(GET * 200)
    statuses = []
    with contextlib.suppress(EOFError, ConnectionResetError):
        statuses += [raw.answer()[0] for _ in range(200)]
    assert len(statuses) < 200


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/3.0\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n\r\n",
        b"GET v1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA\x00: b\r\n\r\n",
        request(b"x", "Content-Length: 1", "Content-Length: 2"),
        request(b"0\r\n\r\n", "Transfer-Encoding: chunked", "Content-Length: 5"),
        request(b"0\r\n\r\n", "Transfer-Encoding: chunked, identity"),
        request(b"zz\r\n", "Transfer-Encoding: chunked"),
        request(b"", "Content-Length: -1"),
        request(b"", "Content-Length: 99999999999999999999999"),
        b"CONNECT example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_what_is_no_request(api: RunningApi, data: bytes) -> None:
    """What is not HTTP/1.1, or could be read in two ways, is refused, and the connection closed."""
    raw = api.raw()
    raw.send(data)

    status, headers, problem = raw.answer()

    assert 400 <= status < 500
    assert headers["connection"] == "close"
    assert problem["reason"] in {"INVALID_HTTP", "MESSAGE_TOO_LARGE", "PATH_NOT_FOUND"}
    assert raw.is_closed()


def test_large_heads(api: RunningApi) -> None:
    """A head that is too large, in one header, in many, or without an end, is refused."""
    for data in (
        request(b"", f"X: {'x' * connection.MAX_HEAD_BYTES}"),
        request(b"", *[f"X-{number}: x" for number in range(connection.MAX_HEADERS + 1)]),
        f"GET /{'x' * connection.MAX_HEAD_BYTES} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        b"GET / HTTP/1.1\r\nX: " + b"x" * 4 * connection.MAX_HEAD_BYTES,
    ):
        raw = api.raw()
        raw.send(data)
        assert raw.answer()[0] == 431
        assert raw.is_closed()


def test_large_bodies(api: RunningApi) -> None:
    """A body over the limit is refused when its length is known, or as soon as it is too long."""
    for data in (
        request(b"", f"Content-Length: {LIMIT + 1}"),
        request(b"%x\r\n" % (2 * LIMIT) + bytes(2 * LIMIT), "Transfer-Encoding: chunked"),
    ):
        raw = api.raw()
        raw.send(data)
        assert raw.answer()[0] == 413
        raw.close()
    compressed = request(gzip.compress(b'{"rows":[]}'), "Content-Encoding: gzip")
    raw = api.raw()
    raw.send(compressed)
    assert raw.answer()[0] == 415


def test_slow_and_cut_off(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head or a body that does not come is not waited for, and one that is cut off is forgotten."""
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.4)
    monkeypatch.setattr(connection, "BODY_SECONDS", 0.4)
    nothing, head, body = api.raw(), api.raw(), api.raw()
    head.send(b"GET /v1/models HTTP/1.1\r\nHo")
    body.send(request(b"{", "Content-Length: 100"))
    assert body.answer()[0] == 408
    for raw in (nothing, head, body):
        assert raw.is_closed()
    cut = api.raw()
    cut.send(request(b"{", "Content-Length: 100"))
    cut.close()
    wait_until(lambda: api.front.api.admission.in_flight == 0, WAIT)


def test_a_caller_that_goes(slow: RunningApi) -> None:
    """The call of a caller that has gone is cancelled, and counted as such."""
    raw = slow.raw()
    raw.send(request(path="/v1/models/slow:score"))
    assert slow.service.begun.acquire(timeout=WAIT)  # type: ignore[attr-defined]
    raw.close()
    wait_until(lambda: slow.front.api.admission.in_flight == 0, WAIT)
    key = ("POST", "/v1/models/{name}:score", "499")
    assert slow.service.series.requests[key].counts
    assert slow.service.series.version("slow", "1").calls == {"ok": 0, "CANCELLED": 1}


def test_deadlines(slow: RunningApi) -> None:
    """A request is answered by the end of its time, which a header may shorten, and at most a hundredth sooner."""
    began = time.monotonic()
    answer = slow.score([{"x": 1}], "slow", headers={"X-Request-Timeout": "0.5"})

    assert (answer.status_code, answer.json()["reason"]) == (504, "DEADLINE_EXCEEDED")
    assert 0.495 <= time.monotonic() - began < WAIT
    for wrong in ("0", "-1", "nan", "x"):
        assert slow.score([], headers={"X-Request-Timeout": wrong}).json()["reason"] == "INVALID_REQUEST"


def test_an_answer_that_nobody_reads(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose answer is not read is closed after a while, and its bytes are free again."""
    monkeypatch.setattr(connection, "WRITE_SECONDS", 0.3)
    raw, open_now = api.raw(), len(api.front._connections)
    raw.socket.settimeout(2.0)
    row = b'{"x":1.2345678901234567},' * 9_000
    for _ in range(40):
        try:
            raw.send(request(b'{"rows":[' + row[:-1] + b"]}"))
        except OSError:
            break
    wait_until(lambda: not api.front.api.admission.in_flight and len(api.front._connections) <= open_now, WAIT)
    assert raw.is_closed() or raw.socket.recv(1 << 20)


def test_drain(slow: RunningApi) -> None:
    """In a drain whatever comes is answered, with word that the connection ends; none is closed without an answer."""
    idle, busy = slow.raw(), slow.raw()
    for raw in (idle, busy):
        raw.send(GET)
        assert "connection" not in raw.answer()[1]
    busy.send(request(path="/v1/models/slow:score"))
    assert slow.service.begun.acquire(timeout=WAIT)  # type: ignore[attr-defined]
    slow.front.begin_drain()
    ended = threading.Thread(target=slow.front.drain, args=(WAIT,))
    ended.start()
    idle.send(GET)
    late = slow.raw()
    late.send(GET)
    for raw in (idle, late):
        status, headers, _ = raw.answer()
        assert (status, headers["connection"]) == (200, "close")
    assert ended.is_alive()
    slow.service.go_on.set()  # type: ignore[attr-defined]
    status, headers, _ = busy.answer()
    assert (status, headers["connection"]) == (200, "close")
    ended.join(WAIT)
    assert not ended.is_alive()
    with pytest.raises(OSError, match="refused"):
        slow.raw()


def test_who_has_just_connected(slow: RunningApi) -> None:
    """At the end of a drain idle connections are closed, but not one whose first request is still on its way."""
    idle, new = slow.raw(), slow.raw()
    idle.send(GET)
    assert idle.answer()[0] == 200
    ended = threading.Thread(target=slow.front.drain, args=(WAIT,))
    ended.start()
    assert idle.is_closed()
    new.send(GET)
    status, headers, _ = new.answer()
    assert (status, headers["connection"]) == (200, "close")
    ended.join(WAIT)
    assert not ended.is_alive()


def test_many_connections(api: RunningApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the limit, the connection that was not used for the longest time makes room."""
    monkeypatch.setattr(api.front, "_most", 4)
    first = [api.raw() for _ in range(4)]
    for raw in first:
        raw.send(GET)
        assert raw.answer()[0] == 200
    first[0].send(GET)
    assert first[0].answer()[0] == 200
    more = api.raw()
    more.send(GET)
    assert more.answer()[0] == 200
    assert first[1].is_closed()
    for raw in (first[0], first[2], more):
        raw.send(GET)
        assert raw.answer()[0] == 200
