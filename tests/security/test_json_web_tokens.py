"""JWTs: each kind of wrong one is refused with its reason, and nothing of it is shown."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from prinz_enricher.config import AuthSettings
from prinz_enricher.errors import TokenInvalid, UnauthenticatedError
from prinz_enricher.security import watched_files
from prinz_enricher.security.authenticator import Authenticator
from prinz_enricher.security.principal import Principal
from tests.support.deadline import wait_until
from tests.support.issuer import AUDIENCE, URL, SigningKey, encode, jwks, jwt_settings

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")
KEYS = {algorithm: SigningKey(f"key-{algorithm}", algorithm) for algorithm in ALGORITHMS}
KEY = KEYS["ES256"]
OTHER = SigningKey(KEY.kid)
NOW = time.time()


@pytest.fixture(scope="module")
def authenticator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authenticator]:
    """Accepts the tokens of KEYS."""
    file = tmp_path_factory.mktemp("jwks") / "jwks.json"
    file.write_bytes(jwks(*KEYS.values()))
    opened = Authenticator(AuthSettings(jwt=jwt_settings(file)), clock=lambda: NOW)
    yield opened
    opened.close()


def verdict(authenticator: Authenticator, token: str) -> Principal | Exception:
    """Return the verdict on a token, asked as a front does, and see that it stays the same."""
    known = authenticator.known(f"Bearer {token}", None)
    found = authenticator.verify(f"Bearer {token}", None) if known is None else known
    again = authenticator.known(f"Bearer {token}", None)
    assert again is found if isinstance(found, Principal) else str(again) == str(found)
    return found


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_good_token(authenticator: Authenticator, algorithm: str) -> None:
    """A token of the issuer names the caller and its groups, by each algorithm that is allowed."""
    found = verdict(authenticator, KEYS[algorithm].token(groups=["risk", "ops", "risk"]))

    assert isinstance(found, Principal)
    assert (found.name, found.groups) == ("scenarios", ("ops", "risk"))


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": ["other", AUDIENCE]},
        {"exp": NOW + 0.5},
        {"nbf": NOW + 20},
        {"groups": "risk"},
        {"groups": None},
        {"iat": "yesterday", "unknown": {"deep": [1]}},
    ],
)
def test_what_a_token_may_have(authenticator: Authenticator, claims: dict[str, Any]) -> None:
    """Several audiences, parts of a second, a clock 30 s ahead, one group, none, claims without a meaning."""
    assert isinstance(verdict(authenticator, KEY.token(**claims)), Principal)


def test_same_caller_is_one_object(authenticator: Authenticator) -> None:
    """Two tokens of one name and the same groups name one principal, which caches may use as a key."""
    first = verdict(authenticator, KEY.token(groups=["a", "b"]))

    assert verdict(authenticator, KEY.token(groups=["b", "a"], jti="2")) is first
    assert verdict(authenticator, KEY.token(groups=["b"])) is not first


def unsigned(algorithm: str) -> str:
    """Return a token without a signature."""
    header, payload, _ = KEY.token(header={"alg": algorithm}).split(".")
    return f"{header}.{payload}."


def changed() -> str:
    """Return a token whose claims were changed after it was signed."""
    header, _, signature = KEY.token().split(".")
    return f"{header}.{KEY.token(sub='admin').split('.')[1]}.{signature}"


HEADER = json.dumps({"alg": "ES256", "kid": KEY.kid}).encode()
REFUSED = {
    "expired": (KEY.token(exp=NOW), "the token has expired"),
    "expires long ago": (KEY.token(exp=0), "the token has expired"),
    "without an end": (KEY.token(exp=None), "does not say when it expires"),
    "not yet valid": (KEY.token(nbf=NOW + 90), "not valid yet"),
    "of another issuer": (KEY.token(iss="https://id.example.com"), "of another issuer"),
    "of no issuer": (KEY.token(iss=None), "of another issuer"),
    "of issuers": (KEY.token(iss=["https://id.example.com/"]), "of another issuer"),
    "for another audience": (KEY.token(aud="prinz"), "for another audience"),
    "for no audience": (KEY.token(aud=None), "for another audience"),
    "for other audiences": (KEY.token(aud=["prinz", "prinz-enricher-2"]), "for another audience"),
    "audience in a table": (KEY.token(aud={AUDIENCE: 1}), "for another audience"),
    "end as a text": (KEY.token(exp="9999999999"), "claim exp is not a number"),
    "end as a truth": (KEY.token(exp=True), "claim exp is not a number"),
    "begin as a list": (KEY.token(nbf=[0]), "claim nbf is not a number"),
    "end of no number": (KEY.sign(HEADER, b'{"exp": NaN}'), "claim exp is not a number"),
    "endless": (KEY.sign(HEADER, b'{"exp": Infinity}'), "claim exp is not a number"),
    "end beyond all numbers": (KEY.sign(HEADER, b'{"exp": 1' + b"0" * 400 + b"}"), "claim exp is not a number"),
    "without a name": (KEY.token(sub=None), "the caller's name, is not"),
    "an empty name": (KEY.token(sub=""), "the caller's name, is not"),
    "a name of lines": (KEY.token(sub="a\nb"), "the caller's name, is not"),
    "a long name": (KEY.token(sub="a" * 257), "the caller's name, is not"),
    "a number as a name": (KEY.token(sub=7), "the caller's name, is not"),
    "groups as a number": (KEY.token(groups=7), 'claim "groups" is not a list'),
    "groups of numbers": (KEY.token(groups=["a", 7]), 'claim "groups" is not a list'),
    "alg none": (unsigned("none"), "algorithm is not allowed"),
    "alg None": (unsigned("None"), "algorithm is not allowed"),
    "no alg": (KEY.token(header={"alg": None}), "algorithm is not allowed"),
    "alg as a list": (KEY.token(header={"alg": ["ES256"]}), "algorithm is not allowed"),
    "HS256 by the public key": (KEYS["RS256"].token_by_public_key(), "algorithm is not allowed"),
    "another key of the same id": (OTHER.token(), "signature is wrong"),
    "no signature": (unsigned("ES256"), "signature is wrong"),
    "changed": (changed(), "signature is wrong"),
    "algorithm of another key": (KEY.token(header={"alg": "RS256"}), "an unknown key"),
    "unknown key": (SigningKey("other").token(), "an unknown key"),
    "no key": (KEY.token(header={"kid": None}), "does not say which key"),
    "key id as a number": (KEY.token(header={"kid": 7}), "does not say which key"),
    "brings its key": (OTHER.token(header={"jwk": OTHER.jwk()}), "signature is wrong"),
    "brings a URL": (
        OTHER.token(header={"jku": "https://evil.example.com", "x5u": "https://evil"}),
        "signature is wrong",
    ),
    "an extension": (KEY.token(header={"crit": ["b64"], "b64": False}), "extension that is not supported"),
    "an empty extension": (KEY.token(header={"crit": []}), "extension that is not supported"),
    "no JWT": ("hunter2-hunter2", "neither a known one nor a well-formed JWT"),
    "two parts": (KEY.token().rpartition(".")[0], "neither a known one nor a well-formed JWT"),
    "four parts": (f"{KEY.token()}.x", "neither a known one nor a well-formed JWT"),
    "padded": (f"{KEY.token()}==", "neither a known one nor a well-formed JWT"),
    "a list of claims": (KEY.sign(HEADER, b"[]"), "neither a known one nor a well-formed JWT"),
    "no JSON": (KEY.sign(b"\xff{", b"{}"), "neither a known one nor a well-formed JWT"),
    "a deep header": (KEY.sign(b"[" * 5_000, b"{}"), "neither a known one nor a well-formed JWT"),
    "deep claims": (KEY.sign(HEADER, b'{"a":' * 1_000), "neither a known one nor a well-formed JWT"),
    "a bad length of base64": (f"{KEY.token().split('.')[0]}.aaaaa.a", "neither a known one nor a well-formed JWT"),
    "too long": (KEY.token(claim="x" * 9_000), "longer than 8192 bytes"),
    "empty": ("", 'is not "Bearer <token>"'),
    "not ASCII": ("hünter2", 'is not "Bearer <token>"'),
    "half a character": ("hunter2\udcff", 'is not "Bearer <token>"'),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_wrong_token(authenticator: Authenticator, kind: str) -> None:
    """Each is refused with its reason; neither message nor log nor traceback has a part of it."""
    token, why = REFUSED[kind]
    with structlog.testing.capture_logs() as logs:
        found = verdict(authenticator, token)

    assert isinstance(found, TokenInvalid)
    assert why in found.message
    assert (found.__traceback__, found.__context__) == (None, None)
    shown = f"{found} {found!r} {found.metadata} {authenticator!r} {logs}"
    assert not [part for part in token.split(".") if len(part) > 6 and part in shown]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([URL, AUDIENCE, NOW]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
CLAIMS = st.fixed_dictionaries({}, optional=dict.fromkeys(("iss", "aud", "exp", "nbf", "sub", "groups"), VALUES))


@given(CLAIMS, st.fixed_dictionaries({}, optional=dict.fromkeys(("alg", "kid", "crit", "typ"), VALUES)))
def test_any_claims(authenticator: Authenticator, claims: dict[str, Any], header: dict[str, Any]) -> None:
    """Whatever JSON a token's parts are, there is a verdict; a good one needs the right issuer, audience and time."""
    good: dict[str, Any] = {"iss": URL, "aud": AUDIENCE, "exp": NOW + 60, "sub": "nk"} | claims
    fields = {"alg": "ES256", "kid": KEY.kid} | header

    found = verdict(authenticator, KEY.sign(json.dumps(fields).encode(), json.dumps(good).encode()))

    if isinstance(found, Principal):
        assert (good["iss"], fields["alg"], fields["kid"]) == (URL, "ES256", KEY.kid)
        assert AUDIENCE in (good["aud"] if isinstance(good["aud"], list) else [good["aud"]])
        assert good["exp"] > NOW
        assert found.name == good["sub"]


@given(st.text(max_size=30) | st.text("abAB01-_.= ", max_size=30).map(lambda text: f"Bearer {text}"))
def test_any_text(authenticator: Authenticator, text: str) -> None:
    """Whatever stands in the metadata is refused, and no exception comes of it."""
    for found in (authenticator.known(text, None), authenticator.verify(text, None)):
        assert isinstance(found, UnauthenticatedError)


def test_verdict_ends_with_the_token(tmp_path: Path) -> None:
    """A token that was accepted is refused when it has expired, though its verdict was remembered."""
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(KEY))
    clock = [NOW]
    authenticator = Authenticator(AuthSettings(jwt=jwt_settings(file)), clock=lambda: clock[0])
    token = KEY.token(exp=NOW + 60)
    assert isinstance(verdict(authenticator, token), Principal)
    clock[0] = NOW + 59.9
    assert isinstance(verdict(authenticator, token), Principal)
    clock[0] = NOW + 60
    assert "has expired" in str(verdict(authenticator, token))
    assert authenticator.failures() == {"TOKEN_MISSING": 0, "TOKEN_INVALID": 2}
    authenticator.close()


def test_claims_of_other_names(tmp_path: Path) -> None:
    """The settings say which claims hold the name and the groups."""
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(KEY))
    settings = jwt_settings(file, principal_claim="client_id", groups_claim="roles")
    authenticator = Authenticator(AuthSettings(jwt=settings))
    found = verdict(authenticator, KEY.token(client_id="nk", roles=["risk"], sub=None, groups=3))
    assert isinstance(found, Principal)
    assert (found.name, found.groups) == ("nk", ("risk",))
    authenticator.close()


def test_key_that_was_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of a key that its issuer took back is refused, though it was accepted; the new key counts at once."""
    monkeypatch.setattr(watched_files, "LOOK_SECONDS", 0.01)
    file = tmp_path / "jwks.json"
    file.write_bytes(jwks(KEY))
    authenticator = Authenticator(AuthSettings(jwt=jwt_settings(file)))
    old, new = KEY.token(), OTHER.token()
    assert isinstance(verdict(authenticator, old), Principal)
    assert "signature is wrong" in str(verdict(authenticator, new))

    file.write_bytes(jwks(OTHER))
    wait_until(lambda: isinstance(authenticator.verify(f"Bearer {new}", None), Principal))

    assert "signature is wrong" in str(verdict(authenticator, old))
    authenticator.close()


def test_keys_are_exchanged_under_many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While four threads call and the JWKS is exchanged twenty times, a token whose key stays is never refused."""
    monkeypatch.setattr(watched_files, "LOOK_SECONDS", 0.005)
    file, new = tmp_path / "jwks.json", tmp_path / "new"
    file.write_bytes(jwks(KEY))
    authenticator = Authenticator(AuthSettings(jwt=jwt_settings(file)))
    token, ended = KEY.token(), threading.Event()
    refused: list[object] = []

    def call() -> None:
        while not ended.wait(0.001):
            found = authenticator.known(f"Bearer {token}", None) or authenticator.verify(f"Bearer {token}", None)
            if not isinstance(found, Principal):
                refused.append(found)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for number in range(20):
            other = SigningKey(f"other-{number}")
            shown = f"Bearer {other.token()}"
            new.write_bytes(jwks(other, KEY))
            new.replace(file)
            wait_until(lambda shown=shown: isinstance(authenticator.verify(shown, None), Principal))  # type: ignore[misc]
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        authenticator.close()
    assert not refused
    assert authenticator.reload_failures() == {"jwks": 0}


def test_forged_tokens_drive_out_no_good_one(authenticator: Authenticator) -> None:
    """A good token is still known after more forged ones than are remembered."""
    good = KEY.token(jti="good")
    assert isinstance(verdict(authenticator, good), Principal)
    forged, _, _ = KEY.token().rpartition(".")
    for number in range(1_500):
        authenticator.verify(f"Bearer {forged}.{encode(number.to_bytes(64))}", None)
    assert isinstance(authenticator.known(f"Bearer {good}", None), Principal)
