"""Tokens by the client credentials grant of OAuth 2.0 (RFC 6749, section 4.4)."""

from __future__ import annotations

import base64
import json
import math
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote_plus, urlsplit

import httpx

from prinz_enricher.registry.auth.credentials import is_token
from prinz_enricher.registry.auth.secret import SecretSource
from prinz_enricher.registry.errors import RegistryError, RegistryUnreadable, TokenRefused
from prinz_enricher.registry.exchange import failures_told, open_client, read_answer, read_error

MAX_TOKEN_BYTES = 64 * 1024
"""How long the token endpoint's answer may be."""

PAUSE_SECONDS = 5.0
"""How long a failure of the token endpoint is told again, and how often a refused token is replaced, at most."""

_MARGIN_SECONDS = 60.0
_MARGIN_SHARE = 0.1
# Those of RFC 6749, section 5.2: no other word of the endpoint's is told.
_ERRORS = (
    *("invalid_request", "invalid_client", "invalid_grant"),
    *("unauthorized_client", "unsupported_grant_type", "invalid_scope"),
)


@dataclass(frozen=True, slots=True)
class OAuth2Client:
    """What a token endpoint is asked with.

    Attributes:
        token_url: The endpoint.
        client_id: Who we are there.
        secret: Our password there.
        scope: What the token is to be good for; the endpoint's default where it is empty.
        audience: Whom the token is for, where the endpoint asks for it (Auth0); left out where it is empty.
    """

    token_url: str
    client_id: str
    secret: SecretSource = field(repr=False)
    scope: str = ""
    audience: str = ""


class OAuth2Tokens:
    """A source of tokens for all threads: one of them asks for a token, the others wait for it.

    A token is kept until shortly before its end. One that the registry refuses is thrown away, but not again and again:
    a registry that refuses every token must not make us a burden for the token endpoint.
    """

    def __init__(
        self,
        client: OAuth2Client,
        *,
        timeout: float = 10.0,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Ask for nothing yet.

        Args:
            client: What the token endpoint is asked with.
            timeout: Seconds that it may take.
            tls: Whose certificates are trusted, and which is shown.
            clock: Seconds of a clock that only goes forward.
        """
        self._client = client
        parts = urlsplit(client.token_url)
        self._what = f"the token endpoint {parts.scheme}://{parts.netloc}{parts.path}"
        self._timeout = timeout
        self._tls = tls
        self._clock = clock
        self._lock = threading.Lock()
        self._token = ""
        self._renew_at = self._ends_at = -math.inf
        self._replaced_at = -math.inf
        self._failure: Callable[[], RegistryError] | None = None
        self._failed_at = -math.inf

    def __repr__(self) -> str:
        return f"OAuth2Tokens({self._client!r})"

    def current(self) -> str:
        """Return a token that is good for a while.

        Raises:
            TokenRefused: The token endpoint gives us none.
            RegistryUnreachable: It does not answer.
            RegistryUnreadable: Its answer is no token.
            CredentialsUnavailable: The file of our secret there holds none.
        """
        with self._lock:
            now = self._clock()
            if now < self._renew_at:
                return self._token
            if self._failure is not None and now < self._failed_at + PAUSE_SECONDS:
                return self._outlast(now, self._failure)
            try:
                self._token, lifetime = self._fetch()
            except RegistryError as error:
                self._failure, self._failed_at = _repeat(error), self._clock()
                return self._outlast(now, self._failure)
            self._failure = None
            # Counted from before the request: the endpoint did not make it later than that.
            self._ends_at = now + lifetime
            self._renew_at = self._ends_at - min(_MARGIN_SECONDS, lifetime * _MARGIN_SHARE)
            return self._token

    def reject(self, used: str) -> None:
        """Throw a token away that the registry refused, unless another thread did already."""
        with self._lock:
            now = self._clock()
            if used == self._token and now >= self._replaced_at + PAUSE_SECONDS:
                self._replaced_at = now
                self._renew_at = self._ends_at = -math.inf

    def _outlast(self, now: float, failure: Callable[[], RegistryError]) -> str:
        """Return the former token while it is good, though it is time for a new one."""
        if now < self._ends_at:
            return self._token
        raise failure()

    def _fetch(self) -> tuple[str, float]:
        """Ask for a token; return it and its seconds of life."""
        form = {"grant_type": "client_credentials", "scope": self._client.scope, "audience": self._client.audience}
        pair = f"{quote_plus(self._client.client_id)}:{quote_plus(self._client.secret.current())}"
        headers = {
            "Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}",
            "Accept": "application/json",
        }
        deadline = time.monotonic() + self._timeout
        host = urlsplit(self._client.token_url).hostname or ""
        with (
            failures_told(self._what, self._timeout),
            open_client(host, timeout=self._timeout, max_connections=1, tls=self._tls) as http,
            http.stream(
                "POST",
                self._client.token_url,
                data={key: value for key, value in form.items() if value},
                headers=headers,
            ) as response,
        ):
            if response.status_code != httpx.codes.OK:
                # A file that holds it is read again next time.
                self._client.secret.reject("")
                raise self._refusal(response.status_code, read_error(response, self._what, deadline))
            content = read_answer(response, self._what, MAX_TOKEN_BYTES, deadline)
        return self._read(content)

    def _read(self, content: bytes) -> tuple[str, float]:
        answer = _json_object(content)
        token, kind = answer.get("access_token"), answer.get("token_type")
        if not isinstance(token, str) or not is_token(token):
            raise RegistryUnreadable(f"{self._what} answered without a token")
        if not isinstance(kind, str) or kind.lower() != "bearer":
            raise RegistryUnreadable(f"{self._what} gave a token of another type than Bearer")
        lifetime = answer.get("expires_in")
        if lifetime is None:
            # Then only the registry's refusal tells its end.
            return token, math.inf
        # Some write the number as text.
        if isinstance(lifetime, str) and lifetime.isascii() and lifetime.isdecimal() and len(lifetime) < 16:
            lifetime = int(lifetime)
        if isinstance(lifetime, bool) or not isinstance(lifetime, (int, float)) or not 0 <= lifetime < 2**53:
            raise RegistryUnreadable(f"{self._what} does not say in seconds how long its token lives")
        return token, float(lifetime)

    def _refusal(self, status: int, content: bytes) -> TokenRefused:
        code = _json_object(content).get("error")
        told = f" {code}" if code in _ERRORS else ""
        if 300 <= status < 400:
            hint = " (a redirect), which is not followed; give the URL that it leads to"
        elif status in (httpx.codes.BAD_REQUEST, httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            hint = "; client id, secret or scope are missing or wrong"
        else:
            hint = ""
        return TokenRefused(f"{self._what} answered with HTTP {status}{told}{hint}", status, str(code) if told else "")


def _json_object(content: bytes) -> dict[str, object]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _repeat(error: RegistryError) -> Callable[[], RegistryError]:
    """Return what makes the same error anew: one instance, raised in several threads, would grow in each of them."""
    kind, told = type(error), str(error)
    if isinstance(error, TokenRefused):
        status, code = error.status, error.error_code
        return lambda: TokenRefused(told, status, code)
    return lambda: kind(told)
