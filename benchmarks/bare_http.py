"""The least that answers HTTP by asyncio and httptools, as our API does: `python -m benchmarks.bare_http [ours]`.

With `ours` it is a connection of our own server. It prints its port. `app` is the least for uvicorn.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, cast

import httptools

from prinz_enricher.fronts.http.http_connection import CallerConnection, HttpRequest

BODY = b'{"predictions":[5.0]}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


class BareConnection(asyncio.Protocol):
    """Answers each request with the same."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to parse."""
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        """Parse."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Answer a request."""
        self._transport.write(ANSWER)


class BareHandler:
    """Answers each request to our own server with the same."""

    draining = False

    def begin(self, request: HttpRequest) -> None:
        """Have the body received."""
        request.max_body = 1 << 20

    def run(self, request: HttpRequest) -> None:
        """Answer a request."""
        request.respond(200, b"Content-Type: application/json\r\n", BODY)

    def refuse(self, request: HttpRequest | None, status: int, reason: str, why: str) -> tuple[bytes, bytes]:
        """Return what is said of a request that is not HTTP."""
        return b"", why.encode()

    def received(self, request: HttpRequest, size: int) -> None:
        """Count nothing."""

    def sent(self, request: HttpRequest) -> None:
        """Count nothing."""

    late = lost = sent


async def app(
    scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """Answer each request with the same, once it is read."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": BODY})


async def main() -> None:
    """Serve until it is killed."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    connections: dict[CallerConnection, None] = {}
    ours = partial(CallerConnection, BareHandler(), connections)
    made = ours if sys.argv[1:] == ["ours"] else BareConnection
    server = await asyncio.get_running_loop().create_server(made, sock=listener)
    print(listener.getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
