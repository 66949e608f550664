"""The keys that an issuer signs tokens with (JWKS, RFC 7517), from its URL or a file."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import jwt
import structlog

from prinz_enricher.config import MIB
from prinz_enricher.registry.registry_errors import RegistryError
from prinz_enricher.registry.transport import exchange, open_http_client
from prinz_enricher.security.watched_files import SecurityError, WatchedFiles

log = structlog.stdlib.get_logger(__name__)

MAX_BYTES = MIB
MAX_KEYS = 1_000
RSA_BITS = range(2_048, 8_193)
"""Weaker keys are not safe, and stronger ones let a token cost seconds."""
TIMEOUT_SECONDS = 5.0
REFRESH_SECONDS = 600.0  # Between two fetches when nothing is missing.
PAUSE_SECONDS = 30.0  # Between two fetches for a missing key, or after a failure.

# Algorithms by the type of the key, and by its curve. None of them has a shared secret: whoever knows the public keys
# could sign with it.
_ALGORITHMS = {
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("OKP", "Ed25519"): ("EdDSA",),
}
ALGORITHMS = frozenset(algorithm for fitting in _ALGORITHMS.values() for algorithm in fitting)

Keys = Mapping[tuple[str, str], jwt.PyJWK]
"""Public keys by their id (`kid`) and an algorithm that they may be used with."""


def parse_keys(what: str, content: bytes) -> Keys:
    """Return the usable keys of a JWKS; raises SecurityError where there is none.

    Skipped is what has no id, is not for signatures, not of an algorithm above, too weak, or not a public key.
    """
    try:
        entries = json.loads(content)["keys"]
    except (ValueError, TypeError, KeyError, RecursionError):
        entries = None
    if not isinstance(entries, list):
        raise SecurityError(f"{what} is not a JWKS")
    if len(entries) > MAX_KEYS:
        raise SecurityError(f"{what} has more than {MAX_KEYS} keys")
    keys: dict[tuple[str, str], jwt.PyJWK] = {}
    for entry in entries:
        if isinstance(entry, dict) and isinstance(kid := entry.get("kid"), str):
            for algorithm in _algorithms(entry):
                if (kid, algorithm) not in keys and (key := _key(entry, algorithm)) is not None:
                    keys[kid, algorithm] = key
    if not keys:
        raise SecurityError(f"{what} has no usable key: one with a kid, for one of {', '.join(sorted(ALGORITHMS))}")
    return keys


def _algorithms(entry: dict[str, Any]) -> list[str]:
    """Return the algorithms that a key may be used with: those of its type, if it is for signatures."""
    kty, operations = entry.get("kty"), entry.get("key_ops", ["verify"])
    curve = None if kty == "RSA" else entry.get("crv")
    if entry.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return []
    fitting = _ALGORITHMS.get((kty, curve), ()) if isinstance(kty, str) and isinstance(curve, str | None) else ()
    return [algorithm for algorithm in fitting if entry.get("alg", algorithm) == algorithm]


def _key(entry: dict[str, Any], algorithm: str) -> jwt.PyJWK | None:
    # A private key that was published is no longer secret.
    if "d" in entry:
        return None
    try:
        key = jwt.PyJWK(entry, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError, KeyError):
        return None
    return None if entry["kty"] == "RSA" and key.key.key_size not in RSA_BITS else key


class KeyFile(WatchedFiles[Keys]):
    """Keys in a file, read again when it changes; raises SecurityError where it can't be used at the start."""

    fetched = True

    def __init__(self, path: str) -> None:
        super().__init__("jwks", [path], lambda contents: parse_keys(f"the file {path}", contents[0]))
        self.start()

    def known(self, kid: str, algorithm: str) -> jwt.PyJWK | None:
        """Return a key."""
        return self.current.get((kid, algorithm))

    find = known

    def may_find(self) -> bool:
        """Return whether `find` may return more than `known`: never."""
        return False


class KeyUrl:
    """Keys at a URL, fetched by a thread of its own: now and then, and when a key is missing; from any thread.

    The former keys stay in use while the issuer does not answer. `clock` gives seconds.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.failures = 0
        """How often the keys could not be fetched."""
        self._url = url
        # Not the whole URL, which may have a secret in its query.
        self._host = urlsplit(url).hostname or ""
        self._clock = clock
        self._keys: Keys = {}
        self._content = b""
        self._changed = threading.Condition()
        self._fetching_until = clock() + TIMEOUT_SECONDS
        """Until when to wait for the fetch that was asked for, or runs; -inf: there is none."""
        self._ask_again_at = -math.inf
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="jwks", daemon=True)
        self._thread.start()

    @property
    def fetched(self) -> bool:
        """Whether there are keys at all."""
        return bool(self._keys)

    def known(self, kid: str, algorithm: str) -> jwt.PyJWK | None:
        """Return a key that is at hand."""
        return self._keys.get((kid, algorithm))

    def may_find(self) -> bool:
        """Return whether `find` may return more than `known` now."""
        now = self._clock()
        return now < self._fetching_until or now >= self._ask_again_at

    def find(self, kid: str, algorithm: str) -> jwt.PyJWK | None:
        """Return a key; a missing one is fetched, at most once in PAUSE_SECONDS. May block for TIMEOUT_SECONDS.

        Whoever comes during a fetch waits for that one.
        """
        with self._changed:
            while (key := self.known(kid, algorithm)) is None and self.may_find():
                now = self._clock()
                if now >= self._fetching_until:
                    self._ask_again_at, self._fetching_until = now + PAUSE_SECONDS, now + TIMEOUT_SECONDS
                    self._changed.notify_all()
                self._changed.wait(self._fetching_until - now)
        return key

    def stop(self) -> None:
        """Fetch no more; a fetch that runs ends by itself."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _run(self) -> None:
        while not self._ended:
            pause = REFRESH_SECONDS if self._fetch() else PAUSE_SECONDS
            with self._changed:
                self._fetching_until = -math.inf
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._ended or self._fetching_until != -math.inf, pause)
                self._fetching_until = self._clock() + TIMEOUT_SECONDS

    def _fetch(self) -> bool:
        """Exchange the keys for those at the URL; returns whether it answered with keys."""
        try:
            content = _download(self._url, self._host)
            if content != self._content:
                self._keys, self._content = parse_keys(f"the JWKS of {self._host}", content), content
                log.info("new JWKS in use", issuer=self._host, keys=len({kid for kid, _ in self._keys}))
        except Exception as error:  # noqa: BLE001 - the thread must go on
            self.failures += 1
            expected = isinstance(error, RegistryError | SecurityError)
            why = str(error) if expected else type(error).__name__
            log.error("JWKS not fetched, the old one stays in use", what="jwks", why=why)  # noqa: TRY400
            return False
        return True


def fetch_keys(url: str) -> Keys:
    """Return the usable keys at a URL; raises SecurityError, or RegistryError where nobody answers."""
    host = urlsplit(url).hostname or ""
    return parse_keys(f"the JWKS of {host}", _download(url, host))


def _download(url: str, host: str) -> bytes:
    content = b""
    deadline = time.monotonic() + TIMEOUT_SECONDS

    def add(piece: bytes) -> None:
        nonlocal content
        content += piece
        if len(content) > MAX_BYTES:
            raise SecurityError(f"the JWKS of {host} is longer than {MAX_BYTES} bytes")
        if time.monotonic() > deadline:
            raise SecurityError(f"the JWKS of {host} did not arrive within {TIMEOUT_SECONDS:g} s")

    with open_http_client(host, timeout=TIMEOUT_SECONDS, max_connections=1) as http:
        response, _ = exchange(
            *(http, "GET", url, f"the JWKS of {host}"),
            timeout=TIMEOUT_SECONDS,
            max_bytes=MAX_BYTES,
            write=add,
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )
    if response.status_code != HTTPStatus.OK:
        raise SecurityError(f"{host} answered HTTP {response.status_code} instead of its JWKS")
    return content
