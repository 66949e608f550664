"""Where passwords and tokens come from: given once, a file that others write anew, or a token endpoint."""

import base64
import math
import os
import ssl
import stat
import threading
import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote_plus, urlsplit

import httpx

from prinz_enricher.registry.registry_errors import (
    CredentialsUnavailable,
    RegistryError,
    RegistryUnreadable,
    TokenRefused,
)
from prinz_enricher.registry.transport import exchange, open_http_client, read_json_object

MAX_SECRET_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 64 * 1024
# How long a failure of the token endpoint is repeated, and how often a refused token is replaced, at most.
PAUSE_SECONDS = 5.0
_MARGIN_SECONDS = 60.0
_MARGIN_SHARE = 0.1
# Those of RFC 6749, section 5.2: no other word of the endpoint's is shown.
_OAUTH2_ERRORS = (
    *("invalid_request", "invalid_client", "invalid_grant"),
    *("unauthorized_client", "unsupported_grant_type", "invalid_scope"),
)


@dataclass(frozen=True, slots=True)
class GivenSecret:
    """A secret that stays as it is."""

    value: str = field(repr=False)

    def current(self) -> str:
        """Return the secret."""
        return self.value

    def reject(self, secret: str) -> None:
        """Do nothing: there is no other."""


class SecretFile:
    """A secret in a file, which is read again when the file is another one, or the secret was refused; thread-safe.

    Kubernetes rotates projected tokens by a new file behind the same path; a look at the path costs microseconds.
    A line break at the end of the file does not count.
    """

    def __init__(self, path: Path, what: str) -> None:
        self._path = path
        self._what = what
        self._secret = ""
        self._read_from: tuple[int, ...] | None = None
        self._lock = threading.Lock()

    def current(self) -> str:
        """Return what the file holds now; raises CredentialsUnavailable if it can't be read, is empty, or too long."""
        with self._lock:
            try:
                if self._read_from != _identity(self._path.stat()):
                    self._read_from = None
                    self._read_from, self._secret = self._read()
            except OSError as error:
                what = f"the {self._what} file {self._path}"
                raise CredentialsUnavailable(f"{what} can't be read: {error.strerror}") from None
            return self._secret

    def reject(self, secret: str) -> None:
        """Read the file again next time: it may have been written twice within one tick of the disk's clock."""
        with self._lock:
            self._read_from = None

    def _read(self) -> tuple[tuple[int, ...], str]:
        # A pipe without a writer would hold us forever.
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            content = file.read(MAX_SECRET_BYTES + 1) if stat.S_ISREG(status.st_mode) else b""
        try:
            secret = content.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            secret = ""
        if not secret or len(content) > MAX_SECRET_BYTES:
            raise CredentialsUnavailable(f"the {self._what} file {self._path} holds no {self._what}")
        return _identity(status), secret


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


class OAuth2Tokens:
    """Tokens by the client credentials grant of OAuth 2.0 (RFC 6749, section 4.4); thread-safe.

    One thread asks for a token, the others wait for it. It is kept until shortly before its end. A refused one is
    replaced, but not again and again: a registry that refuses every token must not burden the token endpoint.

    Scope and audience (Auth0) are those of the token, unless they are empty. One request may take `timeout` seconds.
    """

    def __init__(
        self,
        token_url: str,
        client_id: str,
        secret: GivenSecret | SecretFile,
        *,
        scope: str = "",
        audience: str = "",
        timeout: float = 10.0,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        parts = urlsplit(token_url)
        self._what = f"the token endpoint {parts.scheme}://{parts.netloc}{parts.path}"
        self._host = parts.hostname or ""
        self._token_url = token_url
        self._client_id = client_id
        self._secret = secret
        form = {"grant_type": "client_credentials", "scope": scope, "audience": audience}
        self._form = {key: value for key, value in form.items() if value}
        self._timeout = timeout
        self._tls = tls
        self._clock = clock
        self._lock = threading.Lock()
        self._token = ""
        self._renew_at = self._ends_at = self._replaced_at = self._failed_at = -math.inf
        self._failure: RegistryError | None = None

    def current(self) -> str:
        """Return a token that is valid for a while; raises RegistryError if there is none."""
        with self._lock:
            now = self._clock()
            if now < self._renew_at:
                return self._token
            if self._failure is None or now >= self._failed_at + PAUSE_SECONDS:
                try:
                    self._token, lifetime = self._fetch()
                except RegistryError as error:
                    self._failure, self._failed_at = copy(error), self._clock()
                else:
                    self._failure = None
                    # Counted from before the request: the endpoint did not issue it later than that.
                    self._ends_at = now + lifetime
                    self._renew_at = self._ends_at - min(_MARGIN_SECONDS, lifetime * _MARGIN_SHARE)
                    return self._token
            # The former token outlives a failure to renew it.
            if now < self._ends_at:
                return self._token
            # A copy: one instance, raised in several threads, would grow in each of them.
            raise copy(self._failure)

    def reject(self, secret: str) -> None:
        """Drop a token that the registry refused, unless another thread did already."""
        with self._lock:
            now = self._clock()
            if secret == self._token and now >= self._replaced_at + PAUSE_SECONDS:
                self._replaced_at = now
                self._renew_at = self._ends_at = -math.inf

    def _fetch(self) -> tuple[str, float]:
        """Ask for a token; return it and its seconds of life."""
        login = basic_header(quote_plus(self._client_id), quote_plus(self._secret.current()))
        with open_http_client(self._host, timeout=self._timeout, max_connections=1, tls=self._tls) as http:
            response, content = exchange(
                *(http, "POST", self._token_url, self._what),
                timeout=self._timeout,
                max_bytes=MAX_ANSWER_BYTES,
                data=self._form,
                headers={"Authorization": login, "Accept": "application/json"},
            )
        answer = read_json_object(content) or {}
        if response.status_code != httpx.codes.OK:
            # A file that holds it is read again next time.
            self._secret.reject("")
            raise self._refusal(response, answer.get("error"))
        token, kind, lifetime = (answer.get(key) for key in ("access_token", "token_type", "expires_in"))
        if not isinstance(token, str) or not is_token(token):
            raise RegistryUnreadable(f"{self._what} answered without a token")
        if not isinstance(kind, str) or kind.lower() != "bearer":
            raise RegistryUnreadable(f"{self._what} issued a token of another type than Bearer")
        if lifetime is None:
            # Then only the registry's refusal ends the token.
            return token, math.inf
        # Some write the number as text.
        if isinstance(lifetime, str) and lifetime.isascii() and lifetime.isdecimal() and len(lifetime) < 16:
            lifetime = int(lifetime)
        if isinstance(lifetime, bool) or not isinstance(lifetime, (int, float)) or not 0 <= lifetime < 2**53:
            raise RegistryUnreadable(f"{self._what} does not say in seconds how long its token lives")
        return token, float(lifetime)

    def _refusal(self, response: httpx.Response, error: object) -> TokenRefused:
        status, code = response.status_code, str(error) if error in _OAUTH2_ERRORS else ""
        hint = ""
        if response.is_redirect:
            hint = " (a redirect), which is not followed; give the URL that it leads to"
        elif status in (httpx.codes.BAD_REQUEST, httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            hint = "; client id, secret or scope are missing or wrong"
        return TokenRefused(f"{self._what} answered with HTTP {status} {code}".rstrip() + hint, status, code)


def basic_header(username: str, password: str) -> str:
    """Return the Authorization header of a user (RFC 7617)."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


def is_token(text: str) -> bool:
    """Return whether a text can stand in a header as one token."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text
