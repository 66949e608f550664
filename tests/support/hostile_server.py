"""An HTTP server on loopback that answers whatever a test wants, right or wrong."""

import json
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Request:
    """What the server was asked."""

    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    method: str = "GET"
    target: str = ""
    body: bytes = b""


@dataclass(frozen=True)
class Answer:
    """What the server says; `pieces` are sent after the content, one by one."""

    content: bytes = b"{}"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    declared_length: int | None = None
    pieces: Iterable[bytes] = ()


def answer_json(content: object, status: int = 200) -> Answer:
    """Return a JSON answer."""
    return Answer(json.dumps(content).encode(), status, {"Content-Type": "application/json"})


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that break off."""


class HostileServer:
    """Answers by `respond`, which a test sets; remembers what it was asked."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.respond: Callable[[Request], Answer] = lambda _: Answer()
        self._scheme = "http" if tls is None else "https"
        self._server = _Server(("127.0.0.1", 0), self._handler())
        if tls is not None:
            # The handshake is for the thread of the connection, so that a client that fails it holds no other.
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                request = Request(
                    parts.path,
                    parse_qs(parts.query),
                    {name.lower(): value for name, value in self.headers.items()},
                    self.command,
                    self.path,
                    self.rfile.read(int(self.headers.get("Content-Length", "0"))),
                )
                outer.requests.append(request)
                answer = outer.respond(request)
                length = len(answer.content) if answer.declared_length is None else answer.declared_length
                try:
                    self.send_response(answer.status)
                    self.send_header("Content-Length", str(length))
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    if self.command != "HEAD":
                        self.wfile.write(answer.content)
                        for piece in answer.pieces:
                            self.wfile.write(piece)
                except OSError:
                    # The client has read enough.
                    self.close_connection = True

            do_POST = do_HEAD = do_GET  # noqa: N815 - the names are of http.server

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        return Handler
