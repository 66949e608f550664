"""A server on loopback that takes invocations, and answers them, or breaks off, as a test wants."""

import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

PREDICTIONS = b'{"predictions": [1.0]}'
JSON = {"Content-Type": "application/json"}
HTML = {"Content-Type": "text/html; charset=utf-8"}


@dataclass(frozen=True)
class Request:
    """What the server was asked.

    Attributes:
        method: Such as POST.
        target: As it came, percent-encoded.
        headers: With names in lower case.
        body: The content.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """What the server says."""

    content: bytes = PREDICTIONS
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: JSON)
    declared_length: int | None = None
    close: bool = False

    @property
    def head(self) -> bytes:
        """Its first lines."""
        length = len(self.content) if self.declared_length is None else self.declared_length
        lines = [f"HTTP/1.1 {self.status} Told", f"Content-Length: {length}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


Script = Callable[[socket.socket], None]
"""Does what it wants with a connection, which is closed then."""


class ModelServer:
    """Answers by `respond`, which a test sets; speaks HTTP/1.1 and keeps connections open.

    Attributes:
        respond: Returns a reply, or a script that has the connection to itself.
        requests: What came.
        connections: How many connections were made.
        most_at_once: How many requests were under way at once.
        ended: Set when the server ends, so that no script goes on.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.respond: Callable[[Request], Reply | Script] = lambda _: Reply()
        self.requests: list[Request] = []
        self.connections = 0
        self.most_at_once = 0
        self.ended = threading.Event()
        self._at_once = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                outer._serve(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                """Say nothing of clients that break off."""

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            # The handshake is for the thread of the connection.
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def freeze(self, connection: socket.socket) -> None:
        """Say nothing until the server ends: a script."""
        self.ended.wait(60)

    def drip(self, content: bytes) -> Script:
        """Return a script that sends a byte twenty times a second."""

        def script(connection: socket.socket) -> None:
            for byte in content:
                if self.ended.wait(0.05):
                    return
                connection.sendall(bytes((byte,)))

        return script

    def _serve(self, connection: socket.socket) -> None:
        with self._lock:
            self.connections += 1
        with connection.makefile("rb") as file:
            while (line := file.readline()) and not self.ended.is_set():
                method, target, _ = line.decode().split(" ")
                headers = {}
                while (header := file.readline().decode().strip()) != "":
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                request = Request(method, target, headers, file.read(int(headers.get("content-length", "0"))))
                if not self._answer(connection, request):
                    return

    def _answer(self, connection: socket.socket, request: Request) -> bool:
        with self._lock:
            self.requests.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            reply = self.respond(request)
            if isinstance(reply, Reply):
                content = reply.content
            else:
                reply(connection)
        finally:
            # Before the answer is out: the client may ask again as soon as it has it.
            with self._lock:
                self._at_once -= 1
        if isinstance(reply, Reply):
            connection.sendall(reply.head + content)
            return not reply.close
        return False


def reset(sent: bytes = b"") -> Script:
    """Return a script that sends something, and resets the connection."""

    def script(connection: socket.socket) -> None:
        connection.sendall(sent)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    return script


def close(connection: socket.socket) -> None:
    """Close the connection without a word: a script."""
