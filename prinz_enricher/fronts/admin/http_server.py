"""The HTTP server of the admin front: waitress, bounded so that no client can block it.

A connection carries one request and is closed after its answer, and in any case when it has been open for
`CONNECTION_SECONDS`, however busily it sends or reads a byte now and then. Where there are more than `MAX_CONNECTIONS`,
the oldest makes room for the newest: whoever comes with a whole request is answered.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher, WSGITask

from prinz_enricher.fronts.admin.http_tls import CERTIFICATE, client_certificate

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

    from prinz_enricher.security.principal import ClientCertificate

CONNECTION_SECONDS = 10
"""Seconds that a connection may be open."""

MAX_CONNECTIONS = 256
"""Open connections."""

MAX_HEADER_BYTES = 16 * 1024
"""Bytes of the head of a request."""

log = structlog.stdlib.get_logger(__name__)

_THREADS = 4
_BACKLOG = 512
_BODY_BYTES_IN_MEMORY = 64 * 1024
_SWEEP_SECONDS = 1


class HttpServer:
    """Serves a WSGI application in threads of its own, until it is closed, and `listener`, a bound socket, with it.

    `tls` returns the context of a new connection, for HTTPS; the application finds its ClientCertificate in the
    environment, as `CERTIFICATE`.
    """

    def __init__(
        self,
        application: WSGIApplication,
        listener: socket.socket,
        *,
        max_body_bytes: int,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> None:
        adjustments = Adjustments(
            sockets=[listener],
            threads=_THREADS,
            backlog=_BACKLOG,
            # At its own limit waitress would accept no new connection; ours closes the oldest.
            connection_limit=2 * MAX_CONNECTIONS,
            cleanup_interval=_SWEEP_SECONDS,
            asyncore_loop_timeout=_SWEEP_SECONDS,
            # select() can't watch a file descriptor over 1023.
            asyncore_use_poll=True,
            max_request_header_size=MAX_HEADER_BYTES,
            # The first size that is refused.
            max_request_body_size=max_body_bytes + 1,
            inbuf_overflow=_BODY_BYTES_IN_MEMORY,
            ident="",
            # A client that disconnects is not worth a line.
            log_socket_errors=False,
        )
        # A request that waits for a thread is not worth a line.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        self._stopping = threading.Event()
        self._map: dict[int, Any] = {}
        self._dispatcher = ThreadedTaskDispatcher()
        self._dispatcher.set_thread_count(_THREADS)
        self._server = (_Server if tls is None else _tls_server(tls))(
            application,
            self._map,
            _sock=listener,
            dispatcher=self._dispatcher,
            adj=adjustments,
            sockinfo=(listener.family, listener.type, listener.proto, listener.getsockname()),
            bind_socket=False,
        )
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving, and end the threads."""
        self._stopping.set()
        self._server.pull_trigger()
        self._thread.join()
        # Not by the thread, which may end before it is woken: the byte would go to whoever has the descriptor then.
        self._dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self._map)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                wasyncore.loop(timeout=_SWEEP_SECONDS, use_poll=True, map=self._map, count=1)
            except Exception:  # the only thread that takes connections must outlive what nobody foresaw
                log.exception("admin http server failed")
                self._stopping.wait(_SWEEP_SECONDS)


class _Task(WSGITask):
    """Answers a request, after which the connection is closed."""

    channel: _Channel

    def build_response_header(self) -> bytes:
        self.set_close_on_finish()
        return super().build_response_header()

    def get_environment(self) -> dict[str, Any]:
        return super().get_environment() | {CERTIFICATE: self.channel.certificate}


class _Channel(HTTPChannel):
    task_class = _Task
    certificate: ClientCertificate | None = None


class _TlsChannel(_Channel):
    """A connection whose handshake goes on in the loop, whenever the client has sent some more of it."""

    socket: Any
    _handshaking = True
    _writes = False
    """Whether the handshake waits until it can write."""

    def __init__(self, *args: Any, **keys: Any) -> None:
        # Two threads must not use a connection at once.
        self._lock = threading.Lock()
        super().__init__(*args, **keys)

    def readable(self) -> bool:
        return not self._writes if self._handshaking else super().readable()

    def writable(self) -> bool:
        return (self._writes and self._handshaking) or super().writable()

    def handle_read(self) -> None:
        if self._handshaking and not self._shake_hands():
            return
        while self.connected and super().readable():
            try:
                with self._lock:
                    data = self.socket.recv(self.adj.recv_bytes)
                    # Of what is decrypted already, poll() does not know.
                    more = self.socket.pending() > 0
            except ssl.SSLWantReadError:
                return
            except OSError:
                data, more = b"", False
            if not data:
                self.handle_close()
                return
            self.last_activity = time.time()
            self.received(data)
            if not more:
                return

    def handle_write(self) -> None:
        if not self._handshaking or self._shake_hands():
            super().handle_write()

    def send(self, data: bytes, do_close: bool = True) -> int:  # noqa: FBT002 - as waitress has it
        try:
            with self._lock:
                return super().send(data, do_close)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    def _shake_hands(self) -> bool:
        """Go on with the handshake; returns whether it is done. What fails, by whatever is sent, is closed."""
        self._writes = False
        try:
            self.socket.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLWantWriteError:
            self._writes = True
            return False
        except OSError:
            self.handle_close()
            return False
        self._handshaking, self.certificate = False, client_certificate(self.socket)
        return True


class _Server(TcpWSGIServer):
    """Accepts connections, and closes those that are too old or too many."""

    channel_class = _Channel
    active_channels: dict[int, HTTPChannel]  # type: ignore[assignment]  # the stub takes it for one channel

    def handle_accept(self) -> None:
        super().handle_accept()
        if len(self.active_channels) > MAX_CONNECTIONS:
            next(iter(self.active_channels.values())).handle_close()

    def maintenance(self, now: float) -> None:
        # waitress itself would let one live on that sends a byte now and then, and one whose peer reads nothing.
        for channel in list(self.active_channels.values()):
            if now - channel.creation_time > CONNECTION_SECONDS:
                channel.handle_close()


def _tls_server(tls: Callable[[], ssl.SSLContext]) -> type[_Server]:
    class TlsServer(_Server):
        channel_class = _TlsChannel

        def accept(self) -> Any:
            accepted = super().accept()
            if accepted is None:
                return None
            connection, address = accepted
            return tls().wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    return TlsServer
