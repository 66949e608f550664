"""Requests that read one registry: bounded in time and size, and never led to another host."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self

import httpx

from prinz_enricher.registry.auth.credentials import Basic, Credentials, NoCredentials
from prinz_enricher.registry.auth.secret import GivenSecret
from prinz_enricher.registry.errors import RegistryRefused, RegistryUnreadable
from prinz_enricher.registry.exchange import failures_told, open_client, read_answer, read_error
from prinz_enricher.registry.words import read_words

_MAX_VALIDATOR_CHARACTERS = 256

QueryParams = Mapping[str, str | int | list[str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said.

    Attributes:
        content: None where it is as it was when we were told the validator.
        validator: A header that asks whether it has changed since, such as `("If-None-Match", '"5f-1"')`; None where
            the server gave nothing to ask by.
    """

    content: bytes | None
    validator: tuple[str, str] | None = None


class Transport:
    """Sends requests below one base URL; may be used by several threads at once."""

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        max_connections: int,
        credentials: Credentials | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Open no connection yet.

        Args:
            url: The server's base URL; it may have a path, and user and password.
            timeout: Seconds that one request may take from its start to the last byte of its answer.
            max_connections: Connections at once.
            credentials: How requests are authenticated; user and password of the URL by default.
            tls: Whose certificates are trusted, and which is shown; as the system has it by default.

        Raises:
            ValueError: The URL is none of http or https.
        """
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, TypeError):
            raise ValueError("The registry's URL can't be read.") from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ValueError("The registry's URL must be http://host… or https://host….")
        if credentials is None and parsed.userinfo:
            credentials = Basic(parsed.username, GivenSecret(parsed.password))
        base = parsed.copy_with(userinfo=b"", query=None, fragment=None)
        self.host = base.host
        self.port = base.port
        # Without user and password, so that it can be shown and logged.
        self.url = str(base).rstrip("/")
        self._timeout = timeout
        self._credentials = credentials or NoCredentials()
        self._client = open_client(base.host, timeout=timeout, max_connections=max_connections, tls=tls)

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
        return _json_object(path, self.get(path, params, max_bytes=max_bytes))

    def search(self, path: str, wanted: Mapping[str, object], *, max_bytes: int) -> Mapping[str, object]:
        """Get a JSON object from a search that MLflow has by POST only; otherwise as `get_json`.

        Args:
            path: Below the base URL, percent-encoded.
            wanted: What is searched for, as JSON.
            max_bytes: How long the answer may be.
        """
        return _json_object(path, self._ask(path, {}, None, max_bytes, wanted).content or b"")

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
            RegistryError: There are no credentials to be had.
        """
        return self.get_if_changed(path, params, None, max_bytes=max_bytes).content or b""

    def save(self, path: str, write: Callable[[bytes], object]) -> None:
        """Get bytes piece by piece, however many they are; otherwise as `get`.

        Args:
            path: Below the base URL, percent-encoded.
            write: Called with each piece; what it raises ends the exchange, and is raised.
        """
        self._ask(path, {}, None, 0, write=write)

    def get_if_changed(
        self, path: str, params: QueryParams, validator: tuple[str, str] | None, *, max_bytes: int
    ) -> Answer:
        """Get bytes, unless they are as they were; otherwise as `get`.

        Args:
            path: Below the base URL, percent-encoded.
            params: Of the query.
            validator: What an earlier answer told; None to get them in any case.
            max_bytes: How long the answer may be.
        """
        return self._ask(path, params, validator, max_bytes)

    def _ask(
        self,
        path: str,
        params: QueryParams,
        validator: tuple[str, str] | None,
        max_bytes: int,
        body: Mapping[str, object] | None = None,
        write: Callable[[bytes], object] | None = None,
    ) -> Answer:
        authorization = self._credentials.authorization()
        try:
            return self._send(path, params, validator, max_bytes, body, write, authorization)
        except RegistryRefused as refusal:
            if refusal.status != httpx.codes.UNAUTHORIZED:
                raise
            another = self._credentials.refused(authorization)
            if not another:
                raise
        return self._send(path, params, validator, max_bytes, body, write, another)

    def _send(
        self,
        path: str,
        params: QueryParams,
        validator: tuple[str, str] | None,
        max_bytes: int,
        body: Mapping[str, object] | None,
        write: Callable[[bytes], object] | None,
        authorization: str,
    ) -> Answer:
        deadline = time.monotonic() + self._timeout
        headers = dict([validator]) if validator else {}
        if write is not None:
            # A piece that is decompressed may be of any length.
            headers["Accept-Encoding"] = "identity"
        if authorization:
            headers["Authorization"] = authorization
        with (
            failures_told(path, self._timeout),
            self._client.stream(
                "GET" if body is None else "POST",
                f"{self.url}{path}",
                params=dict(params),
                headers=headers,
                json=body,
            ) as response,
        ):
            if validator and response.status_code == httpx.codes.NOT_MODIFIED:
                return Answer(None, validator)
            if response.status_code != httpx.codes.OK:
                raise _refusal(path, response, read_error(response, path, deadline), authorization)
            if write is not None:
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise RegistryUnreadable(f"the answer to {path} is compressed, which was not asked for")
                for piece in response.iter_raw():
                    write(piece)
                return Answer(None)
            return Answer(read_answer(response, path, max_bytes, deadline), _validator(response))


def _json_object(path: str, content: bytes) -> Mapping[str, object]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RegistryUnreadable(f"the answer to {path} is no readable JSON") from error
    if not isinstance(parsed, dict):
        raise RegistryUnreadable(f"the answer to {path} is no JSON object")
    return parsed


def _validator(response: httpx.Response) -> tuple[str, str] | None:
    """Return what asks for the same again unless it changed."""
    etag, modified = response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")
    if 0 < len(etag) <= _MAX_VALIDATOR_CHARACTERS and etag.isascii():
        return "If-None-Match", etag
    try:
        age = parsedate_to_datetime(response.headers.get("Date", "")) - parsedate_to_datetime(modified)
    except (TypeError, ValueError):
        return None
    # A time of whole seconds: what is so young may be written once more, and still have the same time.
    return ("If-Modified-Since", modified) if age >= timedelta(seconds=2) else None


def _refusal(path: str, response: httpx.Response, content: bytes, authorization: str) -> RegistryRefused:
    """Tell of a status that is not 200, with what MLflow says of it."""
    status = response.status_code
    error_code, words = read_words(content, authorization)
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
    told = f": {words}" if words else ""
    return RegistryRefused(f"{path} answered with HTTP {status}{code}{told}{hint}", status, error_code, words)
