"""A proxy of TCP connections on loopback that cuts answers in the middle, or all connections for a while."""

from __future__ import annotations

import contextlib
import itertools
import socket
import socketserver
import struct
import threading
from types import TracebackType
from typing import Self


class CuttingProxy:
    """Passes on what comes, but for each so many answers one that it cuts.

    Args:
        port: Of loopback, where it leads to.
        every: The first cut is of the answer with this number, and so on; 0 for none.

    Attributes:
        cuts: How many answers were cut.
        away: Whether all connections are closed, new ones too.
    """

    def __init__(self, port: int, every: int) -> None:
        self.cuts = 0
        self.away = False
        self._port = port
        self._every = every
        self._answers = itertools.count(1)
        outer = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    outer._pass(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 128

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _pass(self, client: socket.socket) -> None:
        if self.away:
            return
        with socket.create_connection(("127.0.0.1", self._port), timeout=60) as server:
            up = threading.Thread(target=_copy, args=(client, server), daemon=True)
            up.start()
            while content := server.recv(1 << 16):
                if self._cuts_next():
                    self.cuts += 1
                    client.sendall(content[: len(content) - 3])
                    # To close it now sends a reset.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.shutdown(socket.SHUT_RD)
                    break
                client.sendall(content)
            else:
                # It closes an idle connection: the client is not to use it again.
                client.shutdown(socket.SHUT_RDWR)
        up.join(timeout=10)

    def _cuts_next(self) -> bool:
        return self.away or (self._every > 0 and next(self._answers) % self._every == 0)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while content := source.recv(1 << 16):
            target.sendall(content)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
