"""GET requests to one registry: bounded in time and size, and never led to another host."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import httpx

from prinz_enricher import __version__
from prinz_enricher.registry.errors import RegistryRefused, RegistryUnreachable, RegistryUnreadable

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_MAX_ERROR_BYTES = 64 * 1024

QueryParams = Mapping[str, str | int | list[str]]


class Transport:
    """Sends GET requests below one base URL; may be used by several threads at once."""

    def __init__(self, url: str, *, timeout: float, max_connections: int, auth: httpx.Auth | None = None) -> None:
        """Open no connection yet.

        Args:
            url: The server's base URL; it may have a path, and user and password.
            timeout: Seconds that one request may take from its start to the last byte of its answer.
            max_connections: Connections at once.
            auth: How requests are authenticated; user and password of the URL by default.

        Raises:
            ValueError: The URL is none of http or https.
        """
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, TypeError) as error:
            raise ValueError(f"The registry's URL can't be read: {error}") from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError("The registry's URL must be http://host… or https://host….")
        if auth is None and parsed.userinfo:
            auth = httpx.BasicAuth(parsed.username, parsed.password)
        base = parsed.copy_with(userinfo=b"", query=None, fragment=None)
        self.host = base.host
        self.port = base.port
        # Without user and password, so that it can be shown and logged.
        self.url = str(base).rstrip("/")
        self._timeout = timeout
        self._client = httpx.Client(
            auth=auth,
            headers={"User-Agent": f"prinz-enricher/{__version__}", "Accept": "*/*"},
            timeout=httpx.Timeout(timeout),
            limits=httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections),
            follow_redirects=False,
            # A private server is never behind a proxy, whatever the environment says of others.
            trust_env=base.host not in _LOOPBACK,
        )

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close all connections."""
        self.close()

    def get_json(self, path: str, params: QueryParams, *, max_bytes: int) -> Mapping[str, object]:
        """Get a JSON object.

        Args:
            path: Below the base URL, percent-encoded.
            params: Of the query.
            max_bytes: How long the answer may be.

        Raises:
            RegistryError: There is no such answer.
        """
        content = self.get(path, params, max_bytes=max_bytes)
        try:
            parsed = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise RegistryUnreadable(f"the answer to {path} is no readable JSON") from error
        if not isinstance(parsed, dict):
            raise RegistryUnreadable(f"the answer to {path} is no JSON object")
        return parsed

    def get(self, path: str, params: QueryParams, *, max_bytes: int) -> bytes:
        """Get bytes.

        Args:
            path: Below the base URL, percent-encoded.
            params: Of the query.
            max_bytes: How long the answer may be.

        Raises:
            RegistryUnreachable: There was no answer in time.
            RegistryRefused: Its status is not 200.
            RegistryUnreadable: It is longer.
        """
        deadline = time.monotonic() + self._timeout
        try:
            with self._client.stream("GET", f"{self.url}{path}", params=dict(params)) as response:
                if response.status_code != httpx.codes.OK:
                    raise _refusal(path, response, self._read(response, path, _MAX_ERROR_BYTES, deadline, cut=True))
                return self._read(response, path, max_bytes, deadline)
        except httpx.TimeoutException as error:
            raise RegistryUnreachable(f"no answer to {path} within {self._timeout:g} s") from error
        except httpx.ConnectError as error:
            raise RegistryUnreachable("no connection: its host is not found, or refuses it") from error
        except httpx.DecodingError as error:
            raise RegistryUnreadable(f"the answer to {path} can't be decompressed") from error
        except httpx.HTTPError as error:
            raise RegistryUnreachable(f"no answer to {path} ({type(error).__name__})") from error

    def _read(
        self, response: httpx.Response, path: str, max_bytes: int, deadline: float, *, cut: bool = False
    ) -> bytes:
        """Read an answer; one that is too long is refused, or cut."""
        chunks = []
        left = max_bytes
        for chunk in response.iter_bytes():
            chunks.append(chunk)
            left -= len(chunk)
            if left < 0:
                if cut:
                    break
                raise RegistryUnreadable(f"the answer to {path} is longer than {max_bytes} bytes")
            # httpx limits the time between two chunks; a server that drips would hold us forever.
            if time.monotonic() > deadline:
                raise RegistryUnreachable(f"no whole answer to {path} within {self._timeout:g} s")
        return b"".join(chunks)


def _refusal(path: str, response: httpx.Response, content: bytes) -> RegistryRefused:
    """Tell of a status that is not 200, without the server's own words, which may hold anything."""
    status = response.status_code
    error_code = _error_code(content)
    if response.is_redirect:
        return RegistryRefused(
            f"{path} answered with a redirect (HTTP {status}), which is not followed; give the URL that it leads to",
            status,
        )
    hint = {
        httpx.codes.UNAUTHORIZED: "; the credentials are missing or wrong",
        httpx.codes.FORBIDDEN: "; the credentials do not suffice, or the server does not allow our Host header",
    }.get(httpx.codes(status) if status in httpx.codes._value2member_map_ else httpx.codes.OK, "")
    code = f" {error_code}" if error_code else ""
    return RegistryRefused(f"{path} answered with HTTP {status}{code}{hint}", status, error_code)


def _error_code(content: bytes) -> str:
    """Return MLflow's own code of an error; empty where there is none."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    code = parsed.get("error_code") if isinstance(parsed, dict) else None
    is_code = isinstance(code, str) and len(code) < 64 and code.isascii() and code.replace("_", "").isalnum()
    return code if isinstance(code, str) and is_code else ""
