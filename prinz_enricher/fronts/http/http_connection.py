"""One HTTP/1.1 connection, parsed by httptools (the parser of Node.js), bounded in bytes, in time and in what waits.

Requests of a connection are answered one after the other: once another one waits, nothing more is read, so that what is
pipelined is at most what one read has brought. A caller that closes its side does not wait for an answer any more. No
connection is closed between a request and its answer.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from http import HTTPStatus
from typing import Any, Final, Protocol

import httptools
import structlog

MAX_HEAD_BYTES: Final = 32 * 1024
"""Bytes of the head of a request; tokens may have 8 KiB."""
MAX_HEADERS: Final = 128
MAX_PIPELINED: Final = 64
"""Requests that one read may bring."""

KEEP_ALIVE_SECONDS: Final = 90.0
"""How long an idle connection stays: clients close theirs after a minute, and must be the first to do so."""
HEAD_SECONDS: Final = 20.0
"""How long the head of a request may take, from its first byte."""
BODY_SECONDS: Final = 20.0
"""How long a body may take, and a second more for each `BODY_RATE` bytes of it that have come."""
BODY_RATE: Final = 16 * 1024
WRITE_SECONDS: Final = 60.0
"""How long an answer may go unread."""
LINGER_SECONDS: Final = 2.0
"""How long the rest of a refused request is read, and thrown away: its sender would not see the answer otherwise."""

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}

log = structlog.stdlib.get_logger(__name__)


class HttpRequest:
    """A request of a connection; the body is whole when its handler is asked to run it.

    Attributes:
        method: Such as `POST`.
        path: As it was sent, percent-encoded; empty where it is not a path.
        headers: By lower-case name; several of one name are joined.
        max_body: Bytes that the body may have, set by the handler.
        deadline: When the handler wants to hear that it is late, by `time.monotonic()`.
        context: The handler's own.
    """

    __slots__ = (
        "answered", "arrived", "body", "complete", "connection", "context", "deadline", "expects", "headers", "held",
        "keep_alive", "max_body", "method", "path", "query", "size", "target",
    )  # fmt: skip

    def __init__(self, connection: CallerConnection) -> None:
        self.connection = connection
        self.method = ""
        self.target = self.path = self.query = b""
        self.headers: dict[bytes, bytes] = {}
        self.body: list[bytes] = []
        self.size = 0
        self.max_body = 0
        self.arrived = time.monotonic()
        self.deadline: float | None = None
        self.keep_alive = self.expects = self.complete = self.answered = self.held = False
        self.context: Any = None

    @property
    def announced(self) -> bool:
        """Whether the head says that there is a body."""
        return self.headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in self.headers

    def respond(self, status: int, headers: bytes, body: bytes, *, close: bool = False) -> None:
        """Answer; the first answer counts. `headers` are whole lines. By the loop's thread."""
        self.connection.respond(self, status, headers, body, close=close)

    def hold(self) -> None:
        """Receive no more until `proceed`."""
        self.held = True
        self.connection.pause()

    def proceed(self) -> None:
        """Go on after `hold`."""
        self.held = False
        self.connection.proceed(self)


class RequestHandler(Protocol):
    """Answers the requests of connections, all in the loop's thread."""

    draining: bool
    """Whether each answer is the last one of its connection."""

    def begin(self, request: HttpRequest) -> None:
        """Judge a request by its head: answer it at once, hold it, or have its body received."""

    def received(self, request: HttpRequest, size: int) -> None:
        """Note bytes of a body that have come; may answer."""

    def run(self, request: HttpRequest) -> None:
        """Answer a whole request, now or later."""

    def late(self, request: HttpRequest) -> None:
        """Answer a request whose deadline has passed."""

    def lost(self, request: HttpRequest) -> None:
        """Note that nobody waits for the answer any more."""

    def sent(self, request: HttpRequest) -> None:
        """Note that the answer has left, or never will."""

    def refuse(self, request: HttpRequest | None, status: int, reason: str, why: str) -> tuple[bytes, bytes]:
        """Return the headers and the body of a refusal that the protocol asks for."""


class CallerConnection(asyncio.Protocol):
    """A connection; `connections` holds all that are open, the longest unused first."""

    def __init__(self, handler: RequestHandler, connections: dict[CallerConnection, None]) -> None:
        self.due = time.monotonic() + HEAD_SECONDS
        """When it is closed unless something happens, by `time.monotonic()`."""
        self.used = False
        """Whether anything was received."""
        self.peer = ""
        self.host = ""
        self.tls: Any = None
        """Its SSLObject; None for plaintext."""
        self._handler = handler
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._coming: HttpRequest | None = None
        self._active: HttpRequest | None = None
        self._waiting: deque[HttpRequest] = deque()
        self._unsent: HttpRequest | None = None
        self._head = self._fields = 0
        self._broken = self._lingering = self._write_paused = False

    @property
    def idle(self) -> bool:
        """Whether it waits for a request."""
        return self._active is None and self._coming is None and not self._write_paused

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to receive."""
        self._transport = transport
        self._connections[self] = None
        address = transport.get_extra_info("peername")
        if address:
            self.host = address[0]
            self.peer = f"ipv6:[{address[0]}]:{address[1]}" if ":" in address[0] else f"ipv4:{address[0]}:{address[1]}"
        self.tls = transport.get_extra_info("ssl_object")

    def connection_lost(self, error: Exception | None) -> None:
        """Note that the caller has gone."""
        self._connections.pop(self, None)
        active, self._active = self._active, None
        self._waiting.clear()
        if active is not None and not active.answered:
            active.answered = True
            self._handler.lost(active)
        self._note_sent()

    def pause_writing(self) -> None:
        """Send no more until the caller reads."""
        self._write_paused = True
        self.due = time.monotonic() + WRITE_SECONDS

    def resume_writing(self) -> None:
        """Go on, since the caller reads."""
        self._write_paused = False
        self._note_sent()
        self._next()

    def data_received(self, data: bytes) -> None:
        """Parse what has come."""
        self.used = True
        if self._lingering or self._broken:
            return
        if self.idle:
            # Moved to the end of those that are unused.
            self._connections.pop(self, None)
            self._connections[self] = None
            self.due = time.monotonic() + HEAD_SECONDS
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # It is answered as any other, and then closed: see `on_headers_complete`.
            self._broken = True
        except httptools.HttpParserError as error:
            if error.__context__ is not None and not isinstance(error, httptools.HttpParserInvalidURLError):
                log.exception("http request failed")
            self._break(400, "INVALID_HTTP", "The request is not HTTP/1.1 as it should be.")
            return
        if self._waiting:
            # Otherwise reading goes on, which shows whether the caller still waits.
            self.pause()
        if self._coming is not None and self._coming.method == "":
            self._head += len(data)
            if self._head > 2 * MAX_HEAD_BYTES:
                self._too_large()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Begin a request."""
        self._coming = HttpRequest(self)
        self._head = self._fields = 0
        if len(self._waiting) >= MAX_PIPELINED:
            self._break(400, "INVALID_HTTP", f"More than {MAX_PIPELINED} requests came at once.")

    def on_url(self, url: bytes) -> None:
        """Add a part of its target."""
        if self._coming is not None:
            self._coming.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header."""
        request = self._coming
        if request is None or self._broken:
            return
        self._fields += len(name) + len(value)
        if self._fields > MAX_HEAD_BYTES or len(request.headers) >= MAX_HEADERS:
            self._too_large()
        elif not request.method:
            # Not those of a trailer.
            name = name.lower()
            held = request.headers.get(name)
            request.headers[name] = value if held is None else held + b", " + value

    def on_headers_complete(self) -> None:
        """Have the request judged, in its turn."""
        request = self._coming
        if request is None or self._broken:
            return
        request.method = self._parser.get_method().decode("ascii")
        version = self._parser.get_http_version()
        request.keep_alive = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        request.expects = version == "1.1" and request.headers.get(b"expect", b"").lower() == b"100-continue"
        try:
            parts = httptools.parse_url(request.target)
            request.path, request.query = parts.path or b"", parts.query or b""
        except httptools.HttpParserInvalidURLError:
            request.path = b""
        if self._fields + len(request.target) > MAX_HEAD_BYTES:
            self._too_large()
        elif self._parser.should_upgrade() and request.announced:
            # The parser reads no body behind it, and an empty one is not what the caller has sent.
            self._break(400, "INVALID_HTTP", "The server has HTTP/1.1 alone: send the body without the header Upgrade.")
        elif not request.path.startswith(b"/") or (version == "1.1" and b"host" not in request.headers):
            self._break(400, "INVALID_HTTP", "The request has no path, or no header Host.")
        elif self._active is None and not self._write_paused:
            self._begin(request)
        else:
            self._waiting.append(request)

    def on_body(self, body: bytes) -> None:
        """Add a part of its body."""
        request = self._coming
        if request is None or request.answered or self._broken:
            return
        request.size += len(body)
        if request is self._active:
            if request.size > request.max_body:
                self._refuse(request, 413, "MESSAGE_TOO_LARGE", _too_long(request.max_body))
                return
            self.due = request.arrived + BODY_SECONDS + request.size / BODY_RATE
            self._handler.received(request, len(body))
        request.body.append(body)

    def on_message_complete(self) -> None:
        """Have the request run, in its turn."""
        request, self._coming = self._coming, None
        if request is None or self._broken:
            return
        request.complete = True
        if request is self._active and not request.held and not request.answered:
            self._handler.run(request)

    # One request after the other.

    def _begin(self, request: HttpRequest) -> None:
        self._active = request
        self.due = request.arrived + HEAD_SECONDS
        self._handler.begin(request)
        if not request.held:
            self.proceed(request)

    def proceed(self, request: HttpRequest) -> None:
        """Receive the body of the request that was judged, or run it where it has come."""
        if request.answered or request is not self._active:
            return
        if not self._waiting:
            self._transport.resume_reading()
        length = request.headers.get(b"content-length", b"")
        if request.size > request.max_body or (length.isdigit() and int(length[:20]) > request.max_body):
            self._refuse(request, 413, "MESSAGE_TOO_LARGE", _too_long(request.max_body))
        elif request.complete:
            self._handler.run(request)
        else:
            if request.expects and not request.size:
                self._transport.write(_CONTINUE)
            self.due = request.arrived + BODY_SECONDS

    def pause(self) -> None:
        """Read no more for now."""
        if not self._lingering and not self._transport.is_closing():
            self._transport.pause_reading()

    def respond(self, request: HttpRequest, status: int, headers: bytes, body: bytes, *, close: bool = False) -> None:
        """Write the answer to the request in work; does nothing for one that is answered, or that nobody waits for."""
        if request.answered or request is not self._active:
            return
        request.answered = True
        whole = request.complete or not request.announced
        last = close or not (request.keep_alive and whole) or self._broken or self._handler.draining
        head = _STATUS_LINES[status] + headers + (b"Connection: close\r\n" if last else b"")
        head += b"Content-Length: %d\r\n\r\n" % len(body)
        self._unsent = request
        self._transport.write(head if request.method == "HEAD" else head + body)
        self._active = None
        if not self._write_paused:
            self._note_sent()
        if last:
            self._close(whole=whole)
            return
        if not self._write_paused:
            self.due = time.monotonic() + KEEP_ALIVE_SECONDS
            self._next()

    def _next(self) -> None:
        """Begin the next request that is there already, or wait for one."""
        if self._active is not None or self._transport.is_closing() or self._lingering:
            return
        if self._waiting:
            # Not within the call that has answered the one before: a thousand of them would be as many frames.
            request = self._waiting.popleft()
            self._active = request
            asyncio.get_running_loop().call_soon(self._begin_waiting, request)
        elif self._broken:
            self._transport.close()
        else:
            self.due = time.monotonic() + KEEP_ALIVE_SECONDS
            self._transport.resume_reading()

    def _begin_waiting(self, request: HttpRequest) -> None:
        if request is self._active and not self._transport.is_closing():
            self._begin(request)

    def _note_sent(self) -> None:
        request, self._unsent = self._unsent, None
        if request is not None:
            self._handler.sent(request)

    def _too_large(self) -> None:
        self._break(431, "HEADERS_TOO_LARGE", f"The head of the request has more than {MAX_HEAD_BYTES} bytes.")

    def _refuse(self, request: HttpRequest, status: int, reason: str, why: str) -> None:
        headers, body = self._handler.refuse(request, status, reason, why)
        self.respond(request, status, headers, body, close=True)

    def _break(self, status: int, reason: str, why: str) -> None:
        """Read nothing more of what can't be parsed; requests before it are answered first."""
        if self._broken:
            return
        self._broken = True
        if self._waiting or (self._active is not None and self._active.complete):
            return
        request = self._active or self._coming or HttpRequest(self)
        self._active = request
        self._refuse(request, status, reason, why)

    def _close(self, *, whole: bool) -> None:
        self._waiting.clear()
        if whole:
            self._transport.close()
            return
        # Closed with bytes that nobody has read, the network would drop the answer.
        self._lingering, self.due = True, time.monotonic() + LINGER_SECONDS
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._transport.resume_reading()

    # By the clock.

    def check(self, now: float) -> None:
        """Close the connection, or answer its request, where the time for it is over."""
        active = self._active
        if active is not None and active.complete and not active.answered:
            if active.deadline is not None and now >= active.deadline:
                self._handler.late(active)
        elif now >= self.due:
            if active is not None and not self._lingering and not active.answered and not active.held:
                self._refuse(active, 408, "REQUEST_TIMEOUT", "The request did not come in time.")
            elif active is None or not active.held:
                self.abort()

    def close_idle(self) -> None:
        """Close it where no request is in work."""
        if self.idle:
            self._transport.close()

    def abort(self) -> None:
        """Close it at once."""
        self._transport.abort()


def _too_long(limit: int) -> str:
    return f"The body has more than {limit} bytes; send less at once."
