"""The HTTP server of the admin front: waitress, bounded so that no client can block it.

A connection carries one request and is closed after its answer, and in any case when it has been open for
`CONNECTION_SECONDS`, however busily it sends or reads a byte now and then. Where there are more than `MAX_CONNECTIONS`,
the oldest makes room for the newest: whoever comes with a whole request is answered.
"""

from __future__ import annotations

import logging
import socket
import threading
from typing import TYPE_CHECKING, Any

import structlog
from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher, WSGITask

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

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
    """Serves a WSGI application in threads of its own, until it is closed, and `listener`, a bound socket, with it."""

    def __init__(self, application: WSGIApplication, listener: socket.socket, *, max_body_bytes: int) -> None:
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
        self._server = _Server(
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

    def build_response_header(self) -> bytes:
        self.set_close_on_finish()
        return super().build_response_header()


class _Channel(HTTPChannel):
    task_class = _Task


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
