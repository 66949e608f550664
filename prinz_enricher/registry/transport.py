"""Requests to one server: bounded in time and size, never redirected to another host, with failures as our errors."""

import json
import ssl
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from prinz_enricher import __version__
from prinz_enricher.registry.registry_errors import RegistryRefused, RegistryUnreachable, RegistryUnreadable, redact

MAX_ERROR_BYTES = 64 * 1024
# A page is parsed while nothing else of this process runs. One that has more is asked for again with fewer entries.
MAX_PAGE_BYTES = 8 * 1024 * 1024
MAX_PAGE_VALUES = 200_000  # In its JSON.
MAX_PAGES = 10_000
MAX_LISTING_BYTES = 256 * 1024 * 1024
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_MAX_VALIDATOR_CHARACTERS = 256
_HINTS: dict[int, str] = {
    httpx.codes.UNAUTHORIZED: "; the credentials are missing or wrong",
    httpx.codes.FORBIDDEN: "; the credentials do not suffice, or the server does not allow our Host header",
}


class AnswerTooLong(RegistryUnreadable):
    """An answer is longer than it may be."""


QueryParams = Mapping[str, str | int | list[str]]
Validator = tuple[str, str]  # A header that asks whether a file has changed, such as `("If-None-Match", '"5f-1"')`.


class Credentials:
    """How requests are authenticated: here not at all; thread-safe. Methods may raise RegistryError.

    The transport sets the header and replaces a refused one, in place of an `httpx.Auth` flow: httpx reads a refused
    answer to its end before it sends the next request, however long that answer is.
    """

    def authorization(self) -> str:
        """Return the Authorization header of a request, or an empty text; may ask a token endpoint."""
        return ""

    def mlflow_variables(self) -> Mapping[str, str]:
        """Return the environment variables that authenticate MLflow's own client, valid now."""
        return {}

    def refused(self, authorization: str) -> str:
        """Return another header to try once after one was answered with HTTP 401, or an empty text."""
        self._reject(authorization.partition(" ")[2])
        now = self.authorization()
        return now if now != authorization else ""

    def _reject(self, secret: str) -> None:
        """Have the next secret read or fetched anew."""


def open_http_client(
    host: str, *, timeout: float, max_connections: int, tls: ssl.SSLContext | None = None
) -> httpx.Client:
    """Return a client that follows no redirect; `timeout` is in seconds for each step of a request."""
    return httpx.Client(
        headers={"User-Agent": f"prinz-enricher/{__version__}", "Accept": "*/*"},
        timeout=httpx.Timeout(timeout),
        limits=httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections),
        follow_redirects=False,
        trust_env=trusts_environment(host),
        verify=True if tls is None else tls,
    )


def trusts_environment(host: str) -> bool:
    """Return whether proxies of the environment are used for this host: a private server is never behind one."""
    return host not in _LOOPBACK


def tls_fault(error: BaseException | None) -> str:
    """Return the fault of TLS that an error comes from, in OpenSSL's own fixed words; empty if it is another fault."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"the server's certificate is not trusted ({error.verify_message})"
        if isinstance(error, ssl.SSLError):
            plain = "the server does not speak TLS (is it http://?)"
            return plain if error.reason == "WRONG_VERSION_NUMBER" else f"{error.reason or 'the handshake failed'}"
        error = error.__cause__ or error.__context__
    return ""


def exchange(
    client: httpx.Client,
    method: str,
    url: str,
    what: str,
    *,
    timeout: float,
    max_bytes: int,
    write: Callable[[bytes], object] | None = None,
    **options: Any,
) -> tuple[httpx.Response, bytes]:
    """Send a request by a client that follows no redirect; return its answer of any status, and its body.

    It may take `timeout` seconds from its start to the last byte. The body of an error is cut after 64 KiB. A body of
    any length is given to `write`, piece by piece; what it raises ends the exchange. Other options are those of
    `httpx.Client.stream`; messages name `what` was requested. Raises RegistryUnreachable if there was no whole answer
    in time, RegistryUnreadable if it is too long or can't be decompressed, or the URL is too long.
    """
    deadline = time.monotonic() + timeout
    with _translated_errors(what, timeout), client.stream(method, url, **options) as response:
        is_error = response.status_code != httpx.codes.OK
        if write is not None and not is_error:
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise RegistryUnreadable(f"the answer to {what} is compressed, which was not asked for")
            for piece in response.iter_raw():
                write(piece)
            return response, b""
        limit = MAX_ERROR_BYTES if is_error else max_bytes
        chunks = []
        for chunk in response.iter_bytes():
            chunks.append(chunk)
            limit -= len(chunk)
            if is_error and limit < 0:
                break
            if limit < 0:
                raise AnswerTooLong(f"the answer to {what} is longer than {max_bytes} bytes")
            # httpx limits the time between two chunks; a server that drips would hold us forever.
            if time.monotonic() > deadline:
                raise RegistryUnreachable(f"no whole answer to {what} in time")
        return response, b"".join(chunks)


@contextmanager
def _translated_errors(what: str, timeout: float) -> Iterator[None]:
    try:
        yield
    except httpx.TimeoutException as error:
        raise RegistryUnreachable(f"no answer to {what} within {timeout:g} s") from error
    except httpx.DecodingError as error:
        raise RegistryUnreadable(f"the answer to {what} can't be decompressed") from error
    except httpx.InvalidURL as error:
        raise RegistryUnreadable(f"the path {what[:100]}… is too long for a request") from error
    except httpx.HTTPError as error:
        fault = tls_fault(error)
        if fault:
            raise RegistryUnreachable(f"no secure connection for {what}: {fault}") from error
        if isinstance(error, httpx.ConnectError):
            raise RegistryUnreachable(f"no connection for {what}: its host is not found, or refuses it") from error
        raise RegistryUnreachable(f"no answer to {what} ({type(error).__name__})") from error


def read_json_object(content: bytes) -> dict[str, object] | None:
    """Return a JSON object; None if the content is anything else."""
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


class Transport:
    """Sends requests below one base URL, with credentials; thread-safe.

    Paths are percent-encoded. Requests raise RegistryUnreachable if there was no whole answer within `timeout` seconds,
    RegistryRefused if its status is not 200, RegistryUnreadable if it is invalid or too long, and another RegistryError
    if there are no credentials.
    """

    def __init__(
        self, url: str, *, timeout: float, max_connections: int, credentials: Credentials, tls: ssl.SSLContext | None
    ) -> None:
        try:
            base = httpx.URL(url).copy_with(userinfo=b"", query=None, fragment=None)
        except (httpx.InvalidURL, TypeError):
            raise ValueError("The registry's URL can't be read.") from None
        if base.scheme not in ("http", "https") or not base.host:
            raise ValueError("The registry's URL must be http://host… or https://host….")
        self.host = base.host
        self.port = base.port
        # Without user and password, so that it can be shown and logged.
        self.url = str(base).rstrip("/")
        self._timeout = timeout
        self._credentials = credentials
        self._client = open_http_client(base.host, timeout=timeout, max_connections=max_connections, tls=tls)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def get_json(
        self, path: str, params: QueryParams, *, max_bytes: int | None = None, method: str = "GET"
    ) -> Mapping[str, object]:
        """Get a JSON object, by default of at most `MAX_PAGE_BYTES`; with POST, the parameters are sent as JSON."""
        return self._get_json(path, params, max_bytes or MAX_PAGE_BYTES, method)[0]

    def get_pages(self, path: str, key: str, params: QueryParams) -> Iterator[list[object]]:
        """Get a listing page by page, with `max_results` entries each or fewer; `key` is that of the entries."""
        tokens: set[str] = set()
        token = ""
        left = MAX_LISTING_BYTES
        entries_per_page = int(str(params["max_results"]))
        for _ in range(MAX_PAGES):
            query = {**params, "max_results": entries_per_page} | ({"page_token": token} if token else {})
            try:
                page, size = self._get_json(path, query, MAX_PAGE_BYTES, "GET")
            except AnswerTooLong:
                if entries_per_page == 1:
                    raise
                entries_per_page //= 2
                continue
            left -= size
            entries = page.get(key, [])
            following = page.get("next_page_token") or ""
            if not isinstance(entries, list) or not isinstance(following, str):
                raise RegistryUnreadable(f"a page of {path} is not as MLflow writes it")
            yield entries
            if not following:
                return
            if following in tokens:
                raise RegistryUnreadable(f"the pages of {path} go round in a circle")
            if left < 0:
                raise RegistryUnreadable(f"the pages of {path} have more than {MAX_LISTING_BYTES} bytes in all")
            tokens.add(following)
            token = following
        raise RegistryUnreadable(f"there are more than {MAX_PAGES} pages of {path}")

    def _get_json(
        self, path: str, params: QueryParams, max_bytes: int, method: str
    ) -> tuple[Mapping[str, object], int]:
        """Return a JSON object, and its bytes as it was sent."""
        options: dict[str, Any] = {"params": params} if method == "GET" else {"json": params}
        _, content = self._request(path, max_bytes, method=method, **options)
        # Each value but the first follows one of these.
        if sum(map(content.count, (b",", b"[", b"{"))) > MAX_PAGE_VALUES:
            raise AnswerTooLong(f"the answer to {path} has more than {MAX_PAGE_VALUES} JSON values")
        parsed = read_json_object(content)
        if parsed is None:
            raise RegistryUnreadable(f"the answer to {path} is not a JSON object")
        return parsed, len(content)

    def get_if_changed(
        self, path: str, params: QueryParams, validator: Validator | None, *, max_bytes: int
    ) -> tuple[bytes | None, Validator | None]:
        """Get bytes, and what asks later whether they have changed; None if they did not since the given validator."""
        response, content = self._request(path, max_bytes, params=params, validator=validator)
        if response.status_code == httpx.codes.NOT_MODIFIED:
            return None, validator
        return content, _validator(response)

    def save(self, path: str, write: Callable[[bytes], object]) -> None:
        """Get bytes of any length, piece by piece; an error of `write` ends the exchange."""
        self._request(path, 0, write=write)

    def _request(
        self,
        path: str,
        max_bytes: int,
        *,
        method: str = "GET",
        validator: Validator | None = None,
        write: Callable[[bytes], object] | None = None,
        **options: Any,
    ) -> tuple[httpx.Response, bytes]:
        """Send a request; once more with other credentials if the first were refused."""
        headers = dict([validator]) if validator else {}
        if write is not None:
            # A piece that is decompressed may be of any length.
            headers["Accept-Encoding"] = "identity"

        def send() -> tuple[httpx.Response, bytes]:
            return exchange(
                *(self._client, method, f"{self.url}{path}", path),
                timeout=self._timeout,
                max_bytes=max_bytes,
                write=write,
                headers=headers | ({"Authorization": authorization} if authorization else {}),
                **options,
            )

        authorization = self._credentials.authorization()
        response, content = send()
        if response.status_code == httpx.codes.UNAUTHORIZED and (another := self._credentials.refused(authorization)):
            authorization = another
            response, content = send()
        if response.status_code == httpx.codes.OK or (validator and response.status_code == httpx.codes.NOT_MODIFIED):
            return response, content
        raise _refusal(path, response, content, authorization)


def _validator(response: httpx.Response) -> Validator | None:
    etag, modified = response.headers.get("ETag", ""), response.headers.get("Last-Modified", "")
    if 0 < len(etag) <= _MAX_VALIDATOR_CHARACTERS and etag.isascii():
        return "If-None-Match", etag
    try:
        age = parsedate_to_datetime(response.headers.get("Date", "")) - parsedate_to_datetime(modified)
    except (TypeError, ValueError):
        return None
    # Times are in whole seconds: a file that was just written may be written once more with the same time.
    return ("If-Modified-Since", modified) if age >= timedelta(seconds=2) else None


def _refusal(path: str, response: httpx.Response, content: bytes, authorization: str) -> RegistryRefused:
    """Return the error of a status that is not 200, with MLflow's code and redacted message if there are any."""
    status = response.status_code
    if response.is_redirect:
        said = f"{path} answered with a redirect (HTTP {status}), which is not followed; give the URL that it leads to"
        return RegistryRefused(said, status)
    error = read_json_object(content) or {}
    code, message = error.get("error_code"), error.get("message")
    if not (isinstance(code, str) and len(code) < 64 and code.isascii() and code.replace("_", "").isalnum()):
        # Someone else's, such as a proxy's.
        code, message = "", ""
    words = redact(message, _secrets(authorization)) if isinstance(message, str) else ""
    said = f"{path} answered with HTTP {status} {code}".rstrip() + (f": {words}" if words else "")
    return RegistryRefused(said + _HINTS.get(status, ""), status, code, words)


def _secrets(authorization: str) -> list[str]:
    """Return the secrets of a header: the token, and the password within it."""
    scheme, _, token = authorization.partition(" ")
    secrets = [token]
    if scheme.lower() == "basic":
        with suppress(ValueError):
            secrets.append(b64decode(token).decode().partition(":")[2])
    return [secret for secret in secrets if secret]
