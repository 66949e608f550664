"""Verifies JSON Web Tokens by the keys of their issuer, and remembers what it found."""

from __future__ import annotations

import jwt

from prinz_enricher.config import JwtSettings
from prinz_enricher.errors import TokenInvalid
from prinz_enricher.security.json_web_token import WebToken, read_web_token
from prinz_enricher.security.jwks import ALGORITHMS, KeyFile, KeyUrl
from prinz_enricher.security.principal import Principal, Principals, remember

_JWS = jwt.PyJWS()

_UNKNOWN_KEY = "the token is signed with an unknown key (kid)"
_NO_KEYS = "the keys of the token's issuer could not be fetched yet; try again later"
_BAD_SIGNATURE = "the token's signature is wrong"


class JwtVerifier:
    """Verifies the tokens of the settings' issuer; from any thread.

    A verdict holds as long as its key is in use. Raises SecurityError where a file of keys can't be used at the start.
    """

    def __init__(self, settings: JwtSettings, principals: Principals) -> None:
        self._settings = settings
        self._principals = principals
        self._keys = KeyFile(settings.jwks_file) if settings.jwks_file else KeyUrl(settings.jwks_url)
        # Verdicts by the digests of tokens; two tables, so that forged tokens displace no good one.
        self._good: dict[bytes, tuple[Principal, float, tuple[str, str], jwt.PyJWK]] = {}
        self._bad: dict[bytes, jwt.PyJWK] = {}

    @property
    def failures(self) -> int:
        """How often new keys could not be used."""
        return self._keys.failures

    def known(self, token: str, digest: bytes, now: float) -> Principal | TokenInvalid | None:
        """Return who calls with a token, or why it is not accepted; None where `verify` must say it. Never blocks."""
        found = self._known(token, digest, now)
        if not isinstance(found, WebToken):
            return found
        if self._keys.known(found.kid, found.algorithm) is None and not self._keys.may_find():
            return self._unknown_key()
        return None

    def verify(self, token: str, digest: bytes, now: float) -> Principal | TokenInvalid:
        """Return who calls with a token, or why it is not accepted; may fetch keys, and block for seconds."""
        found = self._known(token, digest, now)
        if not isinstance(found, WebToken):
            return found
        key = self._keys.find(found.kid, found.algorithm)
        if key is None:
            return self._unknown_key()
        try:
            _JWS.decode(token, key, algorithms=[found.algorithm])
        except jwt.PyJWTError:
            remember(self._bad, digest, key)
            return TokenInvalid(_BAD_SIGNATURE)
        principal = self._principals.get(found.name, found.groups)
        remember(self._good, digest, (principal, found.until, (found.kid, found.algorithm), key))
        return principal

    def close(self) -> None:
        """Stop looking for new keys."""
        self._keys.stop()

    def _unknown_key(self) -> TokenInvalid:
        return TokenInvalid(_UNKNOWN_KEY if self._keys.fetched else _NO_KEYS)

    def _known(self, token: str, digest: bytes, now: float) -> Principal | TokenInvalid | WebToken:
        good = self._good.get(digest)
        if good is not None:
            principal, until, key_id, key = good
            if now < until and self._keys.known(*key_id) is key:
                return principal
        try:
            read = read_web_token(token, self._settings, ALGORITHMS, now)
        except TokenInvalid as error:
            # Without the frames, in which the token stands.
            return error.with_traceback(None)
        bad = self._bad.get(digest)
        if bad is not None and self._keys.known(read.kid, read.algorithm) is bad:
            return TokenInvalid(_BAD_SIGNATURE)
        return read
