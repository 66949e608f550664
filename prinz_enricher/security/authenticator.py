"""Who calls: by a static token, a JWT, or a client certificate."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from prinz_enricher.config import AuthSettings
from prinz_enricher.errors import TokenInvalid, TokenMissing, UnauthenticatedError
from prinz_enricher.security.principal import ClientCertificate, Principal, Principals, is_name, remember
from prinz_enricher.security.tokens import StaticToken, open_tokens, token_digest
from prinz_enricher.security.watched_files import WatchedFiles

if TYPE_CHECKING:
    from prinz_enricher.security.jwt_verifier import JwtVerifier

MAX_TOKEN_BYTES = 8 << 10


class Authenticator:
    """Says who calls, by the Authorization header of a call and the client certificate of its connection.

    A token wins over a certificate, where tokens are accepted; a certificate alone is enough. Verdicts are remembered.
    From any thread. Raises SecurityError where a file of the settings can't be used at the start. `clock` gives seconds
    since 1970.
    """

    def __init__(
        self, settings: AuthSettings, *, client_certificates: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        self.enabled = settings.enabled or client_certificates
        """Whether a caller must say who it is."""
        self._accepts_tokens = settings.enabled
        self._accepts_certificates = client_certificates
        self._clock = clock
        self._principals = Principals()
        self._of_certificate: dict[ClientCertificate, Principal] = {}
        self._failures = {kind.reason: 0 for kind in (TokenMissing, TokenInvalid)}
        self._counting = threading.Lock()
        self._tokens: WatchedFiles[dict[bytes, StaticToken]] | None = None
        self._jwt: JwtVerifier | None = None
        if path := settings.tokens_file:
            self._tokens = open_tokens(path, self._principals)
        if settings.jwt.enabled:
            # A service without JWTs does not import what they need.
            from prinz_enricher.security.jwt_verifier import JwtVerifier

            self._jwt = JwtVerifier(settings.jwt, self._principals)
        if self._tokens is not None:
            self._tokens.start()

    def failures(self) -> dict[str, int]:
        """Return how many calls were refused, by the error's reason."""
        with self._counting:
            return dict(self._failures)

    def reload_failures(self) -> dict[str, int]:
        """Return how often new tokens and keys could not be used."""
        watched = {"tokens": self._tokens, "jwks": self._jwt}
        return {what: each.failures for what, each in watched.items() if each is not None}

    def known(
        self, authorization: str | None, certificate: ClientCertificate | None
    ) -> Principal | UnauthenticatedError | None:
        """Return who calls, or why that is not accepted; None where only `verify` can say it. Never blocks."""
        return self._counted(self._decide(authorization, certificate, may_block=False))

    def verify(
        self, authorization: str | None, certificate: ClientCertificate | None
    ) -> Principal | UnauthenticatedError:
        """Return who calls, or why that is not accepted; may block for seconds, while the issuer's keys are fetched."""
        verdict = self._counted(self._decide(authorization, certificate, may_block=True))
        # It leaves nothing open if it may block.
        return cast("Principal | UnauthenticatedError", verdict)

    def close(self) -> None:
        """Stop watching for new tokens and keys."""
        if self._tokens is not None:
            self._tokens.stop()
        if self._jwt is not None:
            self._jwt.close()

    def _decide(
        self, authorization: str | None, certificate: ClientCertificate | None, *, may_block: bool
    ) -> Principal | UnauthenticatedError | None:
        if not authorization or not self._accepts_tokens:
            return self._certified(certificate)
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or not token.isascii():
            return TokenInvalid('the metadata "authorization" is not "Bearer <token>"')
        if len(token) > MAX_TOKEN_BYTES:
            return TokenInvalid(f"the token is longer than {MAX_TOKEN_BYTES} bytes")
        now, digest = self._clock(), token_digest(token)
        static = self._tokens.current.get(digest) if self._tokens is not None else None
        if static is not None:
            return static.principal if now < static.expires else TokenInvalid("the token has expired")
        if self._jwt is None:
            return TokenInvalid("the token is unknown")
        return (self._jwt.verify if may_block else self._jwt.known)(token, digest, now)

    def _certified(self, certificate: ClientCertificate | None) -> Principal | UnauthenticatedError:
        if certificate is None or not self._accepts_certificates:
            return TokenMissing()
        principal = self._of_certificate.get(certificate)
        if principal is None:
            if not is_name(certificate.name):
                return TokenInvalid("the client certificate has no SPIFFE id, DNS name or common name to call it by")
            principal = self._principals.get(certificate.name)
            remember(self._of_certificate, certificate, principal)
        return principal

    def _counted(self, verdict: Principal | UnauthenticatedError | None) -> Principal | UnauthenticatedError | None:
        if isinstance(verdict, UnauthenticatedError):
            with self._counting:
                self._failures[verdict.reason] += 1
        return verdict
