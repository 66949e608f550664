"""One attempt to get an answer from one base URL: the request, the answer within its limits, and what a failure means.

Answers are judged by status, content type and size, never by their words.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum
from http import HTTPStatus

import httpcore
from h2.exceptions import H2Error

from prinz_enricher import __version__
from prinz_enricher.config import EndpointSettings
from prinz_enricher.registry.auth import Access, BearerAuth
from prinz_enricher.registry.registry_errors import RegistryError
from prinz_enricher.registry.secret_sources import OAuth2Tokens
from prinz_enricher.registry.transport import tls_fault
from prinz_enricher.scoring.remote.connection_pool import ConnectionPool, HttpConnection
from prinz_enricher.scoring.remote.load_balancer import BackendHealth
from prinz_enricher.scoring.remote.upstream import UpstreamFailed, UpstreamRefused
from prinz_enricher.telemetry.series import OTHER
from prinz_enricher.telemetry.tracing import BatchTrace

MAX_REFUSAL_BYTES = 1 << 20
"""How much is read of an answer that is an error; MLflow's repeat the data, and have the model's stack trace."""

NO_ANSWER = "none"
"""What is counted in place of a status where there is none: no connection, or no answer in time."""

_RETRIED = (429, 502, 503, 504)
_REASONS: dict[int, str] = {
    HTTPStatus.UNAUTHORIZED: "the credentials are missing or wrong",
    HTTPStatus.FORBIDDEN: "the credentials do not suffice",
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: "a proxy on the way wants credentials",
    HTTPStatus.REQUEST_TIMEOUT: "the request did not come in time",
}
_BROKEN = (
    *(httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError),
    *(httpcore.UnsupportedProtocol, httpcore.ConnectionNotAvailable, H2Error),
)
_JSON = re.compile(r"application/(?:json|[a-z0-9.!#$&^_-]+\+json)")
_CONTENT_TYPE = re.compile(r"[a-z0-9.!#$&^_-]+/[a-z0-9.!#$&^_+-]+")


@dataclass(frozen=True, slots=True)
class Request:
    """What a model server is asked: a body, for a percent-encoded path below the base URL."""

    path: str
    content: bytes = field(repr=False)
    content_type: str
    trace: BatchTrace | None = None


class RetryScope(Enum):
    """Where the same request may be sent again."""

    NOWHERE = "the next answer would be the same"
    ELSEWHERE = "another base may answer"
    ANYWHERE = "the same base may answer, too"


class AttemptFailed(UpstreamFailed):
    """One attempt came to nothing; `scope` says where there may be another, `health` whether the base is to blame.

    `wait` is the seconds that the server wants to be left alone, None where it says nothing; `unsent` says that nothing
    of the request was sent, `late` that it took too long.
    """

    def __init__(
        self,
        why: str,
        scope: RetryScope,
        health: BackendHealth = BackendHealth.FAILED,
        *,
        status: int = 0,
        foreign: bool = False,
        wait: float | None = None,
        unsent: bool = False,
        late: bool = False,
    ) -> None:
        super().__init__(why, 1.0 if wait is None else wait, status=status, foreign=foreign)
        self.scope = scope
        self.health = health
        self.wait = wait
        self.unsent = unsent
        self.late = late


class HttpSender:
    """Sends requests to the base URLs of one endpoint; belongs to one event loop."""

    def __init__(self, endpoint: EndpointSettings, access: Access, threads: Executor) -> None:
        """Connect to nobody yet; the threads look up names, and ask for tokens. Raises AccessError."""
        self._credentials = access.credentials
        self._max_answer_bytes = endpoint.max_answer_bytes
        self.requests: Counter[str] = Counter({"200": 0, NO_ANSWER: 0})
        """How many were sent, by the HTTP status of the answer."""
        self._threads = threads
        self._pools = {url: ConnectionPool(url, access, http2=endpoint.http2, threads=threads) for url in endpoint.urls}
        self._headers = [
            (b"User-Agent", f"prinz-enricher/{__version__}".encode()),
            (b"Accept", b"application/json"),
            # A small answer that becomes a large one can't be bounded by its size.
            (b"Accept-Encoding", b"identity"),
            *((name.encode(), value.get_secret_value().encode("latin-1")) for name, value in endpoint.headers.items()),
        ]

    async def aclose(self) -> None:
        """Close all idle connections."""
        for pool in self._pools.values():
            await pool.aclose()

    async def send(self, url: str, request: Request, until: float) -> bytes:
        """Send a request to a base URL, `until` a time by `time.monotonic()`; returns JSON, as it came.

        It is sent once more where our token has expired meanwhile. Raises UpstreamRefused, and AttemptFailed.
        """
        authorization = await self._authorization(self._credentials.authorization, until)
        try:
            return await self._send(url, request, authorization, until)
        except AttemptFailed as failed:
            if failed.status != HTTPStatus.UNAUTHORIZED:
                raise
            another = await self._authorization(lambda: self._credentials.refused(authorization), until)
            if not another:
                raise
        return await self._send(url, request, another, until)

    async def _authorization(self, header: Callable[[], str], until: float) -> str:
        nowhere, unknown = RetryScope.NOWHERE, BackendHealth.UNKNOWN
        try:
            if not (isinstance(self._credentials, BearerAuth) and isinstance(self._credentials.tokens, OAuth2Tokens)):
                return header()
            # It may ask the token endpoint, or wait for a thread that does, for longer than this call may take.
            async with asyncio.timeout_at(until):
                return await asyncio.get_running_loop().run_in_executor(self._threads, header)
        except TimeoutError as error:
            raise AttemptFailed("there was no token in time", nowhere, unknown, unsent=True, late=True) from error
        except RegistryError as error:
            raise AttemptFailed(str(error), nowhere, unknown, unsent=True) from error

    async def _send(self, url: str, request: Request, authorization: str, until: float) -> bytes:
        pool = self._pools[url]
        headers = [
            (b"Host", pool.authority),
            *self._headers,
            (b"Content-Type", request.content_type.encode("ascii")),
            (b"Content-Length", b"%d" % len(request.content)),
        ]
        traced = None if request.trace is None else request.trace.begin_request()
        if traced is not None:
            headers += traced.headers
        if authorization:
            headers.append((b"Authorization", authorization.encode("ascii")))
        sent = httpcore.Request(b"POST", pool.url(request.path), headers=headers, content=request.content)
        seconds = max(0.0, until - time.monotonic())
        connection = await pool.acquire()
        answered, status = False, NO_ANSWER
        try:
            async with asyncio.timeout_at(until):
                response = await connection.http.handle_async_request(sent)
                status = str(response.status) if 100 <= response.status < 600 else OTHER
                try:
                    answer = await _read(response, url, self._max_answer_bytes)
                finally:
                    await response.aclose()
            answered = True
        except TimeoutError as error:
            why = f"{url} gave no whole answer within {seconds:.3g} s; {connection.received} bytes came"
            raise AttemptFailed(why, RetryScope.ANYWHERE, unsent=connection.sent == 0, late=True) from error
        except _BROKEN as error:
            raise _broken(url, connection, error) from error
        finally:
            self.requests[status] += 1
            if traced is not None:
                traced.end(f"{url}{request.path}", status)
            await pool.release(connection, answered=answered)
        return answer


def _broken(url: str, connection: HttpConnection, error: Exception) -> AttemptFailed:
    """Return what became of a request whose connection broke, or could not be made."""
    if fault := tls_fault(error):
        return AttemptFailed(f"no secure connection to {url}: {fault}", RetryScope.ELSEWHERE)
    if isinstance(error, httpcore.ProxyError):
        return AttemptFailed(f"the proxy on the way to {url} refuses", RetryScope.ANYWHERE, unsent=True)
    if connection.sent == 0 and isinstance(error, httpcore.ConnectError):
        return AttemptFailed(f"{url}: {error}", RetryScope.ANYWHERE, unsent=True)
    why = f"the connection to {url} ended before the whole answer ({type(error).__name__}); "
    # A connection that was idle for too long says nothing of the server.
    stale = not connection.connected and connection.received == 0
    health = BackendHealth.UNKNOWN if stale else BackendHealth.FAILED
    return AttemptFailed(f"{why}{connection.received} bytes came", RetryScope.ANYWHERE, health)


async def _read(response: httpcore.Response, url: str, max_bytes: int) -> bytes:
    """Return the body of an answer, or raise what the answer means."""
    status = response.status
    headers = {name.lower(): value.decode("latin-1").strip() for name, value in response.headers}
    content_type = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    length = headers.get(b"content-length", "")[:20]
    seen = f"{url} answered with HTTP {status}, "
    seen += content_type if _CONTENT_TYPE.fullmatch(content_type) else "without a content type"
    seen += f", {length} bytes" if length.isdecimal() else ""
    json = bool(_JSON.fullmatch(content_type))
    if headers.get(b"content-encoding", "").lower() not in ("", "identity"):
        raise _foreign(f"{seen}: it is compressed, though that was not asked for", status)
    if status == HTTPStatus.OK:
        if not json:
            raise _foreign(f"{seen}: it is not JSON, so it does not come from a model server", status)
        if not length.isdecimal() or int(length) <= max_bytes:
            content, whole = await _content(response, max_bytes)
            if whole:
                return content
        too_long = f"{seen}: it is longer than {max_bytes} bytes"
        raise AttemptFailed(too_long, RetryScope.NOWHERE, BackendHealth.WELL, status=status)
    if why := _REASONS.get(status, "it is not the status of an answer" if status < 300 else ""):
        raise AttemptFailed(f"{seen}: {why}", RetryScope.NOWHERE, BackendHealth.WELL, status=status)
    # To the end where it is short, so that the connection can be used again.
    content, _ = await _content(response, MAX_REFUSAL_BYTES)
    if status < 400:
        raise _foreign(f"{seen}: a redirect, which is not followed; give the URL that it leads to", status)
    if status in _RETRIED:
        # A base that counts our requests is well.
        well = status == HTTPStatus.TOO_MANY_REQUESTS
        health = BackendHealth.WELL if well else BackendHealth.FAILED
        wait = retry_after(headers.get(b"retry-after", ""))
        raise AttemptFailed(seen, RetryScope.ANYWHERE, health, status=status, wait=wait)
    # MLflow answers with 500 and JSON where a model raised one of MLflow's exceptions.
    if status < 500 or (status == HTTPStatus.INTERNAL_SERVER_ERROR and json):
        raise UpstreamRefused(seen, status, content, content_type)
    # A model that fails on this input will do so again, and shows nothing of the base.
    wait = retry_after(headers.get(b"retry-after", ""))
    raise AttemptFailed(seen, RetryScope.NOWHERE, BackendHealth.WELL, status=status, wait=wait)


def _foreign(why: str, status: int) -> AttemptFailed:
    return AttemptFailed(why, RetryScope.ELSEWHERE, status=status, foreign=True)


async def _content(response: httpcore.Response, max_bytes: int) -> tuple[bytes, bool]:
    """Return so much of a body, and whether it is the whole."""
    chunks = []
    left = max_bytes
    async for chunk in response.aiter_stream():
        chunks.append(chunk[:left])
        left -= len(chunk)
        if left < 0:
            return b"".join(chunks), False
    return b"".join(chunks), True


def retry_after(text: str, now: float | None = None) -> float | None:
    """Return the seconds that a Retry-After header says (RFC 9110, 10.2.3), `now` in seconds since 1970, or None."""
    text = text.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:10])
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    stamp = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    return max(0.0, stamp - (time.time() if now is None else now))
