"""The HTTP API over a service of this process, and a raw connection to it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from prinz_enricher.fronts.admin.http_tls import HttpTls
from prinz_enricher.fronts.grpc import Callers, FrontLimits
from prinz_enricher.fronts.http.api import ApiLimits
from prinz_enricher.fronts.http.http_front import HttpFront
from prinz_enricher.service.calls import CallLog
from prinz_enricher.telemetry.tracing import Tracing
from tests.support.guarded_service import GuardedService

LIMIT = 256 * 1024
"""Bytes of a message."""


class Raw:
    """A connection by which a test sends whatever it likes."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._left = b""

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def head(self) -> tuple[int, dict[str, str]]:
        """Return the status and the headers of the next answer."""
        while b"\r\n\r\n" not in self._left:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError(self._left)
            self._left += data
        head, _, self._left = self._left.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        return int(first.split()[1]), {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}

    def answer(self) -> tuple[int, dict[str, str], Any]:
        """Return the next answer: its status, headers and JSON."""
        status, headers = self.head()
        size = int(headers["content-length"])
        while len(self._left) < size:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError(self._left)
            self._left += data
        body, self._left = self._left[:size], self._left[size:]
        return status, headers, json.loads(body)

    def is_closed(self) -> bool:
        """Return whether the server has closed it, waiting for that if it goes on."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        """Close it."""
        self.socket.close()


def request(body: bytes = b'{"rows":[{"x":3}]}', *headers: str, path: str = "/v1/models/wine:score") -> bytes:
    """Return a request as bytes; a header of its length comes unless another one is given."""
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
    if not any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass
class RunningApi:
    """The API at a port."""

    front: HttpFront
    service: GuardedService
    port: int
    client: httpx.Client
    raws: list[Raw] = field(default_factory=list)

    def raw(self) -> Raw:
        """Return a new connection, which is closed at the end."""
        self.raws.append(Raw(self.port))
        return self.raws[-1]

    def score(self, rows: Any, model: str = "wine", **more: Any) -> httpx.Response:
        """Score rows."""
        return self.client.post(f"/v1/models/{model}:score", json={"rows": rows}, **more)


@contextmanager
def running_api(
    service: GuardedService,
    *,
    callers: Callers | None = None,
    log: CallLog | None = None,
    tls: HttpTls | None = None,
    calls: int = 1_000,
    seconds: float = 30.0,
    inflight: int = 1 << 30,
    tracing: Tracing | None = None,
    **options: Any,
) -> Iterator[RunningApi]:
    """Serve the API over a service."""
    listener = socket.create_server(("127.0.0.1", 0))
    limits = FrontLimits(LIMIT, calls, inflight)
    api_limits = ApiLimits(LIMIT, 10_000, seconds, **options)
    front = HttpFront(
        listener, service.targets, limits, api_limits, callers=callers, tls=tls, series=service.series, tracing=tracing
    )  # fmt: skip
    port = front.start(service.service.handle, log)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
        running = RunningApi(front, service, port, client)
        try:
            yield running
        finally:
            client.close()
            for raw in running.raws:
                raw.close()
            front.drain(5.0)
