"""One HTTP exchange, bounded in time and size, whose failures are errors of ours."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from prinz_enricher import __version__
from prinz_enricher.registry.errors import RegistryUnreachable, RegistryUnreadable

MAX_ERROR_BYTES = 64 * 1024
"""How much is read of an answer that is an error."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def open_client(host: str, *, timeout: float, max_connections: int, tls: ssl.SSLContext | None = None) -> httpx.Client:
    """Make a client that follows no redirect.

    Args:
        host: Whom it is for.
        timeout: Seconds that each step of a request may take.
        max_connections: Connections at once.
        tls: Whose certificates are trusted, and which is shown; as the system has it by default.
    """
    trust_env = trusts_environment(host)
    return httpx.Client(
        headers={"User-Agent": f"prinz-enricher/{__version__}", "Accept": "*/*"},
        timeout=httpx.Timeout(timeout),
        limits=httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections),
        follow_redirects=False,
        trust_env=trust_env,
        verify=True if tls is None else tls,
    )


def trusts_environment(host: str) -> bool:
    """Tell whether proxies of the environment are for this host: a private server is never behind one."""
    return host not in _LOOPBACK


@contextmanager
def failures_told(what: str, timeout: float) -> Iterator[None]:
    """Turn what httpx raises into errors of ours.

    Args:
        what: Was asked for, for messages.
        timeout: Seconds that it might take.

    Raises:
        RegistryUnreachable: There was no answer in time.
        RegistryUnreadable: The answer can't be decompressed, or no URL is as long as what was asked for.
    """
    try:
        yield
    except httpx.TimeoutException as error:
        raise RegistryUnreachable(f"no answer to {what} within {timeout:g} s") from error
    except httpx.DecodingError as error:
        raise RegistryUnreadable(f"the answer to {what} can't be decompressed") from error
    except httpx.InvalidURL as error:
        raise RegistryUnreadable(f"the path {what[:100]}… is too long to be asked for") from error
    except httpx.HTTPError as error:
        fault = _tls_fault(error)
        if fault:
            raise RegistryUnreachable(f"no secure connection for {what}: {fault}") from error
        if isinstance(error, httpx.ConnectError):
            raise RegistryUnreachable(f"no connection for {what}: its host is not found, or refuses it") from error
        raise RegistryUnreachable(f"no answer to {what} ({type(error).__name__})") from error


def read_answer(response: httpx.Response, what: str, max_bytes: int, deadline: float) -> bytes:
    """Read an answer to its end.

    Args:
        response: Whose body is not read yet.
        what: Was asked for, for messages.
        max_bytes: How long the answer may be.
        deadline: By `time.monotonic()`.

    Raises:
        RegistryUnreachable: Its end did not come in time.
        RegistryUnreadable: It is longer.
    """
    content, whole = _read(response, what, max_bytes, deadline)
    if not whole:
        raise RegistryUnreadable(f"the answer to {what} is longer than {max_bytes} bytes")
    return content


def read_error(response: httpx.Response, what: str, deadline: float) -> bytes:
    """Read the beginning of an answer that is an error.

    Raises:
        RegistryUnreachable: It did not come in time.
    """
    return _read(response, what, MAX_ERROR_BYTES, deadline)[0]


def _read(response: httpx.Response, what: str, max_bytes: int, deadline: float) -> tuple[bytes, bool]:
    chunks = []
    left = max_bytes
    for chunk in response.iter_bytes():
        chunks.append(chunk)
        left -= len(chunk)
        if left < 0:
            return b"".join(chunks), False
        # httpx limits the time between two chunks; a server that drips would hold us forever.
        if time.monotonic() > deadline:
            raise RegistryUnreachable(f"no whole answer to {what} in time")
    return b"".join(chunks), True


def _tls_fault(error: BaseException | None) -> str:
    """Return what OpenSSL says is wrong, in its own fixed words; empty where it was something else."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"the server's certificate is not trusted ({error.verify_message})"
        if isinstance(error, ssl.SSLError):
            return f"{error.reason or 'the handshake failed'}"
        error = error.__cause__ or error.__context__
    return ""
