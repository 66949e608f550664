"""What hostile callers do, each for some seconds: `python -m tests.hostile.attacks NAME PORT SECONDS SCALE`.

Runs at the lowest priority: a caller elsewhere would not take this machine's cores either.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import resource
import struct
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final, Self

from prinz_enricher.batch.wire import prefix
from prinz_enricher.contract import enricher_service_pb2 as pb
from tests.hostile import frames
from tests.hostile.frames import Connection, GoneError, frame, header_block, message
from tests.hostile.models import CLAIMS, MESSAGE_BYTES, one_row, one_text

MANY_STREAMS: Final = 100
"""Calls on a connection: what any server lets in."""


@dataclass(frozen=True)
class Target:
    """What is attacked, and how much.

    Attributes:
        port: Of the server.
        end: When to stop, by `time.monotonic()`.
        scale: The part of the full size.
        opened: Connections that are closed with this.
    """

    port: int
    end: float
    scale: float
    opened: list[Connection] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self.opened:
            connection.socket.close()

    @property
    def going(self) -> bool:
        """Whether there is time left."""
        return time.monotonic() < self.end

    def count(self, full: int) -> int:
        """Return how many of something."""
        return max(1, int(full * self.scale))

    def connections(self, full: int, *, window: int | None = None, greets: bool = True) -> list[Connection]:
        """Open so many connections as fast as they are accepted."""
        start = len(self.opened)
        for _ in range(self.count(full)):
            if not self.going:
                break
            with contextlib.suppress(OSError, GoneError):
                self.opened.append(Connection(self.port, window=window, greets=greets))
        return self.opened[start:]

    def hold(self, connections: list[Connection], *, reads: bool = False) -> None:
        """Keep connections open until the end."""
        while self.going:
            if reads:
                for connection in connections:
                    connection.read()
            time.sleep(0.05)

    def repeat(self, act: Callable[[Connection], None]) -> None:
        """Act on a new connection, and on another whenever the server has closed it, until the end."""
        while self.going:
            with contextlib.suppress(OSError, GoneError), Connection(self.port) as connection:
                act(connection)
            # A server that closes at once is not to be flooded with connections too.
            time.sleep(0.01)


Attack = Callable[[Target], None]
SERVER_FLAGS: Final = {"full-of-connections": ["--files", "1024"], "forged-tokens": ["--tokens"]}
"""What a service that is attacked so runs with."""

ATTACKS: dict[str, Attack] = {}


def attack(run: Attack) -> Attack:
    """Note an attack by its name."""
    ATTACKS[run.__name__.replace("_", "-")] = run
    return run


@attack
def idle_connections(target: Target) -> None:
    """5,000 connections that greet and do nothing."""
    target.hold(target.connections(5_000))


@attack
def full_of_connections(target: Target) -> None:
    """Idle connections for as long as more are accepted, where the service may open 1,024 files."""
    target.hold(target.connections(5_000))


@attack
def half_open_connections(target: Target) -> None:
    """5,000 connections that send nothing at all."""
    target.hold(target.connections(5_000, greets=False))


@attack
def slow_headers(target: Target) -> None:
    """1,000 connections whose headers come one byte at a time."""
    connections = target.connections(1_000)
    block = header_block("Score")
    for connection in connections:
        with contextlib.suppress(GoneError):
            connection.send(frame(frames.HEADERS, 0, connection.next_stream(), block[:1]))
    for place in range(1, len(block) - 1):
        for connection in connections:
            with contextlib.suppress(GoneError):
                connection.send(frame(frames.CONTINUATION, 0, 1, block[place : place + 1]))
        if not target.going:
            return
    target.hold(connections)


def _waves(target: Target, calls: int, make: Callable[[Connection], bytes]) -> None:
    """Send calls by the hundred on one connection, wave after wave."""
    left = 10 * target.count(calls)

    def flood(connection: Connection) -> None:
        nonlocal left
        while target.going and left > 0 and connection.read():
            connection.send(*(make(connection) for _ in range(MANY_STREAMS)))
            left -= MANY_STREAMS
        if left <= 0:
            target.hold([connection], reads=True)

    target.repeat(flood)


@attack
def rapid_reset(target: Target) -> None:
    """Waves of 10,000 streams, each reset as soon as its headers are sent."""
    block = header_block("Score")

    def make(connection: Connection) -> bytes:
        stream, call = connection.call(block)
        return call + frame(frames.RST_STREAM, 0, stream, frames.CANCEL)

    _waves(target, 10_000, make)


@attack
def cancel_storm(target: Target) -> None:
    """Waves of 20,000 whole calls, each cancelled at once."""
    block, body = header_block("Score"), message(one_row())

    def make(connection: Connection) -> bytes:
        stream, call = connection.call(block, body)
        return call + frame(frames.RST_STREAM, 0, stream, frames.CANCEL)

    _waves(target, 20_000, make)


@attack
def deadline_storm(target: Target) -> None:
    """Waves of 20,000 whole calls with a deadline of 1 ms."""
    block, body = header_block("Score", ("grpc-timeout", "1m")), message(one_row())
    _waves(target, 20_000, lambda connection: connection.call(block, body)[1])


@attack
def headers_only(target: Target) -> None:
    """10,000 calls on 100 connections of which only headers come."""
    block = header_block("Score")
    connections = target.connections(100)
    for connection in connections:
        with contextlib.suppress(GoneError):
            connection.send(*(connection.call(block)[1] for _ in range(MANY_STREAMS)))
    target.hold(connections, reads=True)


@attack
def continuation_flood(target: Target) -> None:
    """Headers without an end: CONTINUATION frames of 16 KB of literals, as fast as they are taken."""
    block = header_block("Score")
    # Literal headers that are never indexed, 4 KB each.
    literal = b"\x10\x01x" + b"\x7f\x81\x1f" + b"y" * 4_096
    flood = frame(frames.CONTINUATION, 0, 1, literal * 3) * 32
    _flood(target, flood, frame(frames.HEADERS, 0, 1, block), reads=True)


@attack
def empty_continuation_flood(target: Target) -> None:
    """Headers without an end: empty CONTINUATION frames."""
    block = header_block("Score")
    _flood(target, frame(frames.CONTINUATION, 0, 1) * 1_000, frame(frames.HEADERS, 0, 1, block), reads=True)


@attack
def settings_flood(target: Target) -> None:
    """SETTINGS frames whose acknowledgements are never read."""
    flood = frame(frames.SETTINGS, payload=struct.pack(">HI", frames.INITIAL_WINDOW_SIZE, 65_535)) * 1_000
    _flood(target, flood)


@attack
def ping_flood(target: Target) -> None:
    """PING frames whose acknowledgements are never read."""
    flood = frame(frames.PING, payload=bytes(8)) * 1_000
    _flood(target, flood)


def _flood(target: Target, flood: bytes, first: bytes = b"", *, reads: bool = False) -> None:
    def send(connection: Connection) -> None:
        connection.send(first)
        while target.going and (not reads or connection.read()):
            connection.send(flood)

    target.repeat(send)


@attack
def giant_header(target: Target) -> None:
    """Calls with a header of 8 MB, one after another."""
    literal = b"\x10\x01x" + b"\x7f" + _varint(8 * 1024 * 1024 - 127) + b"y" * (8 * 1024 * 1024)
    _header_calls(target, header_block("Score") + literal)


@attack
def many_headers(target: Target) -> None:
    """Calls with 100,000 headers, one after another."""
    _header_calls(target, header_block("Score") + b"\x10\x01x\x01y" * 100_000)


def _header_calls(target: Target, block: bytes) -> None:
    parts = [block[place : place + frames.MAX_FRAME] for place in range(0, len(block), frames.MAX_FRAME)]

    def send(connection: Connection) -> None:
        while target.going and connection.read():
            stream = connection.next_stream()
            connection.send(frame(frames.HEADERS, 0, stream, parts[0]))
            for place, part in enumerate(parts[1:], 2):
                flags = frames.END_HEADERS if place == len(parts) else 0
                connection.send(frame(frames.CONTINUATION, flags, stream, part))
            time.sleep(0.01)

    target.repeat(send)


@attack
def announced_length(target: Target) -> None:
    """1,000 messages of 1 GB, announced and never sent, and as many of the largest size that is taken."""
    block = header_block("Score")
    connections = target.connections(20)
    for length in (1 << 30, MESSAGE_BYTES - 1):
        body = struct.pack(">BI", 0, length) + bytes(100)
        for connection in connections:
            with contextlib.suppress(GoneError):
                connection.send(*(connection.call(block, body, ends=False)[1] for _ in range(MANY_STREAMS // 2)))
    target.hold(connections, reads=True)


@attack
def large_bodies(target: Target) -> None:
    """100 requests at once just below the largest size, then again."""
    body = message(bytes(MESSAGE_BYTES - 1))
    _bodies(target, header_block("Score"), body, target.count(100))


@attack
def large_bodies_in_turn(target: Target) -> None:
    """Two requests at once just below the largest size, then again."""
    body = message(bytes(MESSAGE_BYTES - 1))
    _bodies(target, header_block("Score"), body, 2)


@attack
def gzip_bombs(target: Target) -> None:
    """20 requests at once of 1.5 MB that become 1.5 GB, then again."""
    bomb = gzip.compress(bytes(MESSAGE_BYTES), 9) * (1_500_000_000 // MESSAGE_BYTES)
    _bodies(target, header_block("Score", ("grpc-encoding", "gzip")), message(bomb, compressed=True), target.count(20))


def _bodies(target: Target, block: bytes, body: bytes, count: int) -> None:
    def send(connection: Connection) -> None:
        while target.going:
            streams = []
            for _ in range(count):
                stream, call = connection.call(block)
                connection.send(call)
                streams.append((stream, body))
            connection.send_bodies(streams, target.end)

    target.repeat(send)


@attack
def malformed_messages(target: Target) -> None:
    """Calls of random bytes, as protobuf and as Arrow."""
    block, random = header_block("Score"), Random(1)  # noqa: S311 - no secret
    arrow = [pb.ScoreRequest(arrow_stream=random.randbytes(1_000)) for _ in range(20)]
    for request in arrow:
        request.model.name = "echo"
    bodies = [message(request.SerializeToString()) for request in arrow]
    bodies += [message(random.randbytes(1_000)) for _ in range(20)]

    def send(connection: Connection) -> None:
        while target.going and connection.read():
            connection.send(*(connection.call(block, body)[1] for body in bodies))
            time.sleep(0.1)

    target.repeat(send)


@attack
def million_columns(target: Target) -> None:
    """Requests of a million columns without a value: in one part, in several, and after a group."""
    request = pb.ScoreRequest()
    request.model.name = "echo"
    start, columns = request.SerializeToString(), _field(2, _field(2, b"") * 1_000_000)
    bodies = [start + columns, start + _field(2, b"") + columns, start + b"\x7b\x7c" + columns]
    _repeated(target, header_block("Score"), [message(body) for body in bodies], part=1.0)


@attack
def millions_of_values(target: Target) -> None:
    """Requests of 12 MB of empty texts, empty values in a list of one row, and small numbers in a column."""
    request = pb.ScoreRequest()
    request.model.name = "echo"
    start, empty = request.SerializeToString(), _field(1, b"") * 6_000_000
    columns = [_field(8, empty), _field(11, _field(1, _field(8, empty))), _field(5, _field(1, b"\x01" * 12_000_000))]
    bodies = [start + _field(2, b"\x08\x01" + _field(2, column)) for column in columns]
    _repeated(target, header_block("Score"), [message(body) for body in bodies], part=1.0)


@attack
def deep_nesting(target: Target) -> None:
    """Messages of groups, and filters of parentheses, nested 10,000 deep."""
    groups = message(b"\x7b" * 10_000 + b"\x7c" * 10_000)
    filters = message(pb.ListModelsRequest(filter="(" * 10_000 + "a = 'b'" + ")" * 10_000).SerializeToString())
    _repeated(target, header_block("Score"), [groups])
    _repeated(target, header_block("ListModels"), [filters], part=1.0)


@attack
def backtracking_filters(target: Target) -> None:
    """Filters whose patterns have a hundred wildcards, over long names."""
    request = pb.ListModelsRequest(filter="name ILIKE '" + "%a_" * 100 + "b'")
    _repeated(target, header_block("ListModels"), [message(request.SerializeToString())] * 20, part=1.0)


@attack
def forged_tokens(target: Target) -> None:
    """Calls with JWTs, each of another signature that is wrong, and static tokens that nobody has."""
    random = Random(1)  # noqa: S311 - no secret
    header, claims = (urlsafe_b64encode(part).decode().rstrip("=") for part in (b'{"alg":"ES256","kid":"one"}', CLAIMS))
    body = message(one_row())

    def send(connection: Connection) -> None:
        while target.going and connection.read():
            for _ in range(50):
                signature = urlsafe_b64encode(random.randbytes(64)).decode().rstrip("=")
                for token in (f"{header}.{claims}.{signature}", signature):
                    connection.send(
                        connection.call(header_block("Score", ("authorization", f"Bearer {token}")), body)[1]
                    )

    target.repeat(send)


def _repeated(target: Target, block: bytes, bodies: Sequence[bytes], *, part: float = 0.5) -> None:
    """Send calls again and again, some hundred a second at most, for a part of the time left."""
    end = time.monotonic() + part * (target.end - time.monotonic())

    def send(connection: Connection) -> None:
        while time.monotonic() < end and connection.read():
            streams = [(connection.call(block), body) for body in bodies]
            connection.send(*(call for (_, call), _ in streams))
            connection.send_bodies([(stream, body) for (stream, _), body in streams], end)
            time.sleep(0.02)

    while time.monotonic() < end:
        with contextlib.suppress(OSError, GoneError), Connection(target.port) as connection:
            send(connection)


@attack
def unread_watchers(target: Target) -> None:
    """5,000 watchers that never read."""
    block, body = header_block("WatchModels"), message(pb.WatchModelsRequest().SerializeToString())
    connections = target.connections(50, window=0)
    for connection in connections:
        with contextlib.suppress(GoneError):
            connection.send(*(connection.call(block, body)[1] for _ in range(MANY_STREAMS)))
    target.hold(connections)


@attack
def unread_score_streams(target: Target) -> None:
    """1,000 ScoreStreams that send all the time and never read."""
    _score_streams(target, target.count(1_000))


@attack
def ten_unread_score_streams(target: Target) -> None:
    """Ten ScoreStreams that send all the time and never read."""
    _score_streams(target, 10)


def _score_streams(target: Target, count: int) -> None:
    block = header_block("ScoreStream")
    row = pb.ScoreStreamRequest(sequence=1, request=pb.ScoreRequest.FromString(one_row())).SerializeToString()
    burst = message(row) * (60_000 // len(message(row)))
    connections: list[tuple[Connection, list[tuple[int, bytes]]]] = []
    # A hundred on each, whatever the scale is.
    for _ in range(0, count, MANY_STREAMS):
        connection = Connection(target.port, window=0)
        target.opened.append(connection)
        streams = []
        for _ in range(min(MANY_STREAMS, count)):
            stream, call = connection.call(block)
            connection.send(call)
            streams.append((stream, burst))
        count -= len(streams)
        connections.append((connection, streams))
    while target.going:
        for connection, streams in connections:
            with contextlib.suppress(GoneError):
                connection.send_bodies(streams, min(target.end, time.monotonic() + 0.2))
        time.sleep(0.01)


@attack
def unread_answers(target: Target) -> None:
    """200 answers of 8 MB that nobody reads."""
    block, body = header_block("Score"), message(one_text(8_000_000))
    connections = target.connections(2, window=0)
    for connection in connections:
        with contextlib.suppress(GoneError):
            connection.send(*(connection.call(block, body)[1] for _ in range(target.count(MANY_STREAMS))))
    target.hold(connections)


def _varint(value: int) -> bytes:
    """Return an integer as HPACK continues one."""
    written = b""
    while value >= 128:
        written += bytes([value % 128 + 128])
        value //= 128
    return written + bytes([value])


def _field(number: int, content: bytes) -> bytes:
    """Return a field of protobuf."""
    return prefix(number, len(content)) + content


def main() -> None:
    """Attack once a line comes, and print what was sent."""
    name, port, seconds, scale = sys.argv[1:]
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.stdin.readline()
    try:
        with Target(int(port), time.monotonic() + float(seconds), float(scale)) as target:
            ATTACKS[name](target)
    finally:
        sent = Connection.sent // 1_000_000
        sys.stdout.write(f"{Connection.opened:,} connections, {Connection.streams:,} streams, {sent:,} MB")


if __name__ == "__main__":
    main()
