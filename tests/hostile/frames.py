"""HTTP/2 by hand on a raw socket, so that a caller does what no library would: it knows the rules, and keeps few."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterable
from typing import ClassVar, Final, Self

from hpack import Encoder

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME: Final = 16_384
CANCEL: Final = (8).to_bytes(4, "big")
_TIMEOUT: Final = 1.0
"""Seconds after which a server that takes nothing more has closed its ears."""

SERVICE: Final = "prinz.enricher.v1.EnricherService"


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """Return a frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def message(content: bytes, *, compressed: bool = False) -> bytes:
    """Return a message with gRPC's prefix."""
    return struct.pack(">BI", compressed, len(content)) + content


def header_block(method: str, *more: tuple[str, str], content_type: str = "application/grpc") -> bytes:
    """Return the headers of a call, compressed."""
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", f"/{SERVICE}/{method}"),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", content_type),
        *more,
    ]
    return Encoder().encode(headers)


class GoneError(Exception):
    """The server has closed the connection."""


class Connection:
    """A connection that sends whatever it is asked to.

    Args:
        port: Of the server, on loopback.
        window: Bytes of an answer that the server may send before this caller has read any; None for HTTP/2's 65,535.
        greets: Whether it sends HTTP/2's preface.

    Attributes:
        opened, streams, sent: Connections and streams opened, and bytes sent, by all of this process.
    """

    opened: ClassVar[int] = 0
    streams: ClassVar[int] = 0
    sent: ClassVar[int] = 0

    def __init__(self, port: int, *, window: int | None = None, greets: bool = True) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT)
        Connection.opened += 1
        self._next = 1
        self._received = b""
        self._room = {0: 65_535}
        self._initial_room = 65_535
        if greets:
            settings = b"" if window is None else struct.pack(">HI", INITIAL_WINDOW_SIZE, window)
            self.send(PREFACE + frame(SETTINGS, payload=settings))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *frames: bytes) -> None:
        """Send frames; raises GoneError where the server has closed the connection, or takes no more for long."""
        content = b"".join(frames)
        try:
            self.socket.sendall(content)
            Connection.sent += len(content)
        except OSError as error:
            raise GoneError from error

    def next_stream(self) -> int:
        """Return the number of a new stream."""
        Connection.streams += 1
        self._next += 2
        return self._next - 2

    def call(self, block: bytes, body: bytes | None = None, *, ends: bool = True) -> tuple[int, bytes]:
        """Return a new stream, and the frames of a call whose body is small; None for one that sends headers alone."""
        stream = self.next_stream()
        frames = frame(HEADERS, END_HEADERS, stream, block)
        if body is not None:
            frames += frame(DATA, END_STREAM if ends else 0, stream, body)
        return stream, frames

    def read(self, *, wait: float = 0.0) -> bool:
        """Read what has come, and answer PING and SETTINGS as a good caller does; returns whether the server listens.

        Args:
            wait: Seconds to wait for something to come.
        """
        try:
            self.receive(wait)
        except GoneError:
            return False
        return True

    def send_bodies(self, bodies: Iterable[tuple[int, bytes]], until: float) -> set[int]:
        """Send parts of large bodies in turns, as far as the server's windows allow, until all is sent or a time.

        Returns:
            The streams that ended before all of theirs was sent.
        """
        ended = set()
        left = {stream: memoryview(body) for stream, body in bodies}
        while left and time.monotonic() < until:
            sent = False
            for stream, body in list(left.items()):
                room = min(self._room[0], self._room.setdefault(stream, self._initial_room), MAX_FRAME, len(body))
                if room <= 0:
                    continue
                sent = True
                left[stream] = body[room:]
                self.send(frame(DATA, 0 if left[stream] else END_STREAM, stream, bytes(body[:room])))
                self._room[0] -= room
                self._room[stream] -= room
                if not left[stream]:
                    del left[stream]
            for stream in self.receive(0.0 if sent else 0.2):
                if left.pop(stream, None):
                    ended.add(stream)
        return ended

    def receive(self, wait: float) -> list[int]:
        """Read what comes within some seconds, and note the windows that open; returns the streams that have ended."""
        ended = []
        try:
            self.socket.settimeout(wait)
            content = self.socket.recv(1 << 20)
            if not content:
                raise GoneError
            self._received += content
        except (BlockingIOError, TimeoutError):
            pass
        except OSError as error:
            raise GoneError from error
        finally:
            self.socket.settimeout(_TIMEOUT)
        while len(self._received) >= 9:
            length = int.from_bytes(self._received[:3], "big")
            if len(self._received) < 9 + length:
                break
            kind, flags, stream = struct.unpack(">BBI", self._received[3:9])
            payload, self._received = self._received[9 : 9 + length], self._received[9 + length :]
            if kind == WINDOW_UPDATE:
                self._room[stream] = self._room.get(stream, self._initial_room) + int.from_bytes(payload, "big")
            elif kind == SETTINGS and not flags & ACK:
                self._settle(payload)
            elif kind == PING and not flags & ACK:
                self.send(frame(PING, ACK, 0, payload))
            elif kind == RST_STREAM or (kind == HEADERS and flags & END_STREAM):
                ended.append(stream)
            elif kind == GOAWAY:
                raise GoneError
        return ended

    def _settle(self, payload: bytes) -> None:
        for place in range(0, len(payload), 6):
            key, value = struct.unpack(">HI", payload[place : place + 6])
            if key == INITIAL_WINDOW_SIZE:
                for stream in self._room:
                    self._room[stream] += (value - self._initial_room) if stream else 0
                self._initial_room = value
        self.send(frame(SETTINGS, ACK))
