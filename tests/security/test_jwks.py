"""The issuer's keys: which are used, and when they are fetched."""

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prinz_enricher.config import AuthSettings
from prinz_enricher.security import jwks as module
from prinz_enricher.security.authenticator import Authenticator
from prinz_enricher.security.jwks import KeyUrl, parse_keys
from prinz_enricher.security.principal import Principal
from prinz_enricher.security.watched_files import SecurityError
from tests.support.deadline import wait_until
from tests.support.hostile_server import Answer, HostileServer, Request
from tests.support.issuer import SigningKey, jwks, jwt_settings

KEY, NEW = SigningKey("1"), SigningKey("2")
RSA = SigningKey("rsa", "RS256")


@pytest.mark.parametrize(
    ("entry", "algorithms"),
    [
        (RSA.jwk(), ["PS256", "RS256", "RS384", "RS512"]),
        (RSA.jwk(alg="RS384", use="sig", key_ops=["verify"]), ["RS384"]),
        (SigningKey("384", "ES384").jwk(), ["ES384"]),
        (SigningKey("ed", "EdDSA").jwk(), ["EdDSA"]),
    ],
)
def test_key_fits_its_algorithms(entry: dict[str, Any], algorithms: list[str]) -> None:
    """A key is used with the algorithms of its type, or with the one that it names."""
    assert sorted(algorithm for _, algorithm in parse_keys("it", jwks(entry))) == algorithms


@pytest.mark.parametrize(
    "entry",
    [
        *(RSA.jwk(use="enc"), RSA.jwk(key_ops=["encrypt"]), RSA.jwk(key_ops="verify"), RSA.jwk(alg="HS256")),
        *(RSA.jwk(alg="ES256"), RSA.jwk(alg=["RS256"]), RSA.jwk(kid=7), RSA.jwk(kid=None), RSA.jwk(n="AQAB")),
        *(RSA.jwk(n=7), RSA.jwk(n="ü"), RSA.jwk(e=""), RSA.jwk(d="AQAB"), RSA.jwk(kty="oct", k="AQAB")),
        *(KEY.jwk(crv="P-521"), KEY.jwk(crv=None), KEY.jwk(crv=["P-256"]), KEY.jwk(x="AAAA"), KEY.jwk(kty=None)),
        SigningKey("weak", "RS256", bits=1024).jwk(),
        {"kid": "1", "kty": "oct", "k": "AQAB", "alg": "HS256"},
        {"kid": "1", "kty": "RSA"},
    ],
)
def test_key_that_is_passed_over(entry: dict[str, Any]) -> None:
    """A key not for signatures, too weak, secret or none at all is passed over; a good one beside it is used."""
    with pytest.raises(SecurityError, match="has no usable key: one with a kid, for one of ES256, ES384, EdDSA"):
        parse_keys("it", jwks(entry))
    assert [kid for kid, _ in parse_keys("it", jwks(entry, NEW))] == ["2"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        *((content, "it is not a JWKS") for content in (b"", b"[]", b"{}", b'{"keys": {}}', b"\xff", b"[" * 100_000)),
        (json.dumps({"keys": [1, None, []]}).encode(), "it has no usable key"),
        (json.dumps({"keys": [{}] * 1_001}).encode(), "it has more than 1000 keys"),
    ],
)
def test_what_is_no_list_of_keys(content: bytes, why: str) -> None:
    """It is refused with one sentence."""
    with pytest.raises(SecurityError, match=why):
        parse_keys("it", content)


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The clock of `keys`."""
    return Clock()


@pytest.fixture
def keys(hostile_server: HostileServer, clock: Clock) -> Iterator[KeyUrl]:
    """The keys at the server, which were fetched once."""
    hostile_server.respond = lambda _: Answer(jwks(KEY))
    url = KeyUrl(f"{hostile_server.url}/jwks", clock=clock)
    wait_until(lambda: url.known("1", "ES256") is not None)
    yield url
    url.stop()


def test_unknown_key_is_asked_for_once(hostile_server: HostileServer, keys: KeyUrl, clock: Clock) -> None:
    """A key that is not there is fetched at once, and then not again for 30 seconds, whoever asks."""
    hostile_server.respond = lambda _: Answer(jwks(KEY, NEW))
    assert keys.known("2", "ES256") is None
    assert keys.may_find()
    assert keys.find("2", "ES256") is not None
    assert len(hostile_server.requests) == 2

    for kid in ("3", "4", "5"):
        assert keys.find(kid, "ES256") is None
        assert not keys.may_find()
    assert len(hostile_server.requests) == 2

    clock.now += 30
    assert keys.find("3", "ES256") is None
    assert len(hostile_server.requests) == 3


def test_those_that_come_meanwhile_wait_for_the_same_fetch(hostile_server: HostileServer, keys: KeyUrl) -> None:
    """Eight callers with a new key cause one fetch, and each gets the key."""
    may_answer = threading.Event()

    def respond(_: Request) -> Answer:
        may_answer.wait(10)
        return Answer(jwks(KEY, NEW))

    hostile_server.respond = respond
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(keys.find("2", "ES256"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(hostile_server.requests) == 2)
    assert keys.known("1", "ES256") is not None
    may_answer.set()
    for thread in threads:
        thread.join()

    assert len(found) == 8
    assert None not in found
    assert len(hostile_server.requests) == 2


@pytest.mark.parametrize(
    "answer",
    [
        *(Answer(b"{}"), Answer(b"no", 500), Answer(jwks(), 200), Answer(status=302, headers={"Location": "/other"})),
        *(Answer(b" " * (1 << 20) + jwks(NEW)), Answer(b"x", declared_length=5)),
        Answer(gzip.compress(jwks(NEW)), headers={"Content-Encoding": "gzip"}),
        Answer(jwks(NEW), headers={"Content-Encoding": "gzip"}),
    ],
)
def test_former_keys_stay(hostile_server: HostileServer, keys: KeyUrl, answer: Answer) -> None:
    """An answer without keys, too long, compressed, or a redirect leaves the old keys in use, and is counted."""
    hostile_server.respond = lambda _: answer

    assert keys.find("2", "ES256") is None

    assert keys.known("1", "ES256") is not None
    assert keys.failures == 1
    assert [request.path for request in hostile_server.requests] == ["/jwks", "/jwks"]


def test_answer_that_drips(hostile_server: HostileServer, monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """An answer that comes byte by byte is given up in time; callers wait no longer than that, the next not at all."""
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.2)
    ended = threading.Event()

    def drip() -> Iterator[bytes]:
        while not ended.wait(0.05):
            yield b" "

    hostile_server.respond = lambda _: Answer(b"", declared_length=1_000, pieces=drip())
    url = KeyUrl(hostile_server.url, clock=lambda: time.monotonic() + clock.now)

    began = time.monotonic()
    assert url.find("1", "ES256") is None
    assert time.monotonic() - began < 5
    wait_until(lambda: url.failures > 0)
    assert not url.fetched

    ended.set()
    url.stop()


def test_issuer_that_never_answers_holds_nobody(
    hostile_server: HostileServer, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """A fetch that does not end, whatever its reason, is waited for until its time is over, and then by nobody."""
    ended = threading.Event()
    monkeypatch.setattr(module, "_download", lambda *_: ended.wait(60))
    monkeypatch.setattr(module, "TIMEOUT_SECONDS", 0.05)
    url = KeyUrl(hostile_server.url, clock=lambda: time.monotonic() + clock.now)
    for _ in range(2):
        began = time.monotonic()
        assert url.find("1", "ES256") is None
        assert time.monotonic() - began < 5
        assert not url.may_find()
        clock.now += 30
        assert url.may_find()
    ended.set()
    url.stop()


def test_keys_are_fetched_again_by_themselves(hostile_server: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """New keys are there before anyone shows a token of theirs; an issuer that was away is asked again."""
    monkeypatch.setattr(module, "REFRESH_SECONDS", 0.01)
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)
    hostile_server.respond = lambda _: Answer(status=503)
    url = KeyUrl(hostile_server.url)
    wait_until(lambda: url.failures > 1)
    for key in (KEY, NEW):
        hostile_server.respond = lambda _, key=key: Answer(jwks(key))  # type: ignore[misc]
        known: Callable[[], object] = lambda key=key: url.known(key.kid, "ES256")  # type: ignore[misc]  # noqa: E731
        wait_until(lambda known=known: known() is not None)  # type: ignore[misc]
    assert url.known(KEY.kid, "ES256") is None
    url.stop()


def test_token_of_a_new_key(hostile_server: HostileServer) -> None:
    """A token of a key that the issuer has just made is left open by what may not block, and then accepted."""
    hostile_server.respond = lambda _: Answer(jwks(KEY))
    authenticator = Authenticator(AuthSettings(jwt=jwt_settings(url=hostile_server.url)))
    assert isinstance(authenticator.verify(f"Bearer {KEY.token()}", None), Principal)
    hostile_server.respond = lambda _: Answer(jwks(KEY, NEW))
    shown = f"Bearer {NEW.token()}"

    assert authenticator.known(shown, None) is None
    assert isinstance(authenticator.verify(shown, None), Principal)
    # Whoever shows a key that the issuer does not have is refused without waiting from now on.
    assert "signed with an unknown key" in str(authenticator.known(f"Bearer {SigningKey('3').token()}", None))
    authenticator.close()
