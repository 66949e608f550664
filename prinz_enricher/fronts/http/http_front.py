"""The server of the HTTP API: an event loop in a thread of its own, which accepts connections and watches the clock."""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
import time
from typing import Any, Final

import structlog

from prinz_enricher.fronts.admin.http_tls import HttpTls
from prinz_enricher.fronts.grpc.admission import Admission, FrontLimits
from prinz_enricher.fronts.grpc.authentication import Callers
from prinz_enricher.fronts.grpc.call_batcher import CallBatcher
from prinz_enricher.fronts.http.api import Api, ApiLimits
from prinz_enricher.fronts.http.console import Console
from prinz_enricher.fronts.http.http_connection import HEAD_SECONDS, CallerConnection
from prinz_enricher.service.calls import CallHandler, CallLog
from prinz_enricher.service.targets import Targets
from prinz_enricher.telemetry.activity import SAMPLE_SECONDS
from prinz_enricher.telemetry.series import Series
from prinz_enricher.telemetry.tracing import Tracing

MAX_CONNECTIONS: Final = 16_384
"""Open connections, unless fewer files may be open."""

QUIET_SECONDS: Final = 2.0
"""How long a connection is left open in a drain for the request that may be on its way."""

_SWEEP_SECONDS: Final = 0.25
_ACCEPTED_AT_ONCE: Final = 64
_MAX_WAITING: Final = 256
_NO_FILES_SECONDS: Final = 1.0

log = structlog.stdlib.get_logger(__name__)


class HttpFront:
    """Serves the HTTP API at a socket that listens; with `tls` alone by TLS. The console shows the port of gRPC."""

    def __init__(
        self,
        listener: socket.socket,
        targets: Targets,
        limits: FrontLimits,
        api_limits: ApiLimits,
        *,
        callers: Callers | None = None,
        tls: HttpTls | None = None,
        series: Series | None = None,
        tracing: Tracing | None = None,
        grpc_port: int = 0,
    ) -> None:
        self._listener = listener
        self.port: int = listener.getsockname()[1]
        self._limits = limits
        self._tls = tls
        self._admission = Admission(limits)
        series = series or Series()
        self._console = Console(series, grpc_port, tls=tls is not None)
        self.api = Api(targets, callers, self._admission, api_limits, series, tracing, self._console)
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._most = min(MAX_CONNECTIONS, files // 2) if files > 0 else MAX_CONNECTIONS
        self._connections: dict[CallerConnection, None] = {}
        self._opening: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="http-front", daemon=True)

    def start(self, handler: CallHandler, log: CallLog | None = None) -> int:
        """Take connections, and hand each call to the handler; returns the port."""
        self._listener.setblocking(False)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(handler, log), self._loop).result()
        return self.port

    def change(self, limits: FrontLimits, api_limits: ApiLimits, log: CallLog | None) -> None:
        """Go on with other bounds of requests, and another log."""
        self._admission.change(limits)
        self.api.change(api_limits, log)

    def begin_drain(self) -> None:
        """Make each answer the last of its connection; requests are answered as ever."""
        self.api.draining = True

    def drain(self, grace: float) -> None:
        """Wait at most `grace` seconds for requests in flight, and stop. Once is enough."""
        if self._thread.is_alive():
            self.begin_drain()
            asyncio.run_coroutine_threadsafe(self._drain(grace), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self.api.close()

    async def _start(self, handler: CallHandler, log: CallLog | None) -> None:
        # The requests that have come are read in one turn of the loop, and those that come meanwhile in the next one.
        batcher = CallBatcher(handler, max(1, min(_MAX_WAITING, self._limits.calls // 4)), idle_ticks=1)
        self.api.open(self._loop, batcher, log)
        self._listen()
        self._loop.call_later(_SWEEP_SECONDS, self._sweep)
        self._loop.call_later(SAMPLE_SECONDS, self._sample)

    def _listen(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> bool:
        """Take connections that wait; returns whether there may be more."""
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                accepted, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return False
            except OSError as error:
                # No files are left: who waits is taken once others have gone.
                log.warning("no connection can be taken for HTTP", why=str(error))
                self._loop.remove_reader(self._listener)
                self._loop.call_later(_NO_FILES_SECONDS, self._listen)
                return False
            accepted.setblocking(False)
            if len(self._connections) + len(self._opening) >= self._most and not self._make_room():
                accepted.close()
                continue
            task = self._loop.create_task(self._open(accepted))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        return True

    def _make_room(self) -> bool:
        """Close the connection that was not used for the longest time; returns whether there is one."""
        unused = next((one for one in self._connections if one.idle), None)
        if unused is not None:
            self._connections.pop(unused)
            unused.close_idle()
        return unused is not None

    async def _open(self, accepted: socket.socket) -> None:
        tls: dict[str, Any] = {}
        if self._tls is not None:
            tls = {"ssl": self._tls.context(), "ssl_handshake_timeout": HEAD_SECONDS}
        try:
            await self._loop.connect_accepted_socket(
                lambda: CallerConnection(self.api, self._connections), accepted, **tls
            )
        except (OSError, TimeoutError):
            # A handshake that fails, by whatever is sent, is not worth a line.
            accepted.close()

    def _sweep(self) -> None:
        now = time.monotonic()
        for connection in list(self._connections):
            connection.check(now)
        self._loop.call_later(_SWEEP_SECONDS, self._sweep)

    def _sample(self) -> None:
        self._loop.call_later(SAMPLE_SECONDS, self._sample)
        self._console.sample()

    async def _drain(self, grace: float) -> None:
        began = time.monotonic()
        # What comes on a connection that seems idle is answered: its sender may have sent it before it could know.
        while (self._connections or self._opening) and time.monotonic() - began < min(grace, QUIET_SECONDS):  # noqa: ASYNC110 - they end in many places
            await asyncio.sleep(0.02)
        # Those that wait would be cut off with the listener, and have sent their requests.
        while self._accept():
            continue
        self._loop.remove_reader(self._listener)
        self._listener.close()
        closed = time.monotonic()
        while (self._connections or self._opening) and (now := time.monotonic()) - began < grace:
            for connection in list(self._connections):
                # Whoever has just connected is about to ask.
                if connection.used or now - closed > QUIET_SECONDS:
                    connection.close_idle()
            await asyncio.sleep(0.02)
        for task in list(self._opening):
            task.cancel()
        for connection in list(self._connections):
            connection.abort()
        await asyncio.sleep(0)
