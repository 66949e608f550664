"""Connections to one base URL, kept open between requests, each for one request at a time.

httpcore's own pool has no part in that. In HTTP/2 it puts all requests on one connection, where the answer to one that
was given up goes on and uses up the window of the others; and for each request it inspects all its connections, and
looks for the library that its locks are made with.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import urllib.request
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Executor
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx

from prinz_enricher.registry.auth import Access, TlsFiles
from prinz_enricher.registry.registry_errors import AccessError
from prinz_enricher.registry.transport import trusts_environment

KEEP_SECONDS = 4.0
"""How long an idle connection is kept: less than the 5 s after which uvicorn, MLflow's server, closes it."""

CONNECT_SECONDS = 3.0
"""How long a connection may take: two packets that open it may be lost on the way, and not more."""


class ConnectionPool:
    """The connections to one base URL; belongs to one event loop."""

    def __init__(self, url: str, access: Access, *, http2: bool, threads: Executor) -> None:
        """Connect to nobody yet; raises AccessError if a certificate, or a proxy of the environment, can't be used."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        self.authority = parts.netloc.encode("ascii")
        self._url = partial(httpcore.URL, scheme=parts.scheme.encode(), host=host.encode("ascii"), port=parts.port)
        self._prefix = parts.path.rstrip("/")
        self._http2 = http2
        trusted = access.tls or TlsFiles()
        tls = trusted.context(trust_env=trusts_environment(host)) if parts.scheme == "https" else None
        origin = self._url(target=b"").origin
        self._connect = partial(HttpConnection, origin, tls, _proxy(parts.scheme, host), http2=http2, threads=threads)
        # The last one is the warmest.
        self._idle: deque[HttpConnection] = deque()
        self._closed = False

    def url(self, path: str) -> httpcore.URL:
        """Return the URL of a percent-encoded path below the base URL, used as it is."""
        return self._url(target=f"{self._prefix}{path}".encode("ascii"))

    async def acquire(self) -> HttpConnection:
        """Return a connection that nobody else uses; it is opened when its first request needs it."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.http.has_expired():
                connection.connected = False
                connection.sent = connection.received = 0
                return connection
            await connection.http.aclose()
        return self._connect()

    async def release(self, connection: HttpConnection, *, answered: bool) -> None:
        """Keep a connection for the next request; `answered` says that its answer was read to the end."""
        # In HTTP/2 the rest of an answer may still come; in HTTP/1.1 httpcore has closed the connection then.
        if self._closed or not connection.http.is_idle() or (self._http2 and not answered):
            await connection.http.aclose()
        else:
            self._idle.append(connection)
        while self._idle and self._idle[0].http.has_expired():
            await self._idle.popleft().http.aclose()

    async def aclose(self) -> None:
        """Close all idle connections, and the others once their requests are over."""
        self._closed = True
        while self._idle:
            await self._idle.pop().http.aclose()


class HttpConnection(httpcore.AsyncNetworkBackend):
    """One connection, the bytes sent and received for the current request, and whether it was opened for that."""

    def __init__(
        self,
        origin: httpcore.Origin,
        tls: ssl.SSLContext | None,
        proxy: httpcore.Proxy | None,
        *,
        http2: bool,
        threads: Executor,
    ) -> None:
        # It knows which kind of connection goes with a proxy.
        pool = httpcore.AsyncConnectionPool(
            ssl_context=tls, proxy=proxy, keepalive_expiry=KEEP_SECONDS, http2=http2, network_backend=self
        )
        self.http = pool.create_connection(origin)
        self.connected = False
        self.sent = self.received = 0
        self._threads = threads

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of a host that answers; raises httpcore.ConnectError if none does in time."""
        loop = asyncio.get_running_loop()
        look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            addresses = await loop.run_in_executor(self._threads, look_up)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError("the host is not found") from error
        end = loop.time() + CONNECT_SECONDS
        for index, (family, _, _, _, address) in enumerate(addresses):
            # One that does not answer leaves time for the others.
            share = (end - loop.time()) / (len(addresses) - index)
            with contextlib.suppress(OSError):
                async with asyncio.timeout(share):
                    reader = _Reader()
                    protocol = asyncio.StreamReaderProtocol(reader)
                    transport, _ = await loop.create_connection(lambda: protocol, *address[:2], family=family)  # noqa: B023
                self.connected = True
                return _Stream(self, reader, asyncio.StreamWriter(transport, protocol, reader, loop))
        raise httpcore.ConnectError("no connection: the host refuses it, or does not answer")


class _Reader(asyncio.StreamReader):
    """Keeps what came before a connection broke: it may be a whole answer."""

    def __init__(self) -> None:
        super().__init__(loop=asyncio.get_running_loop())
        self.unread = 0
        self.broken: Exception | None = None

    def feed_data(self, data: Any) -> None:
        self.unread += len(data)
        super().feed_data(data)

    def set_exception(self, exc: Exception) -> None:
        self.broken = exc
        self.feed_eof()


class _Stream(httpcore.AsyncNetworkStream):
    """A connection as httpcore uses it. It needs no time limits: that of a whole request cancels what waits."""

    def __init__(self, connection: HttpConnection, reader: _Reader, writer: asyncio.StreamWriter) -> None:
        self._connection = connection
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's
        content = await self._reader.read(max_bytes)
        if not content and self._reader.broken is not None:
            raise httpcore.ReadError("the connection broke") from self._reader.broken
        self._reader.unread -= len(content)
        self._connection.received += len(content)
        return content

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - httpcore's
        try:
            self._writer.write(buffer)
            self._connection.sent += len(buffer)
            await self._writer.drain()
        except OSError as error:
            raise httpcore.WriteError("the connection broke") from error

    async def aclose(self) -> None:
        self._writer.transport.abort()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's
    ) -> httpcore.AsyncNetworkStream:
        try:
            await self._writer.start_tls(ssl_context, server_hostname=server_hostname)
        except OSError as error:
            raise httpcore.ConnectError("no secure connection") from error
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            # Of an idle connection: the other side has closed it, or sends what nobody asked for.
            return bool(self._reader.unread) or self._reader.at_eof()
        return self._writer.get_extra_info(info)


def _proxy(scheme: str, host: str) -> httpcore.Proxy | None:
    """Return the proxy that the environment has for a host; None where it is asked directly."""
    if not trusts_environment(host) or urllib.request.proxy_bypass(host):
        return None
    known = urllib.request.getproxies()
    url = known.get(scheme) or known.get("all")
    if not url:
        return None
    try:
        proxy = httpx.Proxy(url if "://" in url else f"http://{url}")
    except (httpx.InvalidURL, ValueError):
        # Its URL may hold a password.
        raise AccessError(f"the proxy that the environment names for {scheme} can't be read") from None
    if proxy.url.scheme != "http":
        raise AccessError(f"the proxy that the environment names for {scheme} is not one of http://")
    address = httpcore.URL(scheme=b"http", host=proxy.url.raw_host, port=proxy.url.port or 80, target=b"/")
    return httpcore.Proxy(address, auth=proxy.raw_auth)
