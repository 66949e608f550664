"""One try of a request at one base URL: who we say we are, the connection, and what its failures mean."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

import httpcore
import httpx
from h2.exceptions import H2Error

from prinz_enricher import __version__
from prinz_enricher.registry.auth import Access, BearerAuth
from prinz_enricher.registry.errors import RegistryError
from prinz_enricher.registry.secret_sources import OAuth2Tokens
from prinz_enricher.registry.transport import Credentials, trusts_environment
from prinz_enricher.scoring.remote.answers import Again, Answer, Setback, Shows, read
from prinz_enricher.scoring.remote.endpoint import Endpoint
from prinz_enricher.scoring.remote.errors import UpstreamFailed
from prinz_enricher.scoring.remote.lines import Lines
from prinz_enricher.scoring.remote.network import Attempt, Errands

_BROKEN = (
    *(httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError),
    *(httpcore.UnsupportedProtocol, httpcore.ConnectionNotAvailable, H2Error),
)


@dataclass(frozen=True, slots=True)
class Request:
    """What a model server is asked.

    Attributes:
        path: Below the base URL, percent-encoded.
        content: The body.
        content_type: Of the body.
        deadline: When the call must be over, by `time.monotonic()`.
        cancelled: Tells whether nobody waits for the answer any more.
    """

    path: str
    content: bytes = field(repr=False)
    content_type: str
    deadline: float
    cancelled: Callable[[], bool]


class Tries:
    """Sends requests to the base URLs of one endpoint; for all threads."""

    def __init__(self, endpoint: Endpoint, access: Access) -> None:
        """Connect to nobody yet.

        Args:
            endpoint: Its bases and limits.
            access: How they are reached; its URL does not count.

        Raises:
            AccessError: A certificate, or a proxy of the environment, can't be used.
        """
        self._credentials: Credentials = access.credentials
        self._max_answer_bytes = endpoint.max_answer_bytes
        self._errands = Errands()
        self._lines = {
            url: Lines(url, tls=_tls(url, access), http2=endpoint.http2, errands=self._errands) for url in endpoint.urls
        }
        self._headers = [
            (b"User-Agent", f"prinz-enricher/{__version__}".encode()),
            (b"Accept", b"application/json"),
            # A small answer that becomes a large one can't be bounded by its size.
            (b"Accept-Encoding", b"identity"),
            *((name.encode("ascii"), value.encode("latin-1")) for name, value in endpoint.headers.items()),
        ]

    def close(self) -> None:
        """Close all connections at rest."""
        self._errands.close()
        for lines in self._lines.values():
            lines.close()

    def once(self, url: str, request: Request, until: float) -> Answer:
        """Send a request; once more where our token has ended meanwhile.

        Args:
            url: One of the base URLs.
            request: What is asked.
            until: When this try must be over, by `time.monotonic()`.

        Raises:
            UpstreamRefused: The model server says that the request is wrong.
            CallCancelled: Nobody waits for the answer any more.
            Setback: There is no answer.
        """
        authorization = self._authorization(self._credentials.authorization, request, until)
        try:
            return self._send(url, request, authorization, until)
        except Setback as setback:
            if setback.failure.status != HTTPStatus.UNAUTHORIZED:
                raise
            another = self._authorization(lambda: self._credentials.refused(authorization), request, until)
            if not another:
                raise
        return self._send(url, request, another, until)

    def _authorization(self, header: Callable[[], str], request: Request, until: float) -> str:
        try:
            if isinstance(self._credentials, BearerAuth) and isinstance(self._credentials.tokens, OAuth2Tokens):
                # It may ask the token endpoint, or wait for a thread that does, for longer than this call may take.
                return self._errands.run(header, Attempt(until, request.cancelled), httpcore.ReadTimeout)
            return header()
        except httpcore.ReadTimeout as error:
            failure = UpstreamFailed("there was no token in time")
            raise Setback(failure, Again.NEVER, shows=Shows.NOTHING, unsent=True, late=True) from error
        except RegistryError as error:
            raise Setback(UpstreamFailed(str(error)), Again.NEVER, shows=Shows.NOTHING, unsent=True) from error

    def _send(self, url: str, request: Request, authorization: str, until: float) -> Answer:
        lines = self._lines[url]
        headers = [(b"Host", lines.authority), *self._headers, (b"Content-Type", request.content_type.encode("ascii"))]
        if authorization:
            headers.append((b"Authorization", authorization.encode("ascii")))
        attempt = Attempt(until, request.cancelled)
        timeouts = {"connect": attempt, "read": attempt, "write": attempt}
        line = lines.take()
        answered = False
        try:
            with line.stream(
                "POST",
                lines.url(request.path),
                headers=headers,
                content=request.content,
                extensions={"timeout": timeouts},
            ) as response:
                answer = read(response, url, self._max_answer_bytes)
            answered = True
        except httpcore.TimeoutException as error:
            why = f"{url} gave no whole answer within {attempt:.3g} s; {attempt.received} bytes came"
            raise Setback(UpstreamFailed(why), Again.ANYWHERE, unsent=attempt.sent == 0, late=True) from error
        except _BROKEN as error:
            raise _broken(url, attempt, error) from error
        finally:
            lines.give_back(line, answered=answered)
        return answer


def _broken(url: str, attempt: Attempt, error: Exception) -> Setback:
    """Tell what became of a request whose connection broke, or was none."""
    fault = _tls_fault(error)
    if fault:
        return Setback(UpstreamFailed(f"no secure connection to {url}: {fault}"), Again.ELSEWHERE)
    if isinstance(error, httpcore.ProxyError):
        return Setback(UpstreamFailed(f"the proxy on the way to {url} refuses"), Again.ANYWHERE, unsent=True)
    if attempt.sent == 0 and isinstance(error, httpcore.ConnectError):
        return Setback(UpstreamFailed(f"{url}: {error}"), Again.ANYWHERE, unsent=True)
    why = f"the connection to {url} ended before the whole answer ({type(error).__name__}); "
    failure = UpstreamFailed(f"{why}{attempt.received} bytes came")
    # A connection that was at rest for too long says nothing of the server.
    stale = not attempt.connected and attempt.received == 0
    return Setback(failure, Again.ANYWHERE, shows=Shows.NOTHING if stale else Shows.ILL)


def _tls_fault(error: BaseException | None) -> str:
    """Return what OpenSSL says is wrong, in its own fixed words; empty where it was something else."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"the server's certificate is not trusted ({error.verify_message})"
        if isinstance(error, ssl.SSLError):
            return f"{error.reason or 'the handshake failed'}"
        error = error.__cause__ or error.__context__
    return ""


def _tls(url: str, access: Access) -> ssl.SSLContext | None:
    parts = urlsplit(url)
    if parts.scheme != "https":
        return None
    trust_env = trusts_environment(parts.hostname or "")
    if access.tls is not None:
        return access.tls.context(trust_env=trust_env)
    return httpx.create_ssl_context(verify=True, trust_env=trust_env)
