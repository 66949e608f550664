"""What the Rust front bounds by itself: what one connection, and all of them, may take."""

from __future__ import annotations

import contextlib
import gzip
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from prinz_enricher.config import ConnectionSettings
from prinz_enricher.fronts.grpc import SERVICE
from tests.hostile.frames import (
    CANCEL,
    DATA,
    END_STREAM,
    GOAWAY,
    MAX_FRAME,
    PING,
    RST_STREAM,
    Connection,
    GoneError,
    frame,
    header_block,
    message,
)
from tests.support.front_core import LIMIT, NEEDS_RUST, WAIT, Core, Running, eventually, refusal, running_front

pytestmark = NEEDS_RUST
ENHANCE_YOUR_CALM = 11


@pytest.fixture
def running() -> Iterator[Running]:
    """A front with small limits."""
    limits = ConnectionSettings(
        max_connections=20, per_peer=10, streams=50, resets_per_second=100, frames_per_second=200, unread_bytes=LIMIT
    )
    with running_front("rust", connection=limits, calls=200, inflight_bytes=64 * LIMIT) as running:
        yield running


def counts(running: Running) -> dict[str, int]:
    """Return what the limits have ended."""
    front: Any = running.front
    found: dict[str, int] = front._server.counts()
    return found


def is_answered(running: Running) -> bool:
    """Return whether a caller is served."""
    return bool(running.method("Score")(b"x", timeout=WAIT) == b"Score:x")


def reason_of_end(connection: Connection) -> int:
    """Read until the server closes the connection; return the reason in its GOAWAY."""
    connection.socket.settimeout(WAIT)
    received, reason = connection._received, -1
    while content := connection.socket.recv(1 << 20):
        received += content
    while len(received) >= 9:
        length = int.from_bytes(received[:3], "big")
        kind, payload, received = received[3], received[9 : 9 + length], received[9 + length :]
        if kind == GOAWAY:
            reason = struct.unpack(">II", payload[:8])[1]
    return reason


def test_too_many_resets(running: Running) -> None:
    """A connection that resets more calls than it may is ended with the reason, and others go on."""
    with Connection(running.port) as hostile:
        block = header_block("Score")
        calls = [hostile.call(block) for _ in range(101)]
        for stream, call in calls:
            hostile.send(call, frame(RST_STREAM, 0, stream, CANCEL))
        assert reason_of_end(hostile) == ENHANCE_YOUR_CALM
    assert counts(running)["resets"] == 1
    assert is_answered(running)


def test_too_many_frames(running: Running) -> None:
    """A connection that sends more frames without content than it may is ended with the reason."""
    with Connection(running.port) as hostile:
        hostile.send(*(frame(PING, 0, 0, bytes(8)) for _ in range(201)))
        assert reason_of_end(hostile) == ENHANCE_YOUR_CALM
    assert counts(running)["frames"] == 1
    assert is_answered(running)


def test_too_many_connections(running: Running) -> None:
    """An address has so many connections; one more is closed at once, and there is room again when one has gone."""
    assert is_answered(running)
    connections = [Connection(running.port) for _ in range(9)]
    for connection in connections:
        connection.receive(WAIT)
    with Connection(running.port) as more, pytest.raises(GoneError):
        more.receive(WAIT)
    assert counts(running)["connections_of_peer"] == 1
    assert counts(running)["open"] == 10
    for connection in connections:
        connection.socket.close()
    eventually(lambda: counts(running)["open"] == 1)
    with Connection(running.port) as again:
        again.receive(WAIT)
    assert is_answered(running)


def test_who_does_not_begin() -> None:
    """A connection that sends nothing, or headers without their end, is closed after a while."""
    limits = ConnectionSettings(handshake_seconds=0.2)
    with running_front("rust", connection=limits) as running:
        with Connection(running.port, greets=False) as silent:
            assert reason_of_end(silent) == -1
        with Connection(running.port) as slow:
            slow.send(frame(1, 0, 1, header_block("Score")))
            assert reason_of_end(slow) == ENHANCE_YOUR_CALM
        assert (counts(running)["handshake"], counts(running)["headers"]) == (1, 1)
        assert is_answered(running)


def test_an_idle_connection() -> None:
    """A connection without calls is closed after a while, with GOAWAY; one with a call is not."""
    with running_front("rust", connection=ConnectionSettings(idle_seconds=0.3)) as running:
        busy = running.method("Score").future(b"keep", timeout=WAIT)
        call = running.core.next_kept()
        with Connection(running.port) as idle:
            assert reason_of_end(idle) == 0
        assert not call.cancelled()
        call.respond(b"done")
        assert busy.result() == b"done"


def test_what_decompresses_to_more_than_a_message_may_have(running: Running) -> None:
    """A small message that becomes large is refused as it is decompressed; others are opened."""
    bomb = gzip.compress(bytes(100 * LIMIT))
    block = header_block("Score", ("grpc-encoding", "gzip"))
    score = running.method("Score")
    large = b"x" * (LIMIT - 6)
    assert score(large, timeout=WAIT, compression=grpc.Compression.Gzip) == b"Score:" + large
    code, reason, _ = refusal(lambda: score(bytes(LIMIT + 1), timeout=WAIT, compression=grpc.Compression.Gzip))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
    with Connection(running.port) as hostile:
        hostile.send(*(hostile.call(block, message(bomb, compressed=True))[1] for _ in range(8)))
        until_ended(hostile, 8)
    assert running.core.handled == 1


def until_ended(connection: Connection, count: int) -> set[int]:
    """Read until so many calls of a connection have ended; returns their streams."""
    ended: set[int] = set()
    limit = time.monotonic() + WAIT
    while len(ended) < count:
        assert time.monotonic() < limit, f"only {len(ended)} of {count} calls have ended"
        ended.update(connection.receive(0.1))
    return ended


def test_answers_that_nobody_reads(running: Running) -> None:
    """A caller that does not read has little of it kept, and none for long; the answers of others come."""
    with Connection(running.port, window=0) as greedy:
        block = header_block("Score")
        greedy.send(*(greedy.call(block, message(b"keep"))[1] for _ in range(40)))
        for _ in range(40):
            running.core.next_kept()
        for call in running.core.kept:
            call.respond(bytes(LIMIT // 2 - 5))
        # Two of them may wait.
        until_ended(greedy, 38)
        assert is_answered(running)
        until_ended(greedy, 2)
    assert counts(running)["unread"] == 40
    front: Any = running.front
    eventually(lambda: front._admission.in_flight == 0)


def test_large_answers_count_until_they_are_read(running: Running) -> None:
    """What one caller does not read counts against it; a large answer that is read counts no more."""
    front: Any = running.front
    for _ in range(100):
        future = running.method("Score").future(b"keep", timeout=WAIT)
        running.core.next_kept().respond(bytes(LIMIT))
        assert future.result() == bytes(LIMIT)
    eventually(lambda: front._admission.in_flight == 0 and not front._admission._bytes.total)


def test_requests_that_do_not_end(running: Running) -> None:
    """Requests whose last bytes do not come hold what came, and end after a while; others go through."""
    with Connection(running.port) as slow:
        block, begin = header_block("Score"), message(bytes(LIMIT))[:MAX_FRAME]
        slow.send(*(slow.call(block, begin, ends=False)[1] for _ in range(3)))
        assert running.method("Score")(bytes(LIMIT - 6), timeout=WAIT) == b"Score:" + bytes(LIMIT - 6)
        until_ended(slow, 3)
    assert running.core.handled == 1


def test_a_deadline_counts_from_the_arrival_of_the_call(running: Running) -> None:
    """While Python is busy, the time of a call goes on: it arrived when the server received it."""
    busy, go_on = threading.Event(), threading.Event()
    core: Any = running.core
    handle = core.handle

    def wait(calls: Any) -> None:
        if not busy.is_set():
            busy.set()
            assert go_on.wait(WAIT)
        handle(calls)

    front: Any = running.front
    front._handler = wait
    first = running.method("Score").future(b"x", timeout=WAIT)
    assert busy.wait(WAIT)
    sent = time.monotonic()
    second = running.method("Score").future(b"keep", timeout=20.0)
    # The server has it by then.
    eventually(lambda: time.monotonic() > sent + 0.5)
    go_on.set()
    call = running.core.next_kept()
    assert call.arrived < sent + 0.5
    assert call.deadline is not None
    assert call.deadline - call.arrived == pytest.approx(20.0, abs=0.2)
    call.respond(b"")
    assert (first.result(), second.result()) == (b"Score:x", b"")


def test_a_unix_socket(tmp_path: Path) -> None:
    """It serves on a Unix socket that no other user can reach."""
    from prinz_enricher.fronts.grpc.rust_front import RustFront

    path, core = tmp_path / "front.sock", Core()
    with running_front("rust") as running:
        limits: Any = running.front
        front = RustFront(f"unix:{path}", limits._limits)
        assert front.start(core.handle, core.open_source) == 0
        assert path.stat().st_mode & 0o777 == 0o600
        # By itself gRPC sends the path as the authority, which http does not allow there.
        options = [("grpc.default_authority", "localhost")]
        with grpc.insecure_channel(f"unix:{path}", options=options) as channel:
            score: Any = channel.unary_unary(f"/{SERVICE.full_name}/Score")
            assert score(b"x", timeout=WAIT) == b"Score:x"
        front.drain(0.1)


def test_what_is_not_grpc(running: Running) -> None:
    """Another protocol, method or content type is refused, and costs the connection at most."""
    with (
        socket.create_connection(("127.0.0.1", running.port), WAIT) as plain,
        contextlib.suppress(ConnectionResetError),
    ):
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while plain.recv(1 << 16):
            pass
    assert is_answered(running)


def test_what_is_not_grpc_is_answered_after_its_body(running: Running) -> None:
    """A request of another content type is refused once its body has ended, or is larger than a message may be."""
    with Connection(running.port) as caller:
        block = header_block("Score", content_type="application/json")
        first, begin = caller.call(block, b"{", ends=False)
        second, call = caller.call(header_block("Score"), message(b"x"))
        caller.send(begin, call)
        assert until_ended(caller, 1) == {second}
        caller.send(frame(DATA, END_STREAM, first, b"}"))
        assert until_ended(caller, 1) == {first}
        large, begin = caller.call(block, bytes(1), ends=False)
        caller.send(begin)
        assert caller.send_bodies([(large, bytes(100 * LIMIT))], time.monotonic() + WAIT) == {large}
    assert running.core.handled == 1


def test_messages_that_are_damaged(running: Running) -> None:
    """Compression that is damaged or unknown, a message that is cut, none and two: the call fails, and no other."""
    cases = [
        (header_block("Score", ("grpc-encoding", "gzip")), message(b"no gzip", compressed=True)),
        (header_block("Score", ("grpc-encoding", "snappy")), message(b"x", compressed=True)),
        (header_block("Score"), message(b"x", compressed=True)),
        (header_block("Score"), message(b"xyz")[:-1]),
        (header_block("Score"), b"\x07" + message(b"xyz")[1:]),
        (header_block("Score"), b""),
        (header_block("Score"), message(b"x") * 2),
        (header_block("Score", ("grpc-timeout", "soon")), message(b"x")),
    ]
    with Connection(running.port) as odd:
        odd.send(*(odd.call(block, body)[1] for block, body in cases))
        until_ended(odd, len(cases))
        assert odd.read(wait=0.1)
    assert running.core.handled == 0
    assert is_answered(running)


def test_a_request_that_is_no_message(running: Running) -> None:
    """What no handler expects, bytes that health can't read say, is INTERNAL with the id under which the log has it."""
    check: Any = running.channel.unary_unary("/grpc.health.v1.Health/Check")
    code, reason, text = refusal(lambda: check(b"\xff\xff", timeout=WAIT))
    assert (code, reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "varint" not in text
    assert check(b"", timeout=WAIT)
