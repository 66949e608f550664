"""Connections to one base URL, kept open between requests, each for one request at a time.

They are pools of httpcore with one connection each, not one pool with many. In HTTP/2 httpcore ends all requests of a
connection when one of them runs out of time, and lets them wait for each other without a limit; and one pool looks at
all its connections for each request.
"""

from __future__ import annotations

import ssl
import threading
import time
import urllib.request
from collections import deque
from urllib.parse import urlsplit

import httpcore
import httpx

from prinz_enricher.registry.errors import AccessError
from prinz_enricher.registry.transport import trusts_environment
from prinz_enricher.scoring.remote.network import BoundedBackend, Errands

KEEP_SECONDS = 4.0
"""How long a connection is kept without a request: less than the 5 s after which uvicorn, MLflow's server, ends it."""


class Lines:
    """The connections to one base URL; for all threads of an endpoint."""

    def __init__(self, url: str, *, tls: ssl.SSLContext | None, http2: bool, errands: Errands) -> None:
        """Make no connection yet.

        Args:
            url: The base URL.
            tls: Whose certificates are trusted, and which is shown; for http, None.
            http2: Whether HTTP/2 is offered to a server with https.
            errands: Look up names.

        Raises:
            AccessError: The proxy that the environment has for this host can't be used.
        """
        parts = urlsplit(url)
        self._scheme = parts.scheme.encode()
        self._host = (parts.hostname or "").encode("ascii")
        self._port = parts.port
        self._prefix = parts.path.rstrip("/")
        self.authority = parts.netloc.encode("ascii")
        self._tls = tls
        self._http2 = http2
        self._errands = errands
        self._proxy = _proxy(parts.scheme, parts.hostname or "")
        # With the time since which each is at rest; the last one is the warmest.
        self._resting: deque[tuple[httpcore.ConnectionPool, float]] = deque()
        self._closed = False
        self._lock = threading.Lock()

    def url(self, path: str) -> httpcore.URL:
        """Return the URL of a percent-encoded path below the base URL, taken as it is."""
        target = f"{self._prefix}{path}".encode("ascii")
        return httpcore.URL(scheme=self._scheme, host=self._host, port=self._port, target=target)

    def take(self) -> httpcore.ConnectionPool:
        """Return a connection that nobody else uses; it is made when the first request needs it."""
        with self._lock:
            if self._resting:
                return self._resting.pop()[0]
        return httpcore.ConnectionPool(
            ssl_context=self._tls,
            proxy=self._proxy,
            max_connections=1,
            keepalive_expiry=KEEP_SECONDS,
            http2=self._http2,
            network_backend=BoundedBackend(self._errands),
        )

    def give_back(self, line: httpcore.ConnectionPool, *, answered: bool) -> None:
        """Keep a connection for the next request.

        Args:
            line: It was taken before.
            answered: Whether its answer was read to the end. In HTTP/2 the rest of another may still come; in HTTP/1.1
                httpcore has closed the connection then.
        """
        now = time.monotonic()
        ended = []
        with self._lock:
            if self._closed or (self._http2 and not answered):
                ended.append(line)
            else:
                self._resting.append((line, now))
            while self._resting and self._resting[0][1] < now - KEEP_SECONDS:
                ended.append(self._resting.popleft()[0])
        for other in ended:
            other.close()

    def close(self) -> None:
        """Close all connections at rest, and the others once their requests are over."""
        with self._lock:
            self._closed = True
            ended = [line for line, _ in self._resting]
            self._resting.clear()
        for line in ended:
            line.close()


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
        raise AccessError(f"the proxy that the environment names for {scheme} is none of http://")
    address = httpcore.URL(scheme=b"http", host=proxy.url.raw_host, port=proxy.url.port or 80, target=b"/")
    return httpcore.Proxy(address, auth=proxy.raw_auth)
