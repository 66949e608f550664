"""JSON Web Tokens (RFC 7519): what one says, and whether it may be accepted, apart from its signature."""

from __future__ import annotations

import base64
import json
import re
from typing import Any, NamedTuple

from prinz_enricher.config import JwtSettings
from prinz_enricher.errors import TokenInvalid
from prinz_enricher.security.principal import MAX_NAME, is_name

LEEWAY_SECONDS = 30.0
"""How far the issuer's clock may be ahead of ours, by the claim `nbf`; `exp` counts to the second."""

_MAX_SECONDS = 1e15
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")
_MALFORMED = "the token is neither a known one nor a well-formed JWT"


class WebToken(NamedTuple):
    """A token whose claims are good, and whose signature is yet to be verified.

    Attributes:
        kid: The id of the key that it claims to be signed with.
        algorithm: The algorithm that it claims to be signed with, such as `RS256`.
        name: The name of its principal.
        groups: The principal's groups.
        until: When it is no longer accepted, in seconds since 1970.
    """

    kid: str
    algorithm: str
    name: str
    groups: tuple[str, ...]
    until: float


def read_web_token(token: str, settings: JwtSettings, algorithms: frozenset[str], now: float) -> WebToken:
    """Return what a token says at this time, in seconds since 1970; raises TokenInvalid where it is not accepted.

    Keys, and where to get them, are never taken from the token (`jwk`, `jku`, `x5c`, `x5u`).
    """
    found = _COMPACT.fullmatch(token)
    if found is None:
        raise TokenInvalid(_MALFORMED)
    header, claims = _object(found[1]), _object(found[2])
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise TokenInvalid(f"the token's algorithm is not allowed, only {', '.join(sorted(algorithms))} are")
    if "crit" in header:
        raise TokenInvalid("the token needs an extension that is not supported (crit)")
    if not isinstance(kid, str):
        raise TokenInvalid("the token does not say which key it is signed with (kid)")
    until = _check_claims(claims, settings, now)
    name, groups = claims.get(settings.principal_claim), claims.get(settings.groups_claim, [])
    if not is_name(name):
        expected = f"1 to {MAX_NAME} printable characters"
        raise TokenInvalid(f"the token's claim \"{settings.principal_claim}\", the caller's name, is not {expected}")
    groups = [groups] if isinstance(groups, str) else groups
    if not isinstance(groups, list) or not all(map(is_name, groups)):
        raise TokenInvalid(f'the token\'s claim "{settings.groups_claim}" is not a list of names')
    return WebToken(kid, algorithm, name, tuple(groups), until)


def _check_claims(claims: dict[str, Any], settings: JwtSettings, now: float) -> float:
    """Return when the token is no longer accepted; raises TokenInvalid where that is so now, or it is not for us."""
    expires, begins = _time(claims, "exp"), _time(claims, "nbf")
    if expires is None:
        raise TokenInvalid("the token does not say when it expires (exp)")
    if now >= expires:
        raise TokenInvalid("the token has expired")
    if begins is not None and now < begins - LEEWAY_SECONDS:
        raise TokenInvalid("the token is not valid yet (nbf)")
    if claims.get("iss") != settings.issuer:
        raise TokenInvalid("the token is of another issuer (iss)")
    audience = claims.get("aud")
    if settings.audience not in (audience if isinstance(audience, list) else [audience]):
        raise TokenInvalid("the token is for another audience (aud)")
    return expires


def _time(claims: dict[str, Any], name: str) -> float | None:
    """Return a time in seconds since 1970; None where the token has none."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _MAX_SECONDS:
        raise TokenInvalid(f"the token's claim {name} is not a number of seconds")
    return value


def _object(part: str) -> dict[str, Any]:
    try:
        value = json.loads(_decode(part))
    except (ValueError, RecursionError):
        value = None  # The error holds the text, and so must not be in the context of ours.
    if not isinstance(value, dict):
        raise TokenInvalid(_MALFORMED)
    return value


def _decode(part: str) -> bytes:
    if len(part) % 4 == 1:
        raise TokenInvalid(_MALFORMED)
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
